"""Figures with their spread: medians, ratios turn by turn, and the tables that show them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.ways import WAYS


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and greatest, to four significant digits."""
    figures = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: float(f"{value:.4g}") for name, value in figures.items()}


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Spread of theirs / ours, turn by turn: what the machine does meanwhile meets both."""
    return spread([b / a for a, b in zip(ours, theirs, strict=True)])


def show(value: dict[str, float] | None, *, unit: str = "", digits: int = 2) -> str:
    """A spread as "median (min-max)"."""
    if value is None:
        return "-"
    return f"{value['median']:.{digits}f}{unit} ({value['min']:.{digits}f}-{value['max']:.{digits}f})"


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    cells = [list(head), ["---"] * len(head), *(list(line) for line in lines)]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def compare(
    seconds: Mapping[str, Sequence[float]], flops: Sequence[float], highest: Sequence[float]
) -> dict[str, dict[str, Any]]:
    """What the ways' times say.

    Args:
        seconds: by way, of each turn; "stock" is among them.
        flops: useful ones of each turn.
        highest: GFLOP/s of the plain products, of each turn.
    """
    figures: dict[str, dict[str, Any]] = {}
    for name, values in seconds.items():
        gflops = [flop / value / 1e9 for flop, value in zip(flops, values, strict=True)]
        figures[name] = {
            "seconds": spread(values),
            "total_seconds": round(sum(values), 3),
            "useful_gflops": spread(gflops),
            "times_as_fast_as_stock": ratios(values, seconds["stock"]),
            "share_of_ceiling": ratios(highest, gflops),
        }
    if {"ours-8bit", "ours-float"} <= seconds.keys():
        figures["ours-8bit"]["time_over_float"] = ratios(seconds["ours-float"], seconds["ours-8bit"])
    return figures


def rates_table(figures: Mapping[str, dict[str, Any]], *, form: str, highest: dict[str, float], what: str) -> str:
    """The table of `compare`'s figures, with the plain products as its last line.

    Args:
        figures: of `compare`.
        form: of the products.
        highest: their GFLOP/s.
        what: was timed.
    """
    lines = [
        [
            WAYS[name].label,
            show(found["seconds"], unit=" s"),
            show(found["useful_gflops"], digits=1),
            show(found["times_as_fast_as_stock"], unit="x"),
            show(found["share_of_ceiling"]),
            show(found.get("time_over_float"), unit="x"),
        ]
        for name, found in figures.items()
    ]
    lines.append([f"ceiling (sgemm, {form})", "-", show(highest, digits=1), "-", "1", "-"])
    return table(["way", what, "useful GFLOP/s", "as fast as stock", "of the ceiling", "time over un-quantised"], lines)
