"""What plots of fitted laws show, as arrays: a law and its interval over sizes and over budgets, and measured means."""

from __future__ import annotations

import numpy as np

from lacos_st.recipe.cost import flops_per_token
from lacos_st.recipe.forms import Floats, Points
from lacos_st.recipe.law import LEVEL, Law
from lacos_st.recipe.optimum import Optimum, optimum

CURVE = 200  # points of a line


def over_sizes(law: Law, sizes: Floats, budget_flops: float) -> Floats:
    """The law's loss of sizes (X,) that spend a budget: (X,)."""
    return law.losses(sizes, *_spent(law, sizes, budget_flops))


def interval_over_sizes(law: Law, sizes: Floats, budget_flops: float) -> Floats | None:
    """Ends of its interval at `LEVEL`, (2, X); None for a law without samples."""
    sampled = law.sampled_losses(sizes, *_spent(law, sizes, budget_flops))
    return np.quantile(sampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0) if len(sampled) else None


def over_budgets(law: Law, *, budget_flops: float | None = None, points: int = CURVE // 4) -> list[Optimum]:
    """The law's optima over the fitted budgets, both ends among them, and on to another budget.

    Args:
        law: of a method.
        budget_flops: that the line goes as far as.
        points: of the line, at least.

    Raises:
        UserError: it is beyond the range of the law.
    """
    low, high = law.fitted.budget_flops
    ends = (low, high) if budget_flops is None else (min(low, budget_flops), max(high, budget_flops))
    where = np.unique(np.concatenate([np.geomspace(*ends, points), [low, high]]))
    return [optimum(law, float(budget)) for budget in where[(where >= ends[0]) & (where <= ends[1])]]


def means(points: Points) -> tuple[Floats, Floats]:
    """Sizes, ascending, and the geometric mean of their seeds' losses."""
    sizes = np.unique(points.parameters)
    return sizes, np.array([np.exp(np.log(points.loss[points.parameters == size]).mean()) for size in sizes])


def lowest(points: Points) -> tuple[Floats, Floats]:
    """Budgets, ascending, and the lowest mean loss of each."""
    budgets = np.unique(points.budget_flops)
    return budgets, np.array([means(points.where(points.budget_flops == budget))[1].min() for budget in budgets])


def _spent(law: Law, sizes: Floats, budget_flops: float) -> tuple[Floats, Floats]:
    """Tokens that the budget buys each size, and the trained share."""
    share = law.share(sizes)
    return budget_flops / np.asarray(flops_per_token(law.method, sizes, share)), share  # type: ignore[arg-type]
