"""How well a law predicts runs that it did not see; and how much of the error is the seeds' own."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from lacos_st.recipe.forms import Floats, Form, FormName, Points
from lacos_st.recipe.law import HeldOut
from lacos_st.recipe.regression import Regression

STARTS = 8
"""Descents of each fit, from the best of the grid's starts; the fit to all runs is no start, as it has seen them."""


def form_of(name: FormName, points: Points) -> Form:
    """The form that points can be fitted with: without a term of S where S does not vary."""
    return Form(name, sharing=bool(np.ptp(points.trainable) > 0))


def seed_noise(points: Points) -> float | None:
    """Standard deviation of log-loss between the seeds of a configuration, pooled; None where none has two."""
    squares, freedom = 0.0, 0
    for number in np.unique(points.configuration):
        logs = np.log(points.loss[points.configuration == number])
        squares += float(((logs - logs.mean()) ** 2).sum())
        freedom += len(logs) - 1
    return math.sqrt(squares / freedom) if freedom else None


def held_out(points: Points, form: FormName) -> tuple[HeldOut, ...]:
    """The largest budget predicted from the smaller ones, and each size from the others.

    Args:
        points: all that were measured.
        form: of the law.

    Returns:
        One entry each, without those where what is left would have one size or one budget.
    """
    largest = points.budget_flops.max()
    parts = {f"largest budget ({largest:.3g} FLOP)": [points.budget_flops == largest]}
    parts["each size in turn"] = [points.parameters == size for size in np.unique(points.parameters)]
    found = []
    for what, groups in parts.items():
        errors = [error for group in groups if (error := _errors(points, form, group)) is not None]
        if errors:
            every = np.concatenate(errors)
            sizes = np.abs(every)
            found.append(HeldOut(what, len(every), float(sizes.mean()), float(sizes.max()), float(every.mean())))
    return tuple(found)


def _errors(points: Points, form: FormName, out: NDArray[np.bool_]) -> Floats | None:
    """Relative errors of the points that are left out, by a fit to the others."""
    seen, unseen = points.where(~out), points.where(out)
    if min(len(np.unique(seen.parameters)), len(np.unique(seen.budget_flops))) < 2:
        return None
    regression = Regression(form_of(form, seen), seen)
    return regression.predict(regression.fit(starts=STARTS), unseen) / unseen.loss - 1
