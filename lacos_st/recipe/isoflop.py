"""IsoFLOP parabolas: the best size at each budget from that budget's runs alone, without a law.

For the runs of one method and budget, log-loss is a parabola in log N near its minimum (Hoffmann et al. 2022,
arXiv 2203.15556, approach 2). Through the minima goes a power law, N_opt = k · C^e. It shares no assumption with the
law's form, so that where the two disagree one of them is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lacos_st.recipe.forms import Floats, Points

TERMS = 3
WINDOW = 12.0
"""Sizes within this factor of the best are fitted, and the best four in any case: further off the line is no parabola,
as its two sides have exponents of their own."""
FEWEST_SIZES = 4
SURE = 3.0
"""Standard errors by which a curvature must be above 0."""


@dataclass(frozen=True)
class Parabola:
    """The runs of one budget: log L = floor + bend · (log N - log parameters)².

    Attributes:
        budget_flops: of the line.
        parameters: N at the minimum; NaN where there is none.
        error: standard error of log N there; NaN where the noise is not known.
        loss: at the minimum.
        bend: curvature; at most 0 where the line has no minimum.
        smallest: N of the smallest size on the line.
        largest: N of the largest.
        low: smallest size that was fitted.
        high: largest size that was fitted.
        trusted: whether there is a minimum, surer than the noise and within the sizes.
        warning: why not, or what to mind; empty.
    """

    budget_flops: float
    parameters: float
    error: float
    loss: float
    bend: float
    smallest: float
    largest: float
    low: float
    high: float
    trusted: bool
    warning: str = ""

    def curve(self, sizes: Floats) -> Floats:
        """Losses at sizes, (X,); only where there is a minimum."""
        return np.asarray(self.loss * np.exp(self.bend * (np.log(sizes) - math.log(self.parameters)) ** 2))


@dataclass(frozen=True)
class PowerLaw:
    """N_opt = factor · C^exponent through the trusted minima.

    Attributes:
        factor: k.
        exponent: e.
        error: standard error of the exponent; NaN with two minima.
        budgets: how many minima.
    """

    factor: float
    exponent: float
    error: float
    budgets: int

    def parameters(self, budget_flops: float) -> float:
        """N_opt at a budget."""
        return float(self.factor * budget_flops**self.exponent)


@dataclass(frozen=True)
class Isoflops:
    """The lines of a method, and the power law through their minima; None with fewer than two that are trusted."""

    parabolas: tuple[Parabola, ...]
    power_law: PowerLaw | None

    @property
    def warnings(self) -> list[str]:
        """What is wrong with each line, and whether there is no power law."""
        found = [f"IsoFLOP line {line.budget_flops:.3g}: {line.warning}" for line in self.parabolas if line.warning]
        if self.power_law is None:
            trusted = sum(line.trusted for line in self.parabolas)
            found.append(
                f"{trusted} IsoFLOP lines have a minimum: N_opt(C) needs two or more; widen the range of sizes"
            )
        return found


def isoflops(points: Points) -> Isoflops:
    """Parabolas of every budget of one method, and their power law.

    Args:
        points: of the best settings (`observe(runs, "ND")`).
    """
    lines = [_line(points.where(points.budget_flops == budget)) for budget in np.unique(points.budget_flops)]
    noise = _noise(lines)
    parabolas = tuple(_parabola(line, noise) for line in lines)
    return Isoflops(parabolas, _power_law([line for line in parabolas if line.trusted]))


@dataclass(frozen=True)
class _Line:
    """A budget's points near its minimum, x = log N - centre, with a parabola's least squares where they allow it."""

    budget_flops: float
    sizes: Floats  # all of the line, ascending, each once
    centre: float
    x: Floats
    y: Floats
    all_x: Floats  # of the whole line
    whole: Floats | None  # coefficients of a parabola through the whole line
    coefficients: Floats | None  # of x², x and 1
    squares: float  # of the residuals
    freedom: int


def _line(points: Points) -> _Line:
    sizes = np.unique(points.parameters)
    means = np.array([np.log(points.loss[points.parameters == size]).mean() for size in sizes])
    best = means.argmin()
    distance = np.abs(np.log(sizes / sizes[best]))
    near = (distance <= math.log(WINDOW)) | (distance <= np.sort(distance)[:FEWEST_SIZES][-1])
    kept = points.where(np.isin(points.parameters, sizes[near]))
    centre = float(np.log(sizes[near]).mean())
    x, y = np.log(kept.parameters) - centre, np.log(kept.loss)
    all_x = np.log(points.parameters) - centre
    whole, coefficients, squares = None, None, 0.0
    if near.sum() >= TERMS:
        whole = np.polyfit(all_x, np.log(points.loss), 2)
        coefficients = np.polyfit(x, y, 2)
        squares = float(((y - np.polyval(coefficients, x)) ** 2).sum())
    return _Line(
        float(points.budget_flops[0]), sizes, centre, x, y, all_x, whole, coefficients, squares, len(x) - TERMS
    )


def _noise(lines: Sequence[_Line]) -> float:
    """Variance of log-loss around the parabolas, pooled over the budgets; NaN where nothing is left over."""
    fitted = [line for line in lines if line.coefficients is not None]
    freedom = sum(line.freedom for line in fitted)
    return sum(line.squares for line in fitted) / freedom if freedom else math.nan


def _parabola(line: _Line, noise: float) -> Parabola:
    smallest, largest = float(line.sizes[0]), float(line.sizes[-1])
    low, high = math.exp(line.centre + line.x.min()), math.exp(line.centre + line.x.max())
    shared = (line.budget_flops, math.nan, math.nan, math.nan)
    ends = (smallest, largest, low, high)
    if line.coefficients is None or line.whole is None:
        why = f"{len(line.sizes)} sizes: a parabola needs {TERMS}, and {FEWEST_SIZES} to be tested; add sizes"
        return Parabola(*shared, math.nan, *ends, trusted=False, warning=why)
    bend, slope, floor = (float(value) for value in line.coefficients)
    covariance = _covariance(line.x, noise)
    error = math.sqrt(covariance[0, 0])
    # The whole line is tested too: the sizes around the lowest of flat, noisy losses curve upwards by being chosen.
    # A noise that is not known (NaN) proves nothing against a curvature.
    flat = [bend < SURE * error, float(line.whole[0]) < SURE * math.sqrt(_covariance(line.all_x, noise)[0, 0])]
    if bend <= 0 or line.whole[0] <= 0 or any(flat):
        why = f"no curvature (bend {bend:.2g} ± {error:.2g}): no minimum; widen the range of sizes"
        return Parabola(*shared, bend, *ends, trusted=False, warning=why)
    place = -slope / (2 * bend)
    gradient = np.array([slope / (2 * bend**2), -1 / (2 * bend), 0.0])
    error = math.sqrt(gradient @ covariance @ gradient)
    size = math.exp(line.centre + place)
    inside = smallest <= size <= largest
    warning = ""
    if not inside:
        side, where = ("smaller", smallest) if size < smallest else ("larger", largest)
        warning = f"the minimum (N = {size:.3g}) is beyond the sizes that were run ({where:.3g}); add {side} ones"
    elif math.isnan(error):
        warning = f"{len(line.sizes)} sizes and one seed: the parabola goes through every point, its error is not known"
    return Parabola(
        line.budget_flops,
        size,
        error,
        math.exp(floor + slope * place / 2),
        bend,
        *ends,
        trusted=inside,
        warning=warning,
    )


def _covariance(x: Floats, noise: float) -> Floats:
    """Of the coefficients of x², x and 1, by least squares of points with this variance."""
    design = np.stack([x**2, x, np.ones_like(x)], axis=1)
    return np.asarray(noise * np.linalg.pinv(design.T @ design))


def _power_law(lines: Sequence[Parabola]) -> PowerLaw | None:
    """Least squares of log N_opt over log C, weighted by the minima's errors where they are known."""
    if len(lines) < 2:
        return None
    x, y = (np.log([getattr(line, name) for line in lines]) for name in ("budget_flops", "parameters"))
    errors = np.array([line.error for line in lines])
    known = bool(np.isfinite(errors).all() and (errors > 0).all())
    weights = 1 / errors if known else np.ones_like(x)
    centre = float(np.average(x, weights=weights**2))
    exponent, constant = (float(value) for value in np.polyfit(x - centre, y, 1, w=weights))
    spread = float((weights**2 * (x - centre) ** 2).sum())
    residuals = weights * (y - constant - exponent * (x - centre))
    freedom = len(lines) - 2
    scatter = float((residuals**2).sum()) / freedom if freedom else math.nan
    variance = max(1.0, scatter) if known and freedom else 1.0 if known else scatter
    return PowerLaw(math.exp(constant - exponent * centre), exponent, math.sqrt(variance / spread), len(lines))
