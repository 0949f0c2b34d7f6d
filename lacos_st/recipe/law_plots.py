"""Plots of fitted laws: IsoFLOP curves, loss against size, and the frontier of each method."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lacos_st.canvas import COLOURS, new_canvas, write_canvas
from lacos_st.recipe.forms import Floats, FormName, Points
from lacos_st.recipe.isoflop import Parabola
from lacos_st.recipe.law import LEVEL
from lacos_st.recipe.law_curves import CURVE, interval_over_sizes, lowest, means, over_budgets, over_sizes
from lacos_st.recipe.law_file import Laws

METHOD_COLOURS = dict(zip(("full", "lora", "freeze", "bias", "lacos"), (*COLOURS[:4], COLOURS[5]), strict=True))
MARKERS = {"full": "o", "lora": "s", "freeze": "^", "bias": "v", "lacos": "D"}
COLUMNS = 3
PANEL = (4.0, 3.2)  # inches
"""Budgets rise from light to dark; the palette's own colours stand for methods."""


def plot_isoflops(laws: Laws, points: Mapping[str, Points], path: str | Path, *, form: FormName = "ND") -> None:
    """Loss against N, a panel per method and a colour per budget: measured, the parabola, its minimum, and the law.

    Args:
        laws: fitted.
        points: by method, of the best settings (`observe(runs, "ND")`).
        path: a .png or .svg file.
        form: of the law that is drawn.

    Raises:
        UserError: matplotlib is missing, or another suffix.
    """
    canvas, panels = _panels(len(laws.methods))
    budgets = sorted({budget for of in points.values() for budget in np.unique(of.budget_flops).tolist()})
    shades = dict(zip(budgets, _shades(len(budgets)), strict=True))
    for axes, method in zip(panels, laws.methods, strict=True):
        law = laws.law(method, form)
        for line in laws.isoflops[method].parabolas:
            colour = shades[line.budget_flops]
            sizes, losses = means(points[method].where(points[method].budget_flops == line.budget_flops))
            axes.plot(sizes, losses, "o", color=colour, markersize=4)  # over the seeds
            where = np.geomspace(sizes[0], sizes[-1], CURVE)
            axes.plot(where, over_sizes(law, where, line.budget_flops), "--", color=colour, linewidth=0.9)
            _draw_parabola(axes, line, colour)
        _finish(axes, method, "N, without token embedding", "held-out loss")
    handles = [_handle(color=shades[budget], label=f"{budget:.2g} FLOP") for budget in budgets]
    handles.append(_handle(color="0.3", label="measured", linestyle="", marker="o", markersize=4))
    handles += [_handle(color="0.3", label="parabola"), _handle(color="0.3", label="law", linestyle="--")]
    handles.append(_handle(color="0.3", label="minimum", linestyle="", marker="*"))
    _legend(canvas, handles, f"IsoFLOP lines of {laws.family}")
    write_canvas(canvas, Path(path))


def _draw_parabola(axes: Any, line: Parabola, colour: Any) -> None:
    if not np.isfinite(line.parameters):
        return
    fitted = np.geomspace(line.low, line.high, CURVE)
    axes.plot(fitted, line.curve(fitted), "-", color=colour, linewidth=1.4)
    if line.trusted:
        axes.plot(
            line.parameters, line.loss, "*", color=colour, markersize=11, markeredgecolor="black", markeredgewidth=0.6
        )


def plot_sizes(laws: Laws, points: Mapping[str, Points], path: str | Path, *, form: FormName = "ND") -> None:
    """Loss against N, a panel per budget and a colour per method: measured, and the law with its interval.

    See `plot_isoflops` for the arguments and what is raised.
    """
    budgets = sorted({budget for of in points.values() for budget in np.unique(of.budget_flops).tolist()})
    canvas, panels = _panels(len(budgets))
    for axes, budget in zip(panels, budgets, strict=True):
        for method in laws.methods:
            of_budget = points[method].where(points[method].budget_flops == budget)
            if not len(of_budget):
                continue
            law, colour = laws.law(method, form), METHOD_COLOURS[method]
            sizes, losses = means(of_budget)
            axes.plot(sizes, losses, MARKERS[method], color=colour, markersize=4)
            where = np.geomspace(law.fitted.parameters[0] / 2, law.fitted.parameters[1] * 2, CURVE)
            axes.plot(where, over_sizes(law, where, budget), "-", color=colour, linewidth=1.2)
            _band(axes, where, interval_over_sizes(law, where, budget), colour)
        _finish(axes, f"{budget:.2g} FLOP", "N, without token embedding", "held-out loss")
    _legend(canvas, _method_handles(laws), f"Loss against size, {laws.family}: law with {LEVEL:.0%} interval")
    write_canvas(canvas, Path(path))


