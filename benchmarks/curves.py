"""How time and memory of `encode` and of a training step grow: with model size, batch, sentence length and rank.

    python -m benchmarks.curves [--quick] [--output curves.png]

A BLOOM of random weights in 8 bits, LoRA on feed-forward layers and embedding, on the CPU. One axis is varied
at a time. Draws measured points and the line of the formula on logarithmic axes: useful FLOP (`recipe/cost.py`) at the
run's median rate, and bytes beside the weights (`recipe/memory.py`). Memory is the exact peak that Linux keeps (VmHWM)
above what stood before. Slopes are between an axis' middle and its end, where constant costs matter least.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import math
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

import lacos_st
from benchmarks import lengths, rows, synthetic
from benchmarks.contenders import fill_adapters_
from benchmarks.contest import PAUSE_SECONDS, Contender, preload
from benchmarks.figures import table
from benchmarks.synthetic import Shape
from lacos_st.recipe.cost import useful_flops
from lacos_st.recipe.job import Job
from lacos_st.recipe.memory import predict
from lacos_st.recipe.shapes import shape_of
from lacos_st.trainer import LacosTrainer

VOCABULARY = 4096
HEAD_DIM = 64
PICTURE = rows.RESULTS / "curves.png"
MIB = 2**20
TOLERANCE = 0.3
"""Of a slope, against the formula's: a point that is 25 % off at one end of a factor of two changes it by as much."""

KINDS = ("encode", "train")
QUANTITIES = ("seconds", "bytes")
COLOURS = {"encode": "#0072B2", "train": "#D55E00"}  # Okabe and Ito


