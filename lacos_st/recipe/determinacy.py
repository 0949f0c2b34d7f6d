"""What the data do not determine: warnings of a fit that has a number for it all the same."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from lacos_st.recipe.forms import Points
from lacos_st.recipe.law import Law, interval

FEW_SIZES = 4
FEW_BUDGETS = 3
COLLINEAR = 0.97
"""Correlation of log N with log D from which their terms cannot be told apart."""
WIDE_EXPONENT = 4.0
"""An interval of an exponent whose ends are this far apart says nothing: 0.2 to 0.8 holds every law in the papers."""
WIDE_SHARPNESS = 20.0
WIDE_CONSTANT = 0.5
"""An interval of C this wide, in units of the lowest loss."""
NOISY = 3.0
"""Residuals this much larger than the seeds' noise: the form does not describe the data."""
DESCRIBED = 1e-3
"""Residuals of log-loss up to here are described, however well seeds agree: the fit's Huber loss is of this scale."""


def undetermined(law: Law, points: Points, *, at_bound: Sequence[str] = ()) -> Iterator[str]:
    """Warnings, the gravest first; none where the data determine every constant.

    Args:
        law: fitted, with samples (without, nothing is said of intervals).
        points: that it was fitted on.
        at_bound: names of the constants that the fit's bounds hold.
    """
    fitted = law.fitted
    if fitted.sizes < FEW_SIZES:
        yield f"{fitted.sizes} sizes: an exponent of N needs {FEW_SIZES} or more; add sizes to the sweep"
    if fitted.budgets < FEW_BUDGETS:
        yield f"{fitted.budgets} budgets: an exponent of D needs {FEW_BUDGETS} or more; add budgets to the sweep"
    if fitted.configurations < 2 * len(law.constants):
        yield (
            f"{fitted.configurations} configurations for {len(law.constants)} constants: the fit follows the noise, "
            "and its intervals are too narrow; add sizes or budgets"
        )
    correlation = np.corrcoef(np.log(points.parameters), np.log(points.tokens))[0, 1]
    if abs(correlation) > COLLINEAR:
        yield (
            f"log N and log D are correlated at {correlation:.2f}: their terms cannot be told apart; run several sizes "
            "at each budget"
        )
    if "a_s" not in law.constants and law.form == "SND" and law.method != "full":
        yield "S does not vary: a_s and b_s are left out, and c_s holds their place"
    for name in at_bound:
        yield f"{name} is at the bound of the fit ({law.constants[name]:.3g}): the data do not determine it"
    yield from _wide(law, points, set(at_bound))
    noise = law.seed_noise
    if noise is not None and law.residual > max(NOISY * noise, DESCRIBED):
        yield (
            f"residuals of {law.residual:.1%} against {noise:.1%} between seeds: the form does not describe these "
            "runs; look for settings that are wrong for some sizes (a learning rate), or fit a narrower range"
        )


def _wide(law: Law, points: Points, skip: set[str]) -> Iterator[str]:
    """Constants whose intervals span everything."""
    if not law.samples:
        return
    lowest = float(points.loss.min())
    for name, (low, high) in law.intervals.items():
        shown = f"{name} lies between {low:.3g} and {high:.3g}"
        if name in skip or math.isnan(low):
            continue
        if name in ("a", "b", "b_s"):
            if high > low * (WIDE_SHARPNESS if name == "b_s" else WIDE_EXPONENT):
                yield f"{shown}: the data do not determine it; widen the range of {_range_of(name)}"
        elif name == "C":
            if high - low > WIDE_CONSTANT * lowest:
                yield f"{shown}, the lowest loss being {lowest:.3g}: it is not determined; add larger budgets"
        elif name in ("a_d", "a_s") and low <= 0 <= high:
            yield f"{shown}: the data do not say whether {_meaning(name)}"
    for name, low, high in _sizes_of_terms(law):
        if name not in skip and low < high / WIDE_EXPONENT**2:
            yield f"the term of {name} lies between {low:.3g} and {high:.3g} at the middle of the data: not determined"


def _sizes_of_terms(law: Law) -> Iterator[tuple[str, float, float]]:
    """Intervals of A/N^a and B/D^b at the middle of the fitted ranges: A and B alone move with their exponents."""
    samples = law.stacked_samples
    for name, factor, exponent, ends in (("N", "A", "a", law.fitted.parameters), ("D", "B", "b", law.fitted.tokens)):
        if factor in samples:
            middle = math.sqrt(ends[0] * ends[1])
            yield name, *interval((samples[factor] / middle ** samples[exponent])[:, 0])


def _range_of(name: str) -> str:
    return {"a": "sizes", "b": "data (budgets)", "b_s": "S (ranks, frozen blocks)"}[name]


def _meaning(name: str) -> str:
    return {"a_d": "more data make size matter more or less", "a_s": "training more of the model helps"}[name]
