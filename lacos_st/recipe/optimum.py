"""Where a law is lowest at a budget: over all sizes, or among those that exist; and where two methods' laws cross."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from lacos_st.errors import UserError
from lacos_st.recipe.cost import Method, flops_per_token
from lacos_st.recipe.forms import Floats
from lacos_st.recipe.law import EXTRAPOLATION, Law, interval

SIZES_PER_DECADE = 200
"""Sizes that are tried: the parabola through the best three puts the optimum within 1e-5."""
FAR = 1e3
"""How far beyond the fitted sizes an optimum is looked for when extrapolating."""
BUDGETS = 200  # that are tried for a crossing


@dataclass(frozen=True)
class Optimum:
    """The best size at a budget; ends of intervals are NaN without bootstrap samples.

    Attributes:
        method: of the law.
        budget_flops: that is spent.
        parameters: N, without the token embedding.
        parameters_low: end of its interval.
        parameters_high: the other.
        tokens: D, both sides of the pairs.
        trainable: S.
        loss: of the law there.
        loss_low: end of its interval, the size chosen for each sample anew.
        loss_high: the other.
        beyond: the size lies outside those that were fitted.
        edge: it lies at the end of the sizes that were looked at: the law has no optimum there.
    """

    method: str
    budget_flops: float
    parameters: float
    parameters_low: float
    parameters_high: float
    tokens: float
    trainable: float
    loss: float
    loss_low: float
    loss_high: float
    beyond: bool
    edge: bool


@dataclass(frozen=True)
class Candidate:
    """A model with a setting, that could be trained.

    Attributes:
        name: for tables.
        parameters: N of the base, without the token embedding.
        flops_per_token: of training: 2·N_F + 2·N_B + 2·N_U.
        trainable: S.
    """

    name: str
    parameters: float
    flops_per_token: float
    trainable: float


@dataclass(frozen=True)
class Choice:
    """A candidate at a budget: its data, and the law's loss with its interval."""

    candidate: Candidate
    tokens: float
    loss: float
    low: float
    high: float


def optimum(
    law: Law,
    budget_flops: float,
    *,
    trainable: float | None = None,
    max_tokens: float = math.inf,
    extrapolate: bool = False,
) -> Optimum:
    """The size and the data with the lowest loss at a budget, sizes being continuous.

    Args:
        law: of a method.
        budget_flops: to spend on training: `flops_per_token` times D.
        trainable: S at every size; None: that of the best settings of each size.
        max_tokens: that there are.
        extrapolate: also beyond `EXTRAPOLATION` times what was fitted.

    Raises:
        UserError: beyond that, without `extrapolate`; a trainable fraction that is none.
    """
    if trainable is not None and not 0 < trainable <= 1:
        raise UserError(f"trainable is {trainable:g}: expected a fraction above 0 and at most 1")
    if not extrapolate:
        law.check_range(budget_flops=budget_flops)
    sizes = _sizes(law, FAR if extrapolate else EXTRAPOLATION)
    share = law.share(sizes) if trainable is None else np.full_like(sizes, trainable)
    tokens = np.minimum(budget_flops / _cost(law, sizes, share), max_tokens)
    best, loss = _lowest(sizes, law.losses(sizes, tokens, share)[None])
    sampled, sampled_loss = _lowest(sizes, law.sampled_losses(sizes, tokens, share))
    size = float(best[0])
    of_size = np.array([size])
    chosen = law.share(of_size) if trainable is None else np.array([trainable])
    data = min(budget_flops / float(_cost(law, of_size, chosen)[0]), max_tokens)
    edge = not sizes[1] < size < sizes[-2]
    if not extrapolate and not edge:
        law.check_range(D=data)
    low, high = interval(sampled)
    loss_low, loss_high = interval(sampled_loss)
    smallest, largest = law.fitted.parameters
    return Optimum(
        method=law.method,
        budget_flops=budget_flops,
        parameters=size,
        parameters_low=low,
        parameters_high=high,
        tokens=data,
        trainable=float(chosen[0]),
        loss=float(loss[0]),
        loss_low=loss_low,
        loss_high=loss_high,
        beyond=not smallest <= size <= largest,
        edge=edge,
    )


