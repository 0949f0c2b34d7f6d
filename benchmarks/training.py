"""A training step, ours and stock: seconds, useful GFLOP/s, and the share of plain matrix products' rate.

    python -m benchmarks.training [--quick] [--ways stock ours-8bit ...] [--repetitions 3] [--pairs 2000]

One batch of 64 pairs, again and again: of all batches the one whose stock padding is the median. Then --pairs pairs in
their random order, each batch once, for three of the ways: a quarter of an hour on two cores; --pairs 0 leaves it out.
A step is forward of both columns, stock MultipleNegativesRankingLoss, backward, clipping and optimiser, as the way's
own trainer does it; collating (which pads) comes before.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from benchmarks import ceiling, contenders, lengths, rows, synthetic
from benchmarks.contest import Contender, OtherWork, turns
from benchmarks.figures import compare, rates_table, spread
from benchmarks.synthetic import Shape
from benchmarks.ways import TRAINED, report_failures
from lacos_st.recipe.cost import useful_flops
from lacos_st.recipe.shapes import shape_of
from lacos_st.trainer import LacosTrainer

BATCH = 64
CHECK_PAIRS = 8
QUICK_PAIRS = 128
RANDOM_ORDER_WAYS = ("stock", "ours-8bit", "ours-float")


class Training:
    """One way's trainer, in its process.

    Args:
        way: of `ways.WAYS`, or the reference.
        folder: of the checkpoint.
        words: of `Shape`.
    """

    def __init__(self, way: str, *, folder: str, words: int) -> None:
        self.model = contenders.build(way, folder)
        self.pairs = lengths.texts(lengths.read(), words=words)
        self.output = tempfile.TemporaryDirectory()
        ours = way.startswith("ours")
        self.trainer = (LacosTrainer if ours else SentenceTransformerTrainer)(
            model=self.model,
            args=SentenceTransformerTrainingArguments(
                output_dir=self.output.name,
                use_cpu=True,
                per_device_train_batch_size=BATCH,
                optim="adamw_bnb_8bit" if ours else "adamw_torch",
                learning_rate=1e-4,
                report_to="none",
            ),
            loss=MultipleNegativesRankingLoss(self.model),
        )
        self.trainer.current_gradient_accumulation_steps = 1  # `train` would set it before the first step
        self.optimizer = self.trainer.create_optimizer()

    def _collate(self, batch: list[int]) -> dict[str, Any]:
        collator = self.trainer.data_collator
        assert collator is not None
        return collator([dict(zip(("anchor", "positive"), self.pairs[place], strict=True)) for place in batch])

    def check(self) -> dict[str, Any]:
        """Embeddings, loss and gradients of a small batch; also the warm-up."""
        batch = list(range(CHECK_PAIRS))
        texts = [text for place in batch for text in self.pairs[place]]
        self.model.train()  # in eval mode bitsandbytes would pack NF4 weights in a form that cannot be trained
        with torch.no_grad():
            embeddings = self.model(self.model.preprocess(texts))["sentence_embedding"].float()
        loss = self.trainer.training_step(self.model, self._collate(batch))
        gradients = contenders.gradient_sketch(self.model)
        self._update()
        return {"embeddings": embeddings.tolist(), "loss": float(loss), "gradients": gradients}

    def repeat(self, batch: list[int]) -> dict[str, Any]:
        """One step on the pairs at these places."""
        inputs = self._collate(batch)
        gc.collect()
        start = time.perf_counter()
        loss = self.trainer.training_step(self.model, inputs)
        self._update()
        return {"seconds": time.perf_counter() - start, "loss": float(loss)}

    def _update(self) -> None:
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.trainer.accelerator.clip_grad_norm_(trained, self.trainer.args.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()


def padding(pairs: list[lengths.Pair]) -> float:
    """Padded tokens over real ones, when each column is padded to its longest sentence."""
    padded = sum(len(pairs) * max(pair[column].tokens for pair in pairs) for column in (0, 1))
    return padded / sum(lengths.tokens(pairs))


def typical_batch(pairs: list[lengths.Pair]) -> list[int]:
    """Places of the batch of 64 whose padding is the median of all whole batches."""
    batches = [list(range(start, start + BATCH)) for start in range(0, len(pairs) - BATCH + 1, BATCH)]
    batches.sort(key=lambda batch: padding([pairs[place] for place in batch]))
    return batches[len(batches) // 2]


def contest(
    alive: Sequence[Contender], products: Contender, batches: list[list[int]], *, shape: Shape
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Each contender, and the plain products, on every batch in turn.

    Returns:
        By name seconds, useful GFLOP/s, how many times as fast as stock, share of the ceiling, each with its spread;
        and the batches' sizes and the ceiling.
    """
    pairs = lengths.read()
    chosen = [[pairs[place] for place in batch] for batch in batches]
    tokens = [sum(lengths.tokens(batch)) for batch in chosen]
    model = shape_of(shape.config)
    flops = [useful_flops(model, lengths.tokens(batch), rank=contenders.RANK, training=True) for batch in chosen]
    programs = {contender: [{"do": "repeat", "batch": batch} for batch in batches] for contender in alive}
    programs[products] = [{"do": "repeat", "batches": [count]} for count in tokens]
    with OtherWork(programs) as others:
        answers = turns(programs)
    form, highest = ceiling.fastest(answers.pop(products.name))
    seconds = {name: [answer["seconds"] for answer in found] for name, found in answers.items()}
    figures = compare(seconds, flops, highest)
    sizes = {
        "batches": len(batches),
        "pairs": sum(map(len, batches)),
        "real_tokens_a_batch": round(sum(tokens) / len(batches), 1),
        "padded_over_real": round(sum(padding(b) * t for b, t in zip(chosen, tokens, strict=True)) / sum(tokens), 2),
        "useful_tflop": round(sum(flops) / 1e12, 4),
        "other_work_cores": others.cores,
        "ceiling": {"form": form, "gflops": spread(highest)},
    }
    return figures, sizes


