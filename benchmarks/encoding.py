"""`encode` of sentences of mixed length: seconds, useful GFLOP/s, and the share of plain matrix products' rate.

    python -m benchmarks.encoding [--quick] [--ways stock ours-8bit ...] [--repetitions 3] [--rank 0]

2,000 sentences of recorded NLI lengths, batches of 32, through stock `SentenceTransformer.encode`, which sorts by
characters. Without --rank there are no adapters: stock's could be merged into its weights.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import ceiling, contenders, lengths, rows, synthetic
from benchmarks.contest import Contender, OtherWork, turns
from benchmarks.figures import compare, rates_table, spread
from benchmarks.ways import TRAINED, report_failures
from lacos_st.recipe.cost import useful_flops
from lacos_st.recipe.shapes import shape_of

BATCH = 32
SENTENCES = 2000
QUICK_SENTENCES = 256
CHECK_SENTENCES = 24
CEILING_BATCHES = 16
"""Products of as many batches give the rate."""


class Encoding:
    """One way's model, in its process.

    Args:
        way: of `ways.WAYS`, or the reference.
        folder: of the checkpoint.
        words: of `Shape`.
        rank: of the adapters; 0 for none.
    """

    def __init__(self, way: str, *, folder: str, words: int, rank: int) -> None:
        self.model = contenders.build(way, folder, rank=rank)
        self.sentences = [text for pair in lengths.texts(lengths.read(), words=words) for text in pair]

    def check(self) -> dict[str, Any]:
        """Embeddings of a few sentences; also the warm-up."""
        embeddings = self.model.encode(self.sentences[:CHECK_SENTENCES], batch_size=BATCH, convert_to_tensor=True)
        return {"embeddings": embeddings.tolist()}

    def repeat(self, count: int) -> dict[str, Any]:
        """Encode the first `count` sentences."""
        start = time.perf_counter()
        self.model.encode(self.sentences[:count], batch_size=BATCH)
        return {"seconds": time.perf_counter() - start}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the contest, print the table, append the row and return it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small model and few sentences, in seconds")
    parser.add_argument("--ways", nargs="+", choices=TRAINED, default=TRAINED)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--rank", type=int, default=0, help="of the adapters (default: none)")
    options = parser.parse_args(arguments)
    shape = synthetic.QUICK if options.quick else synthetic.FULL
    count = QUICK_SENTENCES if options.quick else SENTENCES
    counts = [sentence.tokens for pair in lengths.read() for sentence in pair][:count]
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        synthetic.write(Path(folder), shape)
        alive, checks = contenders.line_up(
            stack,
            "benchmarks.encoding:Encoding",
            options.ways,
            folder=folder,
            words=shape.words,
            rank=options.rank,
        )
        products = stack.enter_context(
            Contender("ceiling", "benchmarks.ceiling:Ceiling", shape=asdict(shape), training=False)
        )
        products.ask("repeat", batches=[BATCH])  # the warm-up
        programs: dict[Contender, list[dict[str, Any]]] = {
            contender: [{"do": "repeat", "count": count}] * options.repetitions for contender in alive
        }
        typical = [sum(counts) * BATCH // count] * CEILING_BATCHES
        programs[products] = [{"do": "repeat", "batches": typical}] * options.repetitions
        with OtherWork(programs) as others:
            answers = turns(programs)
    form, highest = ceiling.fastest(answers.pop(products.name))
    flops = useful_flops(
        shape_of(shape.config), counts, method="lacos" if options.rank else "full", rank=options.rank or 4
    )
    seconds = {name: [answer["seconds"] for answer in found] for name, found in answers.items()}
    figures = compare(seconds, [flops] * options.repetitions, highest)
    limit = spread(highest)
    print(f"\n{count} sentences, {sum(counts)} tokens, batches of {BATCH}, {options.repetitions} times\n")
    print(rates_table(figures, form=form, highest=limit, what="encode"))
    print(f"\nCores kept busy by other programs meanwhile: {others.cores}")
    report_failures(checks)
    return rows.append(
        "encoding",
        quick=options.quick,
        shape=asdict(shape),
        rank=options.rank,
        sentences=count,
        real_tokens=sum(counts),
        useful_tflop=round(flops / 1e12, 4),
        other_work_cores=others.cores,
        ceiling={"form": form, "gflops": limit},
        checks=checks,
        ways=figures,
    )


if __name__ == "__main__":
    main()