def plot_frontier(
    laws: Laws,
    points: Mapping[str, Points],
    path: str | Path,
    *,
    form: FormName = "ND",
    budget_flops: float | None = None,
) -> None:
    """The lowest loss of each method against the budget: measured, and the law's with its interval.

    Args:
        laws: fitted.
        points: see `plot_isoflops`.
        path: a .png or .svg file.
        form: of the law that is drawn.
        budget_flops: to be marked; the law is drawn as far as that, dashed beyond the fitted budgets.

    Raises:
        UserError: see `plot_isoflops`; or the budget is beyond the range of a law.
    """
    canvas, (axes,) = _panels(1, width=6.5, height=4.6)
    for method in laws.methods:
        law, of, colour = laws.law(method, form), points[method], METHOD_COLOURS[method]
        axes.plot(*lowest(of), MARKERS[method], color=colour, markersize=5)
        low, high = law.fitted.budget_flops
        optima = over_budgets(law, budget_flops=budget_flops)
        where, losses = (np.array([getattr(each, name) for each in optima]) for name in ("budget_flops", "loss"))
        inside = (where >= low) & (where <= high)
        axes.plot(where, losses, "--", color=colour, linewidth=1.0)
        axes.plot(where[inside], losses[inside], "-", color=colour, linewidth=1.4)
        spans = np.array([[each.loss_low, each.loss_high] for each in optima]).T
        axes.fill_between(where, *spans, color=colour, alpha=0.15, linewidth=0)
    if budget_flops is not None:
        axes.axvline(budget_flops, color="black", linewidth=1.0, linestyle=":")
        axes.annotate(
            f" {budget_flops:.2g} FLOP",
            (budget_flops, 0.98),
            xycoords=("data", "axes fraction"),
            va="top",
            ha="right",
            rotation=90,
            fontsize=8,
        )
    _finish(axes, "", "training FLOP", "lowest held-out loss")
    _legend(
        canvas, _method_handles(laws), f"Frontier of {laws.family}: law with {LEVEL:.0%} interval, best measured size"
    )
    write_canvas(canvas, Path(path))


def _band(axes: Any, where: Floats, ends: Floats | None, colour: str) -> None:
    if ends is not None:
        axes.fill_between(where, *ends, color=colour, alpha=0.18, linewidth=0)


def _panels(count: int, *, width: float = PANEL[0], height: float = PANEL[1]) -> tuple[Any, list[Any]]:
    columns = min(COLUMNS, count)
    rows = -(-count // columns)
    canvas = new_canvas(width * columns, height * rows + 0.9)
    grid = canvas.subplots(rows, columns, squeeze=False).ravel().tolist()
    for unused in grid[count:]:
        unused.set_axis_off()
    return canvas, grid[:count]


def _shades(count: int) -> list[Any]:
    from matplotlib import colormaps

    return [colormaps["viridis_r"](0.12 + 0.88 * place / max(1, count - 1)) for place in range(count)]


def _finish(axes: Any, title: str, across: str, up: str) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)))
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(across, fontsize=9)
    axes.set_ylabel(up, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _handle(**style: Any) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], **style)


def _method_handles(laws: Laws) -> list[Any]:
    return [
        _handle(color=METHOD_COLOURS[name], marker=MARKERS[name], label=name, markersize=5) for name in laws.methods
    ]


def _legend(canvas: Any, handles: list[Any], title: str) -> None:
    canvas.suptitle(title, fontsize=11)
    canvas.legend(handles=handles, loc="outside lower center", ncols=min(6, len(handles)), frameon=False, fontsize=8)
