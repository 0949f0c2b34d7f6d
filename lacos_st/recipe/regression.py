"""Constants of a law from measured losses: L-BFGS from a grid of starts, Huber loss on log-loss.

The protocol is that of Hoffmann et al. 2022 (arXiv 2203.15556, section 3.3) and of Ziarko et al. 2024, with one step
before it: the grid is one of exponents only, and the coefficients of each start are solved for, as the forms are linear
in them. That is done for all starts at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from lacos_st.recipe.forms import EXPONENTS, SHARPNESS, Floats, Form, Points, Units

DELTA = 1e-3
"""Of the Huber loss, as in both papers: residuals of log-loss above it count by their size, not by its square."""
GRID = {2: (18, 18), 3: (9, 9, 5)}
"""Starts by exponent: 324 for ND, 405 for SND."""
STEEPEST_START = 1.5
LOWEST = 1e-3
"""Of a loss in units of the data: below it the logarithm is continued by its tangent, so that a form may pass 0."""
RIDGE = 1e-10
PATIENCE = 500
"""Iterations of one descent. A hundred are usual; where the data determine nothing it would go on for thousands."""


@dataclass(frozen=True)
class Solution:
    """A fit.

    Attributes:
        values: (E + K,), exponents (b_s by its logarithm) and coefficients, in units of the data.
        objective: mean of the Huber loss, in units of delta squared.
        converged: whether the descent said so.
    """

    values: Floats
    objective: float
    converged: bool


class Regression:
    """A form on points: starts, the objective with its gradient, and the descent.

    Args:
        form: of the law.
        points: P of them.
        delta: of the Huber loss.
    """

    def __init__(self, form: Form, points: Points, *, delta: float = DELTA) -> None:
        self.form = form
        self.points = points
        self.units = Units.of(points)
        self.delta = delta
        self._factors = form.factors(points, self.units)
        self._loss = points.loss / self.units.loss
        self._log_loss = np.log(self._loss)
        self._grid = _grid(len(form.exponents))
        self._terms = form.terms(self._grid, self._factors)  # (G, P, K)

    def starts(self, weights: Floats | None = None) -> Floats:
        """The grid's exponents with the coefficients that fit best, the best start first.

        Weighted least squares of the relative residuals, for all starts at once; coefficients outside their bounds are
        put on them.

        Args:
            weights: (P,) of the points; None: 1 each.

        Returns:
            (G, E + K).
        """
        weights = np.ones(len(self.points)) if weights is None else weights
        relative = self._terms / self._loss[:, None]
        weighted = np.swapaxes(relative * weights[:, None], 1, 2)  # (G, K, P)
        normal = weighted @ relative
        ridge = RIDGE * np.trace(normal, axis1=1, axis2=2)[:, None, None] * np.eye(normal.shape[-1])
        coefficients = np.linalg.solve(normal + ridge, weighted.sum(axis=2)[..., None])[..., 0]
        lower = np.array([-np.inf if low is None else low for low, _ in self.form.bounds[len(self.form.exponents) :]])
        coefficients = np.maximum(coefficients, lower)
        predicted = (self._terms @ coefficients[..., None])[..., 0]
        residuals = _log(predicted)[0] - self._log_loss
        order = np.argsort(_huber(residuals, self.delta)[0] @ weights, kind="stable")
        return np.concatenate([self._grid, coefficients], axis=1)[order]

    def objective(self, values: Floats, weights: Floats) -> tuple[float, Floats]:
        """The weighted mean of the Huber loss of the log-residuals, over delta², and its gradient.

        Args:
            values: (E + K,).
            weights: (P,).
        """
        exponents, coefficients = np.split(values, [len(self.form.exponents)])
        terms = self.form.terms(exponents, self._factors)
        logarithm, slope = _log(terms @ coefficients)
        huber, pull = _huber(logarithm - self._log_loss, self.delta)
        pull = pull * slope * weights
        gradient = np.concatenate(
            [self.form.slopes(exponents, self._factors, terms * coefficients) @ pull, pull @ terms]
        )
        scale = 1 / (self.delta**2 * weights.sum())
        return float(huber @ weights) * scale, gradient * scale

    def descend(self, start: Floats, weights: Floats | None = None) -> Solution:
        """L-BFGS within the form's bounds.

        Args:
            start: (E + K,).
            weights: (P,) of the points; None: 1 each.
        """
        from scipy.optimize import minimize

        weights = np.ones(len(self.points)) if weights is None else weights
        found = minimize(
            self.objective,
            start,
            args=(weights,),
            jac=True,
            method="L-BFGS-B",
            bounds=self.form.bounds,
            options={"maxiter": PATIENCE, "maxfun": 2 * PATIENCE, "ftol": 1e-11, "gtol": 1e-7, "maxcor": 20},
        )
        return Solution(np.asarray(found.x), float(found.fun), bool(found.success))

    def fit(self, weights: Floats | None = None, *, starts: int | None = None, first: Floats | None = None) -> Solution:
        """The best of the descents.

        Args:
            weights: (P,) of the points; None: 1 each.
            starts: how many of the grid's, the best ones; None: all.
            first: (E + K,), one more start.
        """
        begin = list(self.starts(weights)[:starts])
        return min(
            (self.descend(start, weights) for start in ([] if first is None else [first]) + begin),
            key=lambda s: s.objective,
        )

    def predict(self, solution: Solution, points: Points) -> Floats:
        """Losses, (P',), that a solution says for points, which need not be those that it was fitted on."""
        exponents, coefficients = np.split(solution.values, [len(self.form.exponents)])
        terms = self.form.terms(exponents, self.form.factors(points, self.units))
        return np.asarray(self.units.loss * (terms @ coefficients))

    def at_bound(self, solution: Solution) -> list[str]:
        """Names of the constants that the bounds hold."""
        names = [*self.form.exponents, *self.form.coefficients]
        found = []
        for name, value, (low, high) in zip(names, solution.values, self.form.bounds, strict=True):
            near = 1e-3 * (high - low) if low is not None and high is not None else 1e-4
            if (low is not None and value <= low + near) or (high is not None and value >= high - near):
                found.append(name)
        return found


def _grid(exponents: int) -> Floats:
    """Starts, (G, E)."""
    counts = GRID[exponents]
    axes: list[Floats] = [np.geomspace(5 * EXPONENTS[0], STEEPEST_START, count) for count in counts[:2]]
    if exponents > len(axes):
        axes.append(np.linspace(SHARPNESS[0] + 1, SHARPNESS[1] - 1, counts[2]))
    return np.array(list(product(*axes)))


def _log(values: Floats) -> tuple[Floats, Floats]:
    """Logarithm, below `LOWEST` its tangent there, and the slope."""
    above = np.maximum(values, LOWEST)
    return np.log(above) + np.minimum(values - LOWEST, 0.0) / LOWEST, 1 / above


def _huber(residuals: Floats, delta: float) -> tuple[Floats, Floats]:
    """Half the square up to delta, linear from there; and its slope."""
    slope = np.clip(residuals, -delta, delta)
    return slope * (residuals - slope / 2), slope


def resampled_weights(configuration: NDArray[np.int64], *, samples: int, seed: int) -> Floats:
    """Weights of bootstrap samples: whole configurations are drawn with replacement, their seeds with them.

    Args:
        configuration: (P,), see `Points`.
        samples: R.
        seed: of the draws.

    Returns:
        (R, P): how often each point's configuration was drawn.
    """
    _, members = np.unique(configuration, return_inverse=True)
    count = int(members.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=samples)
    return drawn[:, members].astype(np.float64)
