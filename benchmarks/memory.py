"""Memory of a training step beyond the weights, and what a forward keeps for its backward.

    python -m benchmarks.memory [--quick] [--ways stock ours-8bit ...]

Each way in a fresh process. Its peak is of anonymous memory (what the process asks for itself) during one step of 64
pairs, above what stood after loading and one step of 8 pairs. What is kept is counted by
`torch.autograd.graph.saved_tensors_hooks`: each storage once, the model's own (weights, codes) left out, in bfloat16
without checkpointing; the difference between four and two layers gives bytes per token and layer.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import random
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import contenders, lengths, rows, synthetic
from benchmarks.contest import Contender
from benchmarks.figures import table
from benchmarks.lengths import Length
from benchmarks.loading import PeakMemory
from benchmarks.synthetic import Shape
from benchmarks.training import Training, padding, typical_batch
from benchmarks.ways import TRAINED, WAYS, report_failures

MIB = 2**20
DEPTHS = (2, 4)
SAVED_SENTENCES = 16
SAVED_LENGTH = Length(tokens=32, characters=128)
SAVED_VOCABULARY = 4096


class StepMemory(Training):
    """A way's trainer, in its process, that says what a step needs."""

    def peak(self, batch: list[int]) -> dict[str, Any]:
        """Peak bytes of one step on the pairs at these places, above what stood before."""
        inputs = self._collate(batch)
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # memory that was freed but kept would hide part of the peak
        with PeakMemory() as peak:
            loss = self.trainer.training_step(self.model, inputs)
            self._update()
        return {"bytes": peak.rise["anonymous"], "loss": float(loss)}


class Saved:
    """A way's model in bfloat16, in its process.

    Args:
        way: of `ways.WAYS`.
        folder: of the checkpoint.
        words: of `Shape`.
    """

    def __init__(self, way: str, *, folder: str, words: int) -> None:
        self.model = contenders.build(way, folder, dtype=torch.bfloat16).train()
        generator = random.Random(0)
        self.sentences = [lengths.text(SAVED_LENGTH, words=words, generator=generator) for _ in range(SAVED_SENTENCES)]

    def measure(self) -> dict[str, Any]:
        """Bytes that a forward of sentences of one length keeps."""
        own = {tensor.untyped_storage().data_ptr() for tensor in (*self.model.parameters(), *self.model.buffers())}
        kept: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        features = self.model.preprocess(self.sentences)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            embedded = self.model(features)["sentence_embedding"]
        total = sum(kept.values())
        embedded.float().sum().backward()  # what was kept lived until here, so no address was given out twice
        return {"bytes": total}


def peaks(names: Sequence[str], *, shape: Shape) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Peak bytes of a step by way; and the checks."""
    figures: dict[str, dict[str, Any]] = {}
    batch = typical_batch(lengths.read())
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        synthetic.write(Path(folder), shape)
        alive, checks = contenders.line_up(
            stack, "benchmarks.memory:StepMemory", names, folder=folder, words=shape.words
        )
        for contender in alive:
            figures[contender.name] = {"step_bytes": contender.ask("peak", batch=batch)["bytes"]}
            contender.close()
    for found in figures.values():
        found["of_stock"] = round(found["step_bytes"] / figures["stock"]["step_bytes"], 3)
    return figures, checks


def saved(names: Sequence[str], *, shape: Shape) -> dict[str, float]:
    """Bytes kept per token and layer, in units of the hidden size, by way."""
    kept: dict[str, list[int]] = {name: [] for name in names}
    for layers in DEPTHS:
        small = replace(shape, layers=layers, vocabulary=SAVED_VOCABULARY)
        with tempfile.TemporaryDirectory() as folder:
            synthetic.write(Path(folder), small)
            for name in names:
                with Contender(name, "benchmarks.memory:Saved", way=name, folder=folder, words=small.words) as child:
                    kept[name].append(child.ask("measure")["bytes"])
    unit = (DEPTHS[1] - DEPTHS[0]) * SAVED_SENTENCES * SAVED_LENGTH.tokens * shape.hidden
    return {name: round((few_more[1] - few_more[0]) / unit, 2) for name, few_more in kept.items()}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print the table, append the row and return it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small model, in seconds")
    parser.add_argument("--ways", nargs="+", choices=TRAINED, default=TRAINED)
    options = parser.parse_args(arguments)
    shape = synthetic.QUICK if options.quick else synthetic.FULL
    figures, checks = peaks(options.ways, shape=shape)
    for name, kept in saved(list(figures), shape=shape).items():
        figures[name]["saved_bytes_over_hidden"] = kept
    pairs = lengths.read()
    batch = [pairs[place] for place in typical_batch(pairs)]
    tokens = sum(lengths.tokens(batch))
    print(f"\n{len(batch)} pairs, {tokens} tokens, {padding(batch):.2f} times that with padding\n")
    lines = [
        [
            WAYS[name].label,
            f"{found['step_bytes'] / MIB:.0f} MiB",
            f"{found['of_stock']:.2f}",
            f"{found['saved_bytes_over_hidden']:.1f}h",
        ]
        for name, found in figures.items()
    ]
    print(table(["way", "peak of a step", "of stock's", "saved for backward, bf16, per token and layer"], lines))
    report_failures(checks)
    return rows.append(
        "memory",
        quick=options.quick,
        shape=asdict(shape),
        pairs=len(batch),
        real_tokens=tokens,
        padded_over_real=round(padding(batch), 2),
        checks=checks,
        ways=figures,
    )


if __name__ == "__main__":
    main()