def choose(
    law: Law,
    budget_flops: float,
    candidates: Sequence[Candidate],
    *,
    max_tokens: float = math.inf,
    extrapolate: bool = False,
) -> list[Choice]:
    """Models that exist at a budget, the lowest loss first.

    Args:
        law: of a method.
        budget_flops: to spend on training.
        candidates: to choose from; those whose size or data are out of the law's range are left out.
        max_tokens: that there are.
        extrapolate: leave none out, and take any budget.

    Raises:
        UserError: no candidates, or all are out of range.
    """
    if not candidates:
        raise UserError("there is no model to choose from: name at least one")
    if not extrapolate:
        law.check_range(budget_flops=budget_flops)
    found = []
    for candidate in candidates:
        tokens = min(budget_flops / candidate.flops_per_token, max_tokens)
        try:
            said = law.predict(candidate.parameters, tokens, trainable=candidate.trainable, extrapolate=extrapolate)
        except UserError as error:
            refusal = error
        else:
            found.append(Choice(candidate, tokens, said.loss, said.low, said.high))
    if not found:
        raise UserError(f"none of the {len(candidates)} models is within the law's range; of the last: {refusal}")
    return sorted(found, key=lambda choice: choice.loss)


def tokens_at(law: Law, budget_flops: float, parameters: float) -> float:
    """D that a budget pays for at a size, with the S of that size's best settings."""
    size = np.array([parameters])
    return budget_flops / float(_cost(law, size, law.share(size))[0])


def crossings(first: Law, second: Law, *, extrapolate: bool = False) -> list[float]:
    """Budgets at which two methods' lowest losses are equal; none where one of them is better throughout.

    Args:
        first: law of one method.
        second: law of another, of the same family.
        extrapolate: also look up to `EXTRAPOLATION` times beyond the budgets that both were fitted on.
    """
    ends = [law.fitted.budget_flops for law in (first, second)]
    widen = EXTRAPOLATION if extrapolate else 1.0
    low, high = max(low for low, _ in ends) / widen, min(high for _, high in ends) * widen
    if low >= high:
        return []
    budgets = np.geomspace(low, high, BUDGETS)
    gaps = np.array([lowest_loss(first, budget) - lowest_loss(second, budget) for budget in budgets])
    found = []
    for place in np.flatnonzero(np.sign(gaps[:-1]) != np.sign(gaps[1:])):
        weight = gaps[place] / (gaps[place] - gaps[place + 1])
        found.append(float(budgets[place] * (budgets[place + 1] / budgets[place]) ** weight))
    return found


def lowest_loss(law: Law, budget_flops: float) -> float:
    """The loss at the best size within the fitted sizes."""
    sizes = _sizes(law, 1.0)
    share = law.share(sizes)
    return float(law.losses(sizes, budget_flops / _cost(law, sizes, share), share).min())


def _sizes(law: Law, factor: float) -> Floats:
    low, high = law.fitted.parameters[0] / factor, law.fitted.parameters[1] * factor
    return np.geomspace(low, high, math.ceil(SIZES_PER_DECADE * math.log10(high / low)) + 3)


def _cost(law: Law, sizes: Floats, share: Floats) -> Floats:
    """FLOP per token, (X,)."""
    return np.asarray(flops_per_token(cast(Method, law.method), cast(float, sizes), cast(float, share)))


def _lowest(sizes: Floats, losses: Floats) -> tuple[Floats, Floats]:
    """Sizes and losses at the minima of curves (R, X), by the parabola through the lowest point and its neighbours."""
    if not len(losses):
        return np.empty(0), np.empty(0)
    place = np.clip(losses.argmin(axis=1), 1, len(sizes) - 2)
    rows = np.arange(len(losses))
    before, at, after = losses[rows, place - 1], losses[rows, place], losses[rows, place + 1]
    bend = before - 2 * at + after
    safe = np.where(bend > 0, bend, 1.0)
    shift = np.where(bend > 0, np.clip((before - after) / (2 * safe), -1, 1), 0.0)
    lowest = at - np.where(bend > 0, (before - after) * shift / 4, 0.0)
    step = math.log(sizes[1] / sizes[0])
    return sizes[place] * np.exp(shift * step), lowest