def report(title: str, figures: dict[str, dict[str, Any]], sizes: dict[str, Any]) -> None:
    """Print one contest."""
    print(
        f"\n{title}; {sizes['real_tokens_a_batch']:.0f} tokens a batch, {sizes['padded_over_real']} times that padded\n"
    )
    limit = sizes["ceiling"]
    print(rates_table(figures, form=limit["form"], highest=limit["gflops"], what="a step"))
    print(f"\nCores kept busy by other programs meanwhile: {sizes['other_work_cores']}", flush=True)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the contests, print the tables, append the row and return it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small model, in seconds")
    parser.add_argument("--ways", nargs="+", choices=TRAINED, default=TRAINED)
    parser.add_argument("--repetitions", type=int, default=3, help="of the typical batch (default: 3)")
    parser.add_argument("--pairs", type=int, help=f"in random order (default: 2000, quick {QUICK_PAIRS}; 0: none)")
    options = parser.parse_args(arguments)
    shape = synthetic.QUICK if options.quick else synthetic.FULL
    pairs = lengths.read()
    count = (QUICK_PAIRS if options.quick else len(pairs)) if options.pairs is None else options.pairs
    if not 0 <= count <= len(pairs):
        parser.error(f"--pairs {count}: the recorded lengths are of {len(pairs)} pairs")
    row: dict[str, Any] = {"quick": options.quick, "shape": asdict(shape)}
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        synthetic.write(Path(folder), shape)
        alive, checks = contenders.line_up(
            stack, "benchmarks.training:Training", options.ways, folder=folder, words=shape.words
        )
        row["checks"] = checks
        products = stack.enter_context(
            Contender("ceiling", "benchmarks.ceiling:Ceiling", shape=asdict(shape), training=True)
        )
        products.ask("repeat", batches=[BATCH])  # the warm-up
        row["typical_batch"], row["typical_batch_sizes"] = contest(
            alive, products, [typical_batch(pairs)] * options.repetitions, shape=shape
        )
        title = f"One batch of {BATCH} pairs, {options.repetitions} times"
        report(title, row["typical_batch"], row["typical_batch_sizes"])
        if count:
            batches = [list(range(start, min(start + BATCH, count))) for start in range(0, count, BATCH)]
            some = [contender for contender in alive if contender.name in RANDOM_ORDER_WAYS]
            row["random_order"], row["random_order_sizes"] = contest(some, products, batches, shape=shape)
            title = f"{count} pairs in random order, batches of {BATCH}"
            report(title, row["random_order"], row["random_order_sizes"])
    report_failures(checks)
    return rows.append("training", **row)


if __name__ == "__main__":
    main()
