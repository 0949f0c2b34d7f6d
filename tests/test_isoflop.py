"""IsoFLOP parabolas on points of a known law, and where they must not be trusted."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sweeps

from lacos_st.recipe.estimate import observe
from lacos_st.recipe.isoflop import Isoflops, isoflops

TEN_PERCENT = 0.1


def lines(**changes: object) -> Isoflops:
    return isoflops(observe(sweeps.sweep(**changes), "ND"))  # type: ignore[arg-type]


def true_optimum(budget: float) -> float:
    """Closed form: the derivative of A/N^a + B·(6N/C)^b is zero there."""
    a, b = sweeps.CHINCHILLA["a"], sweeps.CHINCHILLA["b"]
    ratio = a * sweeps.CHINCHILLA["A"] / (b * sweeps.CHINCHILLA["B"])
    return float(ratio ** (1 / (a + b)) * (budget / 6) ** (b / (a + b)))


def test_minima_are_those_of_the_law() -> None:
    found = lines(noise=0.002)
    assert [line.budget_flops for line in found.parabolas] == pytest.approx(sweeps.BUDGETS)
    for line in found.parabolas:
        expected = true_optimum(line.budget_flops)
        assert line.trusted and not line.warning
        assert abs(line.parameters / expected - 1) < TEN_PERCENT
        assert line.error < TEN_PERCENT
    assert found.power_law is not None
    a, b = sweeps.CHINCHILLA["a"], sweeps.CHINCHILLA["b"]
    assert found.power_law.exponent == pytest.approx(b / (a + b), abs=0.03)
    assert found.power_law.parameters(1e14) == pytest.approx(true_optimum(1e14), rel=TEN_PERCENT)
    assert found.warnings == []


def test_an_exact_parabola_is_recovered() -> None:
    points = observe(sweeps.sweep(sizes=(1000, 2000, 4000, 8000, 16000), noise=0.0, seeds=1), "ND")
    bend, best, floor = 0.05, 3000.0, 1.5
    loss = floor * np.exp(bend * np.log(points.parameters / best) ** 2)
    found = isoflops(
        type(points)(
            points.parameters, points.tokens, points.trainable, points.budget_flops, loss, points.configuration
        )
    )
    for line in found.parabolas:
        assert (line.bend, line.parameters, line.loss) == pytest.approx((bend, best, floor))
        assert line.curve(points.parameters) == pytest.approx(loss)
    assert found.power_law is not None
    assert found.power_law.exponent == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"constants": sweeps.CHINCHILLA | {"A": 0.0, "B": 0.0}}, "no curvature"),
        ({"constants": sweeps.CHINCHILLA | {"B": 1e-9}}, "add larger ones|no curvature"),
        ({"constants": sweeps.CHINCHILLA | {"A": 1e-9}}, "add smaller ones|no curvature"),
        ({"sizes": (10**5, 10**6)}, "2 sizes: a parabola needs 3"),
    ],
)
def test_lines_without_a_minimum(changes: dict[str, object], said: str) -> None:
    found = lines(**changes)
    assert not any(line.trusted for line in found.parabolas)
    assert found.power_law is None
    for warning, line in zip(found.warnings, found.parabolas, strict=False):
        assert warning.startswith(f"IsoFLOP line {line.budget_flops:.3g}: ")
    assert len(found.warnings) == len(found.parabolas) + 1
    for warning in found.warnings[:-1]:
        assert any(part in warning for part in said.split("|")), warning
    assert "N_opt(C) needs two or more" in found.warnings[-1]


def test_three_sizes_and_one_seed_have_no_error() -> None:
    found = lines(sizes=(10**5, 10**6, 10**7), budgets=(2e13, 4e13), seeds=1, noise=0.0)
    for line in found.parabolas:
        assert line.trusted
        assert math.isnan(line.error)
        assert "its error is not known" in line.warning


def test_the_stated_errors_are_the_real_ones() -> None:
    """Over many sweeps the minima scatter as each says of itself; the parabola's own bias is a part of an error."""
    logs, errors = [], []
    for seed in range(40):
        line = lines(seed=seed, budgets=(sweeps.BUDGETS[2],), noise=0.01).parabolas[0]
        logs.append(math.log(line.parameters))
        errors.append(line.error)
    assert np.std(logs) == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=0.4)
