"""The rows of `benchmarks.eight_bits` as a table and a plot: each way's difference to float32."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.eight_bits_ways import WAYS
from benchmarks.figures import table as markdown
from benchmarks.rows import RESULTS
from lacos_st.canvas import COLOURS, new_canvas, write_canvas

PICTURE = RESULTS / "eight_bits.png"
TARGET = 0.1
"""Points of Spearman x100 that 8 bits may cost at block 256."""

LINEAR_UP_TO = 0.5
"""Points up to which the plot's axis is linear; beyond, a factor is a length."""

TICKS = (-50, -20, -10, -5, -2, -1, -0.5, -0.2, -0.1, 0, 0.1, 0.2, 0.5, 1, 2, 5, 10)

ENGLISH = frozenset(("STS12", "STS13", "STS14", "STS15", "STS16", "STSBenchmark", "SICK-R"))
Rows = Sequence[dict[str, Any]]


def columns(rows: Rows) -> list[str]:
    """The models of the rows, in their order."""
    return list(dict.fromkeys(row["model"] for row in rows))


def current(rows: Rows, model: str) -> list[dict[str, Any]]:
    """The rows of a model's newest weights, and for each task of its newest pairs: others do not compare."""
    of_model = [row for row in rows if row["model"] == model]
    mine = [row for row in of_model if _weights(row) == _weights(of_model[-1])]
    newest = {row["task"]: row["pairs_sha256"] for row in mine}
    return [row for row in mine if row["pairs_sha256"] == newest[row["task"]]]


def _weights(row: dict[str, Any]) -> tuple[str, str]:
    return row["identity"], row["base_sha256"]


def differences(rows: Rows, model: str, *, figure: str = "max") -> dict[str, dict[str, float]]:
    """By way and task, its score less that of float32 on the same weights; only what was measured in both."""
    scored = {(row["way"], row["task"]): row[figure] for row in current(rows, model) if figure in row}
    return {
        way: {
            task: score - scored["float32", task]
            for (name, task), score in scored.items()
            if name == way and ("float32", task) in scored
        }
        for way in WAYS
    }


def table(rows: Rows) -> str:
    """Markdown: a table for each model; tasks as columns, float32 as scores and all else as differences to it."""
    return "\n\n".join(_of_model(rows, model) for model in columns(rows)) or "no rows yet"


def _of_model(rows: Rows, model: str) -> str:
    mine = current(rows, model)
    found, cosines = differences(rows, model), differences(rows, model, figure="cosine")
    tasks = list(dict.fromkeys(row["task"] for row in mine))
    scores = {row["task"]: row["max"] for row in mine if row["way"] == "float32" and "max" in row}
    lines = []
    for way, kind in WAYS.items():
        of_way = [row for row in mine if row["way"] == way]
        if not of_way:
            continue
        if reason := next((row["failed"] for row in of_way if "failed" in row), None):
            lines.append([kind.label, "-", "-", f"does not run: {reason}", *["-"] * (len(tasks) + 1)])
            continue
        row = of_way[-1]
        cells = [
            f"{found[way][task]:+.2f} ({cosines[way][task]:+.2f})" if task in found[way] else "-" for task in tasks
        ]
        mean = _mean(found[way], tasks)
        if way == "float32":
            cells = [f"{scores[task]:.2f}" if task in scores else "-" for task in tasks]
            mean = f"{fmean(scores.values()):.2f}" if len(scores) == len(tasks) else "-"
        drift = f"{100 * row['embedding_drift']:.2f} %"
        lines.append([label(row), f"{row['stored_bytes'] / 2**20:.1f}", drift, mean, *cells])
    average = "STS-Avg" if set(tasks) == ENGLISH else "mean"
    head = ["weights", "MiB", "embeddings differ by", average, *tasks]
    return (
        f"{model}: Spearman x100, max of four (cosine); below the first line: less float32\n\n{markdown(head, lines)}"
    )


def _mean(found: dict[str, float], tasks: Sequence[str]) -> str:
    return f"{fmean(found.values()):+.3f}" if len(found) == len(tasks) else "-"


def label(row: dict[str, Any]) -> str:
    """A way with the block that it took, and for "auto" how many tensors got which code."""
    way = WAYS[row["way"]]
    text = way.label
    if row["block_size"] is not None and row["block_size"] != way.block_size:
        text += f": {row['block_size']} here, the largest that fits"
    if way.code == "auto":
        text += " (" + ", ".join(f"{count} {code}" for code, count in row["tensors"].items()) + ")"
    return text


def plot(rows: Rows, path: Path) -> None:
    """Mean difference to float32 over the tasks that were measured in a way, as bars with each task as a line.

    A model without another way than float32 has nothing to compare, and no panel.
    """
    compared = {model: _compared(rows, model) for model in columns(rows)}
    compared = {model: found for model, found in compared.items() if found}
    canvas = new_canvas(9.0, 1.2 + 2.6 * max(1, len(compared)))
    all_axes = canvas.subplots(max(1, len(compared)), 1, squeeze=False)[:, 0]
    for axes, (model, found), colour in zip(all_axes, compared.items(), [*COLOURS] * len(compared), strict=False):
        for place, gaps in enumerate(found.values()):
            axes.bar(place, fmean(gaps.values()), width=0.7, color=colour, alpha=0.5)
            axes.plot([place] * len(gaps), list(gaps.values()), "_", color="black", markersize=9)
        axes.axhspan(-TARGET, TARGET, color="0.85", zorder=0)
        axes.axhline(0, color="black", linewidth=0.8)
        tasks = len({task for gaps in found.values() for task in gaps})
        names = [way if len(gaps) == tasks else f"{way} ({len(gaps)} of {tasks})" for way, gaps in found.items()]
        axes.set_xticks(range(len(found)), names, rotation=20, ha="right", fontsize=8)
        axes.set_xlim(-0.6, max(map(len, compared.values())) - 0.4)  # bars of one width in all panels
        axes.set_yscale("symlog", linthresh=LINEAR_UP_TO)
        low, high = axes.get_ylim()
        axes.set_yticks([tick for tick in TICKS if low <= tick <= high])
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_yticks([], minor=True)
        axes.set_title(f"{model}, {tasks} task" + "s" * (tasks != 1), fontsize=10)
        axes.set_ylabel("less float32", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    canvas.suptitle("Spearman x100, max of four: bars means, lines tasks; grey: 0.1 either way", fontsize=10)
    write_canvas(canvas, path)


def _compared(rows: Rows, model: str) -> dict[str, dict[str, float]]:
    return {way: gaps for way, gaps in differences(rows, model).items() if gaps and way != "float32"}
