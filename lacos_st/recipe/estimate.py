"""From runs to a law: which runs count, the fit and its bootstrap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lacos_st.recipe.determinacy import undetermined
from lacos_st.recipe.forms import Floats, FormName, Points
from lacos_st.recipe.held_out import form_of, held_out, seed_noise
from lacos_st.recipe.law import Fitted, Law
from lacos_st.recipe.regression import Regression, resampled_weights
from lacos_st.recipe.runs_table import Run

STARTS = 64
"""Descents of a fit, from the best of the grid's starts; on clean data all of the grid come to one optimum."""
STARTS_AGAIN = 1
"""Those of a bootstrap sample, beside one from the optimum of all runs."""
BOOTSTRAP = 200
SAME = 1e-3
"""Relative difference of objectives below which two descents came to one optimum."""


def observe(runs: Sequence[Run], form: FormName) -> Points:
    """The runs that a form is fitted on: of each size and budget (and S, for SND) the setting with the lowest loss.

    A law of N and D says what a method can do there, not what a badly chosen rank or learning rate costs. The setting
    is chosen by the mean of its seeds' log-losses, and all its seeds are kept.

    Args:
        runs: of one family and method, that reached their budgets.
        form: "ND" or "SND".

    Raises:
        ValueError: a run has no loss, or not all are of one family and method.
    """
    if len({(run.family, run.method) for run in runs}) != 1 or any(run.loss is None or not run.reached for run in runs):
        raise ValueError("expected runs of one family and method that have reached their budget: see `fittable`")
    cells: dict[tuple[float, ...], dict[str, list[Run]]] = {}
    for run in runs:
        share = float(f"{run.trainable:.6g}") if form == "SND" else 0.0
        settings = cells.setdefault((run.parameters, run.budget_flops, share), {})
        settings.setdefault(run.setting, []).append(run)
    rows: list[tuple[float, ...]] = []
    for number, settings in enumerate(cells.values()):
        best = min(settings.values(), key=lambda seeds: np.mean([math.log(run.loss or 0.0) for run in seeds]))
        for run in best:
            rows.append((run.parameters, run.tokens, run.trainable, run.budget_flops, run.loss or 0.0, number))
    sizes, tokens, shares, budgets, losses, configuration = np.array(rows, dtype=np.float64).T
    return Points(sizes, tokens, shares, budgets, losses, configuration.astype(np.int64))


def fit_law(
    runs: Sequence[Run],
    form: FormName = "ND",
    *,
    bootstrap: int = BOOTSTRAP,
    seed: int = 0,
    starts: int = STARTS,
    hold_out: bool = True,
) -> Law:
    """Fit a form to the runs of one family and method.

    Args:
        runs: that reached their budgets, see `fittable`.
        form: "ND" or "SND".
        bootstrap: samples for the intervals; 0: none.
        seed: of the samples.
        starts: descents from the grid.
        hold_out: also fit without some of the runs, for `Law.held_out`.

    Raises:
        ValueError: see `observe`.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # products are small: two BLAS threads take 25 times the processor time of one
        return _fit(runs, form, bootstrap=bootstrap, seed=seed, starts=starts, hold_out=hold_out)


def _fit(runs: Sequence[Run], form: FormName, *, bootstrap: int, seed: int, starts: int, hold_out: bool) -> Law:
    points = observe(runs, form)
    regression = Regression(form_of(form, points), points)
    descents = [regression.descend(start) for start in regression.starts()[:starts]]
    best = min(descents, key=lambda solution: solution.objective)
    agreeing = np.mean([d.objective <= best.objective * (1 + SAME) + SAME for d in descents])
    weights = resampled_weights(points.configuration, samples=bootstrap, seed=seed)
    sampled = [regression.fit(row, starts=STARTS_AGAIN, first=best.values) for row in weights]
    law = Law(
        family=runs[0].family,
        method=runs[0].method,
        form=form,
        constants=regression.form.named(best.values, regression.units),
        samples=tuple(regression.form.named(sample.values, regression.units) for sample in sampled),
        fitted=_fitted(points, observe(runs, "ND")),
        residual=float(np.sqrt(np.mean(np.log(points.loss / regression.predict(best, points)) ** 2))),
        seed_noise=seed_noise(points),
        agreeing=float(agreeing),
        held_out=held_out(points, form) if hold_out else (),
    )
    return replace(law, warnings=tuple(undetermined(law, points, at_bound=regression.at_bound(best))))


def _fitted(points: Points, best: Points) -> Fitted:
    def ends(values: Floats) -> tuple[float, float]:
        return float(values.min()), float(values.max())

    slope, constant = np.polyfit(np.log(best.parameters), np.log(best.trainable), 1)
    return Fitted(
        parameters=ends(points.parameters),
        tokens=ends(points.tokens),
        budget_flops=ends(points.budget_flops),
        trainable=ends(points.trainable),
        sizes=len(np.unique(points.parameters)),
        budgets=len(np.unique(points.budget_flops)),
        configurations=len(np.unique(points.configuration)),
        rows=len(points),
        share=(float(constant), float(slope)),
    )
