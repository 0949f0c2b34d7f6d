"""Tables of what `benchmarks.gpu` found, and the targets, met or missed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.figures import table

LARGEST = "7b1"
CHECKPOINTING = "checkpointing"
ON_HOST = "checkpointing, embedding on the host"


@dataclass(frozen=True)
class Target:
    """One promise.

    Attributes:
        what: is promised, as text.
        limit: the figure that meets it.
        at_least: whether more is better.
        figure: of what was found; raises KeyError or TypeError where that is missing.
    """

    what: str
    limit: float
    at_least: bool
    figure: Callable[[Mapping[str, Any]], float]

    def verdict(self, found: Mapping[str, Any]) -> tuple[str, str]:
        """The figure and "met", "missed" or "not measured"."""
        try:
            value = float(self.figure(found))
        except (KeyError, TypeError):
            return "-", "not measured"
        met = value >= self.limit if self.at_least else value <= self.limit
        return f"{value:.2f}", "met" if met else "missed"


TARGETS = (
    Target(
        "GiB of GPU memory, 7b1, 64 pairs, checkpointing", 12, False, lambda f: f["memory"][CHECKPOINTING]["peak_gib"]
    ),
    Target("the same, token table on the host", 8, False, lambda f: f["memory"][ON_HOST]["peak_gib"]),
    Target(
        "useful FLOP/s of a 7b1 training step over the bf16 products' own rate",
        0.5,
        True,
        lambda f: f["ours-8bit"][LARGEST]["step_tflops"] / f["products"][LARGEST]["tflops"],
    ),
    Target(
        "7b1 training step: as fast as stock + load_in_8bit + peft",
        3,
        True,
        lambda f: f["stock-8bit"][LARGEST]["step_seconds"] / f["ours-8bit"][LARGEST]["step_seconds"],
    ),
    Target(
        "7b1 training step: time over our own, not quantised",
        1.1,
        False,
        lambda f: f["ours-8bit"][LARGEST]["step_seconds"] / f["ours-bf16"][LARGEST]["step_seconds"],
    ),
    Target(
        "float32 hidden states: relative difference from stock, x 1e5",
        1,
        False,
        lambda f: 1e5 * f["correctness"]["float32"]["difference"],
    ),
)
"""From the issue that this benchmark answers; the last is the encoder's own bar."""


def line(figures: Mapping[str, Any]) -> str:
    """A part's figures in short."""
    return json.dumps(figures, default=str)[:300]


def report(found: Mapping[str, Any], sizes: Sequence[str], labels: Mapping[str, str]) -> str:
    """All tables.

    Args:
        found: of `benchmarks.gpu.measure`.
        sizes: of the models.
        labels: of the ways, in the order of the table.
    """
    parts = [ways_table(found, size, labels) for size in sizes]
    parts += [
        lines_table(name, found.get(name, {})) for name in ("memory", "correctness", "attention", "dequantization")
    ]
    parts.append(targets_table(found))
    return "\n\n".join(parts)


def ways_table(found: Mapping[str, Any], size: str, labels: Mapping[str, str]) -> str:
    """One size: every way's step and encoding, against stock's 8 bits and the products' rate."""
    ceiling = found.get("products", {}).get(size, {}).get("tflops")
    stock = found.get("stock-8bit", {}).get(size, {}).get("step_seconds")
    lines = []
    for way, label in labels.items():
        part = found.get(way, {})
        figures = part.get(size, {"problem": part.get("problem", "not measured")})
        if "problem" in figures:
            lines.append([label, figures["problem"], *["-"] * 6])
            continue
        step, rate = figures["step_seconds"], figures["step_tflops"]
        lines.append(
            [
                label,
                f"{1e3 * step:.1f} ms",
                f"{rate:.1f}",
                "-" if not ceiling else f"{rate / ceiling:.2f}",
                "-" if not stock else f"{stock / step:.2f}x",
                _gib(figures),
                f"{figures['sentences_per_second']:.0f}",
                "-" if not ceiling else f"{figures['encode_tflops'] / ceiling:.2f}",
            ]
        )
    head = ["way", "training step", "useful TFLOP/s", "of the products'", "as fast as stock 8-bit", "peak GiB"]
    rate = "-" if not ceiling else f"{ceiling:.0f} TFLOP/s"
    title = f"BLOOM {size}, 64 pairs of NLI length; plain products of a batch's shapes: {rate}"
    return f"{title}\n\n{table([*head, 'sentences/s', 'of the products'], lines)}"


def _gib(figures: Mapping[str, Any]) -> str:
    return "-" if figures.get("peak_gib") is None else f"{figures['peak_gib']:.2f}"


def lines_table(name: str, figures: Mapping[str, Any]) -> str:
    """A part whose lines have figures of their own."""
    lines = []
    for key, value in figures.items():
        cells = value if isinstance(value, dict) else {"": value}
        shown = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in cells.items())
        lines.append([key, shown])
    return table([name, "figures"], lines or [["-", "not measured"]])


def targets_table(found: Mapping[str, Any]) -> str:
    """Every target, with the figure and whether it is met."""
    lines = []
    for target in TARGETS:
        bound = f"{'>=' if target.at_least else '<='} {target.limit:g}"
        lines.append([target.what, bound, *target.verdict(found)])
    return table(["target", "limit", "measured", ""], lines)
