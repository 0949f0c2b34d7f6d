"""Plots of a plan: the expected loss of every configuration, and the fitted laws with the budget marked."""

from __future__ import annotations

import math
from pathlib import Path

from lacos_st.canvas import new_canvas, write_canvas
from lacos_st.errors import UserError
from lacos_st.recipe.estimate import observe
from lacos_st.recipe.law import LEVEL
from lacos_st.recipe.law_file import Laws
from lacos_st.recipe.law_plots import MARKERS, METHOD_COLOURS, plot_frontier, plot_isoflops
from lacos_st.recipe.plan import Plan
from lacos_st.recipe.runs_table import Run
from lacos_st.recipe.units import show_flops

CHOICES, ISOFLOPS, FRONTIER = "choices.png", "isoflops.png", "frontier.png"


def plot_plan(plan: Plan, laws: Laws, runs: dict[str, list[Run]], folder: Path) -> list[Path]:
    """Write the plots, and return their files.

    Args:
        plan: by these laws.
        laws: fitted.
        runs: that they were fitted on, by method; none: only the configurations are drawn.
        folder: for choices.png, isoflops.png and frontier.png.

    Raises:
        UserError: matplotlib is missing; or the budget is too far from the fitted ones to be drawn among them.
    """
    plot_choices(plan, folder / CHOICES)
    if not runs:
        return [folder / CHOICES]
    points = {method: observe(of_method, "ND") for method, of_method in runs.items()}
    form = laws.laws[0].form
    plot_isoflops(laws, points, folder / ISOFLOPS, form=form)
    plot_frontier(laws, points, folder / FRONTIER, form=form, budget_flops=plan.best.bill.flops.paper)
    return [folder / name for name in (CHOICES, ISOFLOPS, FRONTIER)]


def plot_choices(plan: Plan, path: Path) -> None:
    """Expected loss against N, a line per method with its intervals; the plan is starred.

    Raises:
        UserError: no loss is expected, or matplotlib is missing.
    """
    with_loss = [option for option in plan.considered if option.loss is not None]
    if not with_loss:
        raise UserError("a plan by the paper's law expects no loss that could be drawn: give a fitted one, --law FILE")
    canvas = new_canvas(6.5, 4.6)
    axes = canvas.subplots()
    for method in dict.fromkeys(option.setting.method for option in with_loss):
        mine = sorted(
            (option for option in with_loss if option.setting.method == method),
            key=lambda option: option.member.parameters,
        )
        losses = [option.loss for option in mine if option.loss is not None]
        down = [0.0 if math.isnan(loss.low) else max(0.0, loss.loss - loss.low) for loss in losses]
        up = [0.0 if math.isnan(loss.high) else max(0.0, loss.high - loss.loss) for loss in losses]
        axes.errorbar(
            [option.member.parameters for option in mine],
            [loss.loss for loss in losses],
            yerr=[down, up],
            color=METHOD_COLOURS.get(method, "black"),
            marker=MARKERS.get(method, "o"),
            markersize=5,
            linewidth=1.2,
            capsize=3,
            label=method,
        )
    best = plan.best
    if best.loss is not None:
        axes.plot(
            best.member.parameters, best.loss.loss, "*", color="black", markersize=14, markerfacecolor="none", zorder=3
        )
    axes.set_xscale("log")
    axes.set_xlabel("N, without token embedding", fontsize=9)
    axes.set_ylabel("expected held-out loss", fontsize=9)
    axes.set_title(
        f"{show_flops(plan.request.budget.flops)}: law with {LEVEL:.0%} interval; star: the plan", fontsize=11
    )
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    write_canvas(canvas, path)
