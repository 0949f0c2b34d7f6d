"""Lines over LoRA's rank, a panel for each subject: what grid and figure4 draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lacos_st.canvas import COLOURS, new_canvas, write_canvas

STYLES = ("-", "--", ":", "-.")  # with a marker each: more lines than colours are still told apart
MARKERS = ("o", "s", "^", "D")


@dataclass(frozen=True)
class Line:
    """A line.

    Attributes:
        name: in the legend.
        points: (rank, value) in the order of ranks; None where there is no value.
    """

    name: str
    points: tuple[tuple[float, float | None], ...]


@dataclass(frozen=True)
class Panel:
    """One subject's lines."""

    title: str
    lines: tuple[Line, ...]


def plot_lines(panels: Sequence[Panel], path: Path, *, title: str, ylabel: str = "validation loss") -> None:
    """Draw panels side by side over a logarithmic axis of ranks.

    Args:
        panels: at least one.
        path: of a .png or .svg file.
        title: above all panels.
        ylabel: what the values are.

    Raises:
        UserError: matplotlib is missing, or path is neither .png nor .svg.
    """
    canvas = new_canvas(max(6.0, 4.6 * len(panels)), 4.5)
    for axes, panel in zip(canvas.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw(axes, panel)
        axes.set_ylabel(ylabel)
    canvas.suptitle(title, fontsize=11)
    write_canvas(canvas, path)


def _draw(axes: Any, panel: Panel) -> None:
    ranks = sorted({rank for line in panel.lines for rank, _ in line.points})
    for index, line in enumerate(panel.lines):
        turn = index // len(COLOURS) % len(STYLES)
        values = [float("nan") if value is None else value for _, value in line.points]
        style = {"color": COLOURS[index % len(COLOURS)], "linestyle": STYLES[turn], "marker": MARKERS[turn]}
        axes.plot([rank for rank, _ in line.points], values, label=line.name, markersize=5, **style)
    axes.set_xscale("log", base=2)
    axes.set_xticks(ranks, [f"{rank:g}" for rank in ranks])
    axes.minorticks_off()
    axes.set_xlabel("LoRA rank")
    axes.set_title(panel.title, fontsize=10)
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
