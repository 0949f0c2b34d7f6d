"""A fitted law: what it says of a size and an amount of data, how sure it is, and how far it may be asked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from lacos_st.errors import UserError
from lacos_st.recipe.forms import Floats, FormName, law_loss, stacked

LEVEL = 0.95
"""Of all intervals: percentiles of the bootstrap samples."""
EXTRAPOLATION = 10.0
"""Beyond this factor of the fitted sizes, tokens and budgets a law is not asked unless told to. Hoffmann et al. 2022
went about 50 times beyond their runs; a ladder of nano models is poorer."""
SHOWN = {
    "ND": "L(N, D) = C + A/N^a + B/D^b",
    "SND": "L(S, N, D) = C + (a_d·log D + b_d)/N^a + (a_s·(1-S)^b_s + c_s)/D^b",
}


@dataclass(frozen=True)
class Fitted:
    """What a law was fitted on; each range is (lowest, highest).

    Attributes:
        parameters: range of N.
        tokens: range of D.
        budget_flops: range.
        trainable: range of S.
        sizes: how many.
        budgets: how many.
        configurations: size, budget and setting; what the bootstrap draws.
        rows: runs.
        share: S of the best settings by size, log S = share[0] + share[1]·log N: adapters of one rank are a smaller
            part of a larger model.
    """

    parameters: tuple[float, float]
    tokens: tuple[float, float]
    budget_flops: tuple[float, float]
    trainable: tuple[float, float]
    sizes: int
    budgets: int
    configurations: int
    rows: int
    share: tuple[float, float]


@dataclass(frozen=True)
class HeldOut:
    """How well a law that did not see some runs predicts them.

    Attributes:
        what: was left out.
        rows: how many.
        mean_error: of |predicted / measured - 1|.
        max_error: the largest of those.
        bias: mean of predicted / measured - 1.
    """

    what: str
    rows: int
    mean_error: float
    max_error: float
    bias: float


@dataclass(frozen=True)
class Prediction:
    """A loss and its interval: of the law, not of a single run, which has its seed's noise besides."""

    loss: float
    low: float
    high: float


@dataclass(frozen=True)
class Law:
    """L(N, D) or L(S, N, D) of one family and method.

    Attributes:
        family: of the models.
        method: of training.
        form: "ND" or "SND", see `forms`.
        constants: by name; SND has no a_s and b_s where S did not vary.
        samples: the constants of each bootstrap sample.
        fitted: what it was fitted on.
        residual: root mean square of log(measured / predicted).
        seed_noise: standard deviation of log-loss between seeds; None where no configuration has two.
        agreeing: share of the descents that came to this optimum.
        held_out: what it predicts of runs that it did not see.
        warnings: what the data do not determine.
    """

    family: str
    method: str
    form: FormName
    constants: dict[str, float]
    samples: tuple[dict[str, float], ...]
    fitted: Fitted
    residual: float
    seed_noise: float | None
    agreeing: float
    held_out: tuple[HeldOut, ...] = ()
    warnings: tuple[str, ...] = field(default=())

    @cached_property
    def stacked_samples(self) -> dict[str, Floats]:
        """Constants of all samples, each (R, 1)."""
        return stacked(self.samples)

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """Of each constant, at `LEVEL`; NaN without samples."""
        if not self.samples:
            return dict.fromkeys(self.constants, (math.nan, math.nan))
        return {name: interval(values[:, 0]) for name, values in self.stacked_samples.items()}

    def share(self, parameters: Floats) -> Floats:
        """S of the best settings at a size, within the fitted range."""
        constant, slope = self.fitted.share
        return np.clip(np.exp(constant + slope * np.log(parameters)), *self.fitted.trainable)

    def losses(self, parameters: Floats, tokens: Floats, trainable: Floats) -> Floats:
        """The law at arrays that broadcast; no range is checked."""
        return law_loss(self.form, self.constants, parameters=parameters, tokens=tokens, trainable=trainable)

    def sampled_losses(self, parameters: Floats, tokens: Floats, trainable: Floats) -> Floats:
        """The laws of the bootstrap samples at arrays of shape (X,): (R, X)."""
        where = {"parameters": parameters, "tokens": tokens, "trainable": trainable}
        return law_loss(self.form, self.stacked_samples, **where) if self.samples else np.empty((0, len(parameters)))

    def predict(
        self, parameters: float, tokens: float, *, trainable: float | None = None, extrapolate: bool = False
    ) -> Prediction:
        """The loss of a size on an amount of data.

        Args:
            parameters: N, without the token embedding.
            tokens: D, both sides of the pairs.
            trainable: S; None: that of the best settings at this size. ND does not read it.
            extrapolate: also beyond `EXTRAPOLATION` times the fitted ranges.

        Raises:
            UserError: beyond them, without `extrapolate`.
        """
        if not extrapolate:
            self.check_range(N=parameters, D=tokens)
        n, d = np.array([float(parameters)]), np.array([float(tokens)])
        s = self.share(n) if trainable is None else np.array([float(trainable)])
        low, high = interval(self.sampled_losses(n, d, s)[:, 0])
        return Prediction(float(self.losses(n, d, s)[0]), low, high)

    def check_range(self, **asked: float) -> None:
        """Whether the law may be asked there.

        Args:
            **asked: N, D or budget_flops.

        Raises:
            UserError: one of them is beyond `EXTRAPOLATION` times what was fitted.
        """
        ranges: Mapping[str, tuple[float, float]] = {
            "N": self.fitted.parameters,
            "D": self.fitted.tokens,
            "budget_flops": self.fitted.budget_flops,
        }
        for name, value in asked.items():
            low, high = ranges[name]
            if not low / EXTRAPOLATION <= value <= high * EXTRAPOLATION:
                raise UserError(
                    f"the law of {self.method} was fitted on {name} from {low:.3g} to {high:.3g}, and {value:.3g} is "
                    f"more than {EXTRAPOLATION:g} times beyond: run a sweep that comes nearer, or say --extrapolate "
                    "(extrapolate=True) and do not trust the result"
                )


def interval(values: Floats) -> tuple[float, float]:
    """Percentiles at `LEVEL` of samples (R,); NaN where there are none."""
    if not len(values):
        return math.nan, math.nan
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
