"""Bars of several models' scores side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lacos_st.canvas import COLOURS, check_suffix, new_canvas, write_canvas
from lacos_st.errors import UserError
from lacos_st.report import AVERAGES, Figure, Results

_GAP = 0.6  # between the tasks and their averages, in widths of a task


def plot_scores(results: Results, path: str | Path, *, figure: Figure = "max") -> None:
    """Draw Spearman x100 per task as grouped bars, one colour per model, the averages set apart on the right.

    Args:
        results: what `evaluation.evaluate` returned.
        path: where to write, a .png or .svg file; put in place when it is whole.
        figure: "max" over the four similarities, or "cosine".

    Raises:
        UserError: matplotlib is missing, there are more models than colours, or path is neither .png nor .svg.
    """
    path = Path(path)
    check_suffix(path)
    if len(results.models) > len(COLOURS):
        raise UserError(f"{len(results.models)} models in one plot: expected at most {len(COLOURS)}, plot some of them")
    labels, positions, heights = _bars(results, figure)
    canvas = new_canvas(max(6.0, 1.2 + (0.25 * len(results.models) + 0.15) * len(labels)), 4.5)
    _draw(canvas.subplots(), results, labels, positions, heights)
    title = "max over four similarities" if figure == "max" else "cosine similarity"
    canvas.suptitle(f"Spearman correlation with graded scores x100, {title}", fontsize=11)
    write_canvas(canvas, path)


def _bars(results: Results, figure: Figure) -> tuple[list[str], list[float], list[list[float]]]:
    """Return labels and x positions of the groups, and per model its heights."""
    labels = [task.task for task in results.models[0].tasks]
    heights = [[task.figure(figure) for task in model.tasks] for model in results.models]
    positions = [float(index) for index in range(len(labels))]
    for label, group in AVERAGES:
        averages = [model.average(group, figure=figure) for model in results.models]
        for height, average in zip(heights, averages, strict=True):
            height += [] if average is None else [average]
        if averages[0] is not None:
            positions.append(positions[-1] + 1 + (_GAP if len(positions) == len(results.models[0].tasks) else 0))
            labels.append(label)
    return labels, positions, heights


def _draw(axes: Any, results: Results, labels: list[str], positions: list[float], heights: list[list[float]]) -> None:
    width = 0.84 / len(results.models)
    for index, (model, values) in enumerate(zip(results.models, heights, strict=True)):
        shift = (index - (len(results.models) - 1) / 2) * width
        name = model.name + " (baseline)" * (model.name == results.baseline)
        bars = axes.bar([x + shift for x in positions], values, width * 0.94, label=name, color=COLOURS[index])
        axes.bar_label(bars, fmt="%.1f", rotation=90, padding=3, fontsize=8)
    tasks = len(results.models[0].tasks)
    if len(positions) > tasks:
        axes.axvline((positions[tasks - 1] + positions[tasks]) / 2, color="0.6", linewidth=0.8, linestyle="--")
    axes.set_xticks(positions, labels, rotation=30, ha="right", rotation_mode="anchor", fontsize=9)
    axes.set_xlim(positions[0] - 0.6, positions[-1] + 0.6)
    low = min(0.0, *(min(values) for values in heights))
    high = max(0.0, *(max(values) for values in heights))
    room = 0.16 * (high - low or 1.0)  # for the values above the bars
    axes.set_ylim(low - (room if low < 0 else 0.0), high + room)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_ylabel("Spearman x100")
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=min(3, len(results.models)), frameon=False)
