"""The two forms of the law (Ziarko et al. 2024, arXiv 2406.04165, section 4) as pure functions on arrays.

ND:  L(N, D)    = C + A/N^a + B/D^b
SND: L(S, N, D) = C + (a_d·log D + b_d)/N^a + (a_s·(1-S)^b_s + c_s)/D^b

Given its exponents, either is linear in what is left: L = Σ_k coefficient_k · term_k, and every term is a product of
powers. Fitting works in units of the data, n = N/N0 and d = D/D0 with N0 and D0 the geometric means: there the
coefficients are of one order of magnitude, each the size of its term at the middle of the data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
FormName = Literal["ND", "SND"]

EXPONENTS = (0.01, 3.0)
"""Bounds of a and b: below, a term is a constant; above, it is gone within a factor of two."""
SHARPNESS = (math.log(0.05), math.log(200.0))
"""Bounds of log b_s. At a rank of a few percent of the weights, (1-S)^b_s moves only for a b_s of tens."""


@dataclass(frozen=True)
class Points:
    """Where losses were measured; arrays of shape (P,).

    Attributes:
        parameters: N.
        tokens: D.
        trainable: S.
        budget_flops: of the IsoFLOP line.
        loss: above 0.
        configuration: a number for each size, budget and setting, which its seeds share.
    """

    parameters: Floats
    tokens: Floats
    trainable: Floats
    budget_flops: Floats
    loss: Floats
    configuration: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.loss)

    def where(self, chosen: NDArray[np.bool_]) -> Points:
        """Those that are chosen; `chosen` is of shape (P,)."""
        names = ("parameters", "tokens", "trainable", "budget_flops", "loss", "configuration")
        return Points(*(getattr(self, name)[chosen] for name in names))


@dataclass(frozen=True)
class Units:
    """What sizes, tokens and losses are divided by while fitting."""

    parameters: float
    tokens: float
    loss: float

    @classmethod
    def of(cls, points: Points) -> Units:
        """Geometric means."""
        return cls(*(float(np.exp(np.log(x).mean())) for x in (points.parameters, points.tokens, points.loss)))


@dataclass(frozen=True)
class Form:
    """A form of the law: E exponents, K terms.

    Attributes:
        name: "ND" or "SND".
        sharing: whether S varies in the data; without, SND has no a_s and no b_s.
    """

    name: FormName
    sharing: bool = True

    @property
    def shares(self) -> bool:
        """Whether there is a term of S."""
        return self.name == "SND" and self.sharing

    @property
    def exponents(self) -> tuple[str, ...]:
        """Names, in order."""
        return ("a", "b", "b_s") if self.shares else ("a", "b")

    @property
    def coefficients(self) -> tuple[str, ...]:
        """Names, in order."""
        if self.name == "ND":
            return "C", "A", "B"
        return ("C", "a_d", "b_d", "c_s", "a_s") if self.shares else ("C", "a_d", "b_d", "c_s")

    @property
    def constants(self) -> tuple[str, ...]:
        """All names, exponents last."""
        return self.coefficients + self.exponents

    @property
    def bounds(self) -> list[tuple[float | None, float | None]]:
        """Of exponents (b_s by its logarithm), then coefficients: only a_d and a_s may fall below 0."""
        exponents = [EXPONENTS, EXPONENTS, SHARPNESS][: len(self.exponents)]
        return [*exponents, *((None if name in ("a_d", "a_s") else 0.0, None) for name in self.coefficients)]

    def factors(self, points: Points, units: Units) -> tuple[Floats, Floats, Floats]:
        """What the terms are made of: log n, log d and log(1 - S), each (P,); the last is 0 without a term of S."""
        log_n = np.log(points.parameters / units.parameters)
        log_d = np.log(points.tokens / units.tokens)
        with np.errstate(divide="ignore"):  # all trainable: log 0
            log_frozen = np.log1p(-points.trainable) if self.shares else np.zeros_like(log_n)
        return log_n, log_d, log_frozen

    def terms(self, exponents: Floats, factors: tuple[Floats, Floats, Floats]) -> Floats:
        """The terms that the coefficients multiply.

        Args:
            exponents: (..., E): a, b and log b_s.
            factors: see `factors`.

        Returns:
            (..., P, K), in the order of `coefficients`.
        """
        log_n, log_d, log_frozen = factors
        of_size = np.exp(-exponents[..., 0, None] * log_n)
        of_tokens = np.exp(-exponents[..., 1, None] * log_d)
        one = np.ones_like(of_size)
        if self.name == "ND":
            return np.stack([one, of_size, of_tokens], axis=-1)
        found = [one, log_d * of_size, of_size, of_tokens]
        if self.shares:
            found.append(np.exp(np.exp(exponents[..., 2, None]) * log_frozen) * of_tokens)
        return np.stack(found, axis=-1)

    def slopes(self, exponents: Floats, factors: tuple[Floats, Floats, Floats], parts: Floats) -> Floats:
        """How the loss changes with the exponents.

        Args:
            exponents: (E,).
            factors: see `factors`.
            parts: (P, K): each term times its coefficient.

        Returns:
            (E, P): as every term is a power, a factor times the terms that hold the exponent.
        """
        log_n, log_d, log_frozen = factors
        if self.name == "ND":
            return np.stack([-log_n * parts[:, 1], -log_d * parts[:, 2]])
        found = [-log_n * (parts[:, 1] + parts[:, 2]), -log_d * parts[:, 3:].sum(axis=1)]
        if self.shares:
            finite = np.where(np.isfinite(log_frozen), log_frozen, 0.0)  # the term itself is 0 there
            found.append(np.exp(exponents[2]) * finite * parts[:, 4])
        return np.stack(found)

    def named(self, solution: Floats, units: Units) -> dict[str, float]:
        """The constants of the formula, from a solution in units of the data.

        Args:
            solution: (E + K,), exponents and coefficients as `bounds` has them.
            units: of the fit.
        """
        exponents = dict(zip(self.exponents, solution.tolist(), strict=False))
        inner = {
            name: units.loss * value
            for name, value in zip(self.coefficients, solution[len(exponents) :].tolist(), strict=True)
        }
        of_size, of_tokens = units.parameters ** exponents["a"], units.tokens ** exponents["b"]
        if self.name == "ND":
            return {"C": inner["C"], "A": inner["A"] * of_size, "B": inner["B"] * of_tokens, **exponents}
        found = {
            "C": inner["C"],
            "a_d": inner["a_d"] * of_size,
            "b_d": (inner["b_d"] - inner["a_d"] * math.log(units.tokens)) * of_size,
            "c_s": inner["c_s"] * of_tokens,
        }
        if self.shares:
            found["a_s"] = inner["a_s"] * of_tokens
            exponents["b_s"] = math.exp(exponents["b_s"])
        return found | exponents


def law_loss(
    form: FormName, constants: Mapping[str, float | Floats], *, parameters: Floats, tokens: Floats, trainable: Floats
) -> Floats:
    """L(N, D) or L(S, N, D), as printed in the paper.

    Args:
        form: "ND" or "SND".
        constants: by name; numbers, or arrays that broadcast against the others. Without a_s, S has no term.
        parameters: N.
        tokens: D.
        trainable: S; only SND reads it.
    """
    c = constants
    if form == "ND":
        return np.asarray(c["C"] + c["A"] / parameters ** c["a"] + c["B"] / tokens ** c["b"])
    of_share = c["c_s"] + (c["a_s"] * (1 - trainable) ** c["b_s"] if "a_s" in c else 0.0)
    return np.asarray(
        c["C"] + (c["a_d"] * np.log(tokens) + c["b_d"]) / parameters ** c["a"] + of_share / tokens ** c["b"]
    )


def stacked(constants: Sequence[Mapping[str, float]]) -> dict[str, Floats]:
    """Several laws as one: each constant as an array of shape (R, 1), for `law_loss`."""
    return {name: np.array([[each[name]] for each in constants]) for name in constants[0]}