@dataclass(frozen=True)
class Point:
    """What is measured: `batch` pairs in a training step, sentences in `encode`, of `length` tokens each."""

    hidden: int = 512
    layers: int = 4
    batch: int = 8
    length: int = 32
    rank: int = 4

    @property
    def shape(self) -> Shape:
        """Of the model."""
        return Shape(VOCABULARY, self.hidden, self.layers, self.hidden // HEAD_DIM)


@dataclass(frozen=True)
class Axis:
    """One thing that is varied.

    Attributes:
        name: for tables.
        field: of `Point`.
        base: the other fields.
        values: of the field, rising.
    """

    name: str
    field: str
    base: Point
    values: tuple[int, ...]

    @property
    def points(self) -> list[Point]:
        """The axis' points."""
        return [replace(self.base, **{self.field: value}) for value in self.values]


FULL = (
    Axis("parameters", "hidden", Point(), (256, 512, 1024, 2048)),
    Axis("batch", "batch", Point(), (2, 8, 32, 128)),
    Axis("length", "length", Point(batch=2), (32, 128, 512, 1024, 2048)),
    Axis("rank", "rank", Point(batch=16), (1, 4, 16, 64, 256)),
)
_SMALL = Point(hidden=256, layers=1, batch=2)
QUICK = (
    Axis("parameters", "hidden", _SMALL, (256, 512)),
    Axis("batch", "batch", _SMALL, (2, 8)),
    Axis("length", "length", _SMALL, (32, 256)),
    Axis("rank", "rank", _SMALL, (1, 16)),
)


class Probe:
    """An encoder and its trainer, in a process of their own.

    Args:
        folder: of the checkpoint.
        words: of `Shape`.
        rank: of the adapters.
    """

    def __init__(self, *, folder: str, words: int, rank: int) -> None:
        self.words = words
        self.model = lacos_st.encoder(folder, lora_rank=rank, device="cpu")
        fill_adapters_(self.model)
        self.output = tempfile.TemporaryDirectory()
        self.trainer = LacosTrainer(
            model=self.model,
            args=SentenceTransformerTrainingArguments(
                output_dir=self.output.name,
                use_cpu=True,
                optim="adamw_bnb_8bit",
                report_to="none",
            ),
            loss=MultipleNegativesRankingLoss(self.model),
        )
        self.trainer.current_gradient_accumulation_steps = 1  # `train` would set it before the first step
        self.optimizer = self.trainer.create_optimizer()
        self._encode(2, 8)
        self._train(2, 8)  # what the first step makes once: state, buffers of libraries

    def measure(self, kind: str, batch: int, length: int, repetitions: int) -> dict[str, Any]:
        """Median seconds of some runs, and peak bytes of the first."""
        run = self._encode if kind == "encode" else self._train
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # memory that was freed but kept would hide part of the peak
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # VmHWM from here on
        start = _status("VmRSS")
        first = run(batch, length)
        peak = _status("VmHWM") - start
        times = [run(batch, length) for _ in range(repetitions)]
        return {"seconds": statistics.median(times or [first]), "bytes": peak}

    def _texts(self, count: int, length: int) -> list[str]:
        generator = random.Random(0)
        size = lengths.Length(length, 0)
        return [lengths.text(size, words=self.words, generator=generator) for _ in range(count)]

    def _encode(self, batch: int, length: int) -> float:
        texts = self._texts(batch, length)
        self.model.eval()
        began = time.perf_counter()
        self.model.encode(texts, batch_size=batch, show_progress_bar=False)
        return time.perf_counter() - began

    def _train(self, batch: int, length: int) -> float:
        texts = self._texts(2 * batch, length)
        pairs = [{"anchor": a, "positive": b} for a, b in zip(texts[::2], texts[1::2], strict=True)]
        inputs = self.trainer.data_collator(pairs)
        self.model.train()
        began = time.perf_counter()
        self.trainer.training_step(self.model, inputs)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.perf_counter() - began


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def measure(axes: Sequence[Axis], repetitions: int) -> dict[Point, dict[str, dict[str, Any]]]:
    """Every point of the axes, by kind: one process for each model and rank."""
    preload("benchmarks.contenders", "lacos_st.trainer", "sentence_transformers.sentence_transformer.losses")
    points = sorted(
        {point for axis in axes for point in axis.points}, key=lambda p: (p.hidden, p.rank, p.batch, p.length)
    )
    found: dict[Point, dict[str, dict[str, Any]]] = {}
    for hidden, layers, rank in dict.fromkeys((p.hidden, p.layers, p.rank) for p in points):
        of_model = [p for p in points if (p.hidden, p.layers, p.rank) == (hidden, layers, rank)]
        shape = of_model[0].shape
        with tempfile.TemporaryDirectory() as folder:
            synthetic.write(Path(folder), shape)
            with Contender(
                f"{hidden}", "benchmarks.curves:Probe", folder=folder, words=shape.words, rank=rank
            ) as probe:
                for point in of_model:
                    time.sleep(PAUSE_SECONDS)
                    how = {"batch": point.batch, "length": point.length, "repetitions": repetitions}
                    found[point] = {kind: probe.ask("measure", kind=kind, **how) for kind in KINDS}
    return found


def formula(point: Point, kind: str) -> dict[str, float]:
    """Useful FLOP, and bytes beside the weights, adapters and optimiser."""
    shape = shape_of(point.shape.config)
    training = kind == "train"
    sentences = [point.length] * point.batch * (2 if training else 1)
    job = Job(
        method="lacos" if training else "encode",
        quantized=True,
        batch_size=point.batch,
        length=point.length,
        rank=point.rank,
    )
    moments = predict(shape, job).moments
    return {
        "flops": useful_flops(shape, sentences, training=training, rank=point.rank),
        "bytes": float(max(size for name, size in moments.items() if name != "loading")),
    }


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Of y over x on logarithmic axes, by least squares, from the middle of the axis on."""
    half = len(xs) // 2 - (len(xs) == 2)
    points = [(math.log(x), math.log(y)) for x, y in zip(xs[half:], ys[half:], strict=True)]
    mean_x, mean_y = (statistics.fmean(values) for values in zip(*points, strict=True))
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)


def curves(axes: Sequence[Axis], found: dict[Point, dict[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """One curve for each axis, kind and quantity: x, measured, formula, and both slopes."""
    rates = {
        kind: statistics.median(
            formula(point, kind)["flops"] / by_kind[kind]["seconds"] for point, by_kind in found.items()
        )
        for kind in KINDS
    }
    result = []
    for axis in axes:
        xs = [float(getattr(p, axis.field)) for p in axis.points]
        if axis.field == "hidden":
            xs = [float(shape_of(p.shape.config).without_embedding) for p in axis.points]
        for kind in KINDS:
            expected = [formula(point, kind) for point in axis.points]
            for quantity in QUANTITIES:
                ys = [float(found[point][kind][quantity]) for point in axis.points]
                line = [e["bytes"] if quantity == "bytes" else e["flops"] / rates[kind] for e in expected]
                result.append(
                    {
                        "axis": axis.name,
                        "kind": kind,
                        "quantity": quantity,
                        "x": xs,
                        "measured": [float(f"{y:.4g}") for y in ys],
                        "formula": [float(f"{y:.4g}") for y in line],
                        "slope": round(slope(xs, ys), 2),
                        "formula_slope": round(slope(xs, line), 2),
                    }
                )
    return result


def sentence(curve: dict[str, Any]) -> str:
    """Whether a curve grows as it should."""
    what = "time" if curve["quantity"] == "seconds" else "memory"
    where = f"from {curve['x'][len(curve['x']) // 2 - (len(curve['x']) == 2)]:.3g} to {curve['x'][-1]:.3g}"
    growth = f"{curve['axis']}^{curve['slope']:.2f} {where}"
    expected = f"the formula says {curve['formula_slope']:.2f}"
    excess = curve["slope"] - curve["formula_slope"]
    if abs(excess) <= TOLERANCE:
        verdict = "as it should"
    else:
        verdict = "FASTER than it should" if excess > 0 else "slower, as constant costs still count"
    return f"{curve['kind']}: {what} grows with {growth}; {expected}: {verdict}."


def draw(found: Sequence[dict[str, Any]], file: Path, *, title: str) -> None:
    """Measured points and the formula's lines, an axis a column, time above memory."""
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    axes = list(dict.fromkeys(curve["axis"] for curve in found))
    canvas = Figure(figsize=(3.6 * len(axes), 6.4), layout="constrained")
    panels = canvas.subplots(len(QUANTITIES), len(axes), squeeze=False, sharey="row")
    for curve in found:
        panel = panels[QUANTITIES.index(curve["quantity"])][axes.index(curve["axis"])]
        scale = MIB if curve["quantity"] == "bytes" else 1
        colour = COLOURS[curve["kind"]]
        label = "one step of B pairs" if curve["kind"] == "train" else "encode B sentences"
        panel.loglog(curve["x"], [y / scale for y in curve["formula"]], color=colour, linewidth=1, alpha=0.7)
        panel.loglog(curve["x"], [y / scale for y in curve["measured"]], "o", color=colour, label=label, markersize=5)
        panel.set_xlabel("parameters without embedding" if curve["axis"] == "parameters" else curve["axis"])
        panel.set_xticks(curve["x"], [f"{x / 1e6:.3g} M" if x >= 1e6 else f"{x:.0f}" for x in curve["x"]])
        panel.minorticks_off()
        panel.grid(visible=True, which="major", linewidth=0.4, alpha=0.5)
    panels[0][0].set_ylabel("seconds")
    panels[1][0].set_ylabel("MiB beside the weights")
    panels[0][0].legend(frameon=False, fontsize=8)
    canvas.suptitle(title, fontsize=10)
    file.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(file, dpi=120)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, draw, print the table and the sentences, append the row and return it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small models, in seconds; draws only where --output says")
    parser.add_argument("--output", type=Path, help="the picture; default: curves.png beside the results")
    options = parser.parse_args(arguments)
    axes = QUICK if options.quick else FULL
    found = curves(axes, measure(axes, repetitions=1 if options.quick else 2))
    output = options.output or (None if options.quick else PICTURE)
    if output is not None:
        threads = torch.get_num_threads()
        draw(found, output, title=f"Points: measured, {rows.device_name()}, {threads} thread(s). Lines: the formula.")
    head = ["axis", "kind", "quantity", "x", "measured", "formula", "slope", "formula's"]
    print(table(head, [_line(curve) for curve in found]), "", *map(sentence, found), sep="\n")
    return rows.append("curves", quick=options.quick, axes=[asdict(axis) for axis in axes], curves=found)


def _line(curve: dict[str, Any]) -> list[str]:
    scale, unit = (MIB, " MiB") if curve["quantity"] == "bytes" else (1, " s")
    ends = [f"{curve[name][0] / scale:.3g} .. {curve[name][-1] / scale:.3g}{unit}" for name in ("measured", "formula")]
    span = f"{curve['x'][0]:.3g} .. {curve['x'][-1]:.3g}"
    return [
        curve["axis"],
        curve["kind"],
        curve["quantity"],
        span,
        *ends,
        str(curve["slope"]),
        str(curve["formula_slope"]),
    ]


if __name__ == "__main__":
    main()
