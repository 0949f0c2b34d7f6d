from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lacos_st.errors import UserError
from lacos_st.recipe.runs_table import Run

sys.path.insert(0, str(Path(__file__).parents[1]))  # for benchmarks, which are not installed

from benchmarks import recipe  # noqa: E402

SIZES = (200_000, 600_000, 1_800_000, 4_000_000, 10_000_000)
BUDGETS = (1e11, 3e11, 1e12, 3e12)
CONSTANTS = {"full": (0.9, 60.0, 0.35, 120.0, 0.4), "lora": (0.7, 80.0, 0.35, 160.0, 0.4)}


def true_loss(method: str, size: int, tokens: float) -> float:
    c, a, alpha, b, beta = CONSTANTS[method]
    return c + a / size**alpha + b / tokens**beta


def table() -> dict[str, list[Run]]:
    """Runs that follow a known law but for a ten-thousandth of noise; the second setting loses a tenth everywhere."""
    runs: dict[str, list[Run]] = {"full": [], "lora": []}
    for method, updated in (("full", 1.0), ("lora", 0.05)):
        for size in SIZES:
            for budget in BUDGETS:
                for setting in ("rank=8", "rank=32"):
                    for seed in (0, 1):
                        trained = round(updated * size)
                        tokens = budget / (4 * size + 2 * trained)
                        loss = true_loss(method, size, tokens) * (1.1 if setting == "rank=32" else 1.0)
                        loss *= 1 + 1e-4 * (2 * seed - 1)
                        runs[method].append(
                            Run("toy", size, size, size, trained, tokens, method, setting, budget, loss,
                                None, None, seed, "c")
                        )  # fmt: skip
    return runs


def test_the_plan_is_the_best_there_is_where_the_law_holds() -> None:
    runs = table()
    planned, laws = recipe.plan(runs, 3e12, bootstrap=0)
    best, full, lora, won = recipe.baselines(runs, 3e12)
    assert set(laws) == {"full", "lora"}
    assert all(law.fitted.budget_flops == (1e11, 1e12) for law in laws.values())
    assert (planned.method, planned.parameters, planned.setting) == (best.method, best.parameters, best.setting)
    assert planned.loss == best.loss
    assert planned.predicted == pytest.approx(planned.loss, rel=5e-3)
    assert (full.method, full.parameters, full.setting) == ("full", SIZES[-1], "rank=8")
    assert (lora.method, lora.parameters, lora.setting) == ("lora", SIZES[-1], "rank=32")
    at = recipe.cells([run for of_method in runs.values() for run in of_method])[1e11]
    assert at[won.method, won.parameters, won.setting] == min(at.values())


def test_what_was_not_measured_has_no_loss() -> None:
    runs = {
        method: [run for run in of_method if run.budget_flops < 3e12 or run.parameters == SIZES[2]]
        for method, of_method in table().items()
    }
    planned, _ = recipe.plan(runs, 3e12, bootstrap=0)
    assert (planned.loss is None) == (planned.parameters != SIZES[2])
    assert recipe.baselines(runs, 3e12)[1].parameters == SIZES[2]  # the largest that was measured


def test_a_rule_of_thumb_that_only_the_largest_budget_shows_takes_the_setting_that_is_best_there() -> None:
    runs = table()
    runs["full"] = [run for run in runs["full"] if run.budget_flops == 3e12 or run.parameters < SIZES[-1]]
    found = recipe.baselines(runs, 3e12)[1]
    assert (found.parameters, found.setting) == (SIZES[-1], "rank=8")
    assert found.loss is not None


def test_where_the_methods_cross() -> None:
    runs = table()
    cheaper = [replace(run, loss=run.loss and run.loss - 0.05) for run in runs["full"] if run.budget_flops < 5e11]
    found = recipe.crossing({**runs, "full": [*cheaper, *(run for run in runs["full"] if run.budget_flops > 5e11)]})
    measured = found["measured"]
    assert isinstance(measured, dict)
    assert list(measured) == ["1e+11", "3e+11", "1e+12", "3e+12"]
    assert recipe.crossing({"full": runs["full"]}) == {"by_law": None, "measured": {}}


def test_too_few_budgets_are_refused() -> None:
    runs = {method: [run for run in of_method if run.budget_flops <= 3e11] for method, of_method in table().items()}
    with pytest.raises(UserError, match="let the sweep run on"):
        recipe.plan(runs, 3e11, bootstrap=0)
