"""Does the law choose well? Fit it on all budgets of a sweep but the largest, plan for that one, and compare.

python -m benchmarks.recipe benchmarks/sweep/runs.csv

For every method the law L(N, D) is fitted on the smaller budgets. The plan for the largest is the method and the size
of the ladder with the lowest predicted loss, with the setting that was best for them at the largest budget below. What
the sweep measured there stands beside: of the plan, of the best configuration, and of three rules of thumb. A loss is
the mean over seeds.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from benchmarks import rows
from lacos_st.errors import UserError
from lacos_st.recipe.estimate import BOOTSTRAP, fit_law
from lacos_st.recipe.law import Law
from lacos_st.recipe.optimum import Candidate, choose, crossings
from lacos_st.recipe.runs_table import Run, fittable, read_runs, read_setting

TARGET = 0.02  # of the best measured loss
LORA_RANK = 32  # of the rule of thumb
Cells = dict[float, dict[tuple[str, int, str], float]]


@dataclass(frozen=True)
class Chosen:
    """A configuration at the largest budget.

    Attributes:
        what: why it is looked at.
        method: of training.
        parameters: N of the base.
        setting: of the method.
        loss: measured; None where the sweep has no such run.
        predicted: by the law of the smaller budgets; None where that was not asked.
    """

    what: str
    method: str
    parameters: int
    setting: str
    loss: float | None
    predicted: float | None = None


def cells(runs: Sequence[Run]) -> Cells:
    """Measured losses, means over seeds: by budget, then by method, size and setting."""
    losses: dict[float, dict[tuple[str, int, str], list[float]]] = {}
    for run in runs:
        assert run.loss is not None  # `fittable` keeps those that reached their budget, and these have one
        configuration = (run.method, run.parameters, run.setting)
        losses.setdefault(run.budget_flops, {}).setdefault(configuration, []).append(run.loss)
    return {budget: {key: mean(values) for key, values in found.items()} for budget, found in sorted(losses.items())}


def best_setting(measured: Cells, method: str, parameters: int, *, below: float) -> str | None:
    """The setting with the lowest loss at the largest budget below one; None where there was no run."""
    for budget in sorted(measured, reverse=True):
        found = {key[2]: loss for key, loss in measured[budget].items() if key[:2] == (method, parameters)}
        if budget < below and found:
            return min(found, key=lambda setting: found[setting])
    return None


def plan(
    runs: dict[str, list[Run]], budget_flops: float, *, bootstrap: int = BOOTSTRAP
) -> tuple[Chosen, dict[str, Law]]:
    """What the laws of the smaller budgets choose at a budget, among the sizes and settings of the sweep.

    Args:
        runs: by method, see `fittable`.
        budget_flops: the largest.
        bootstrap: samples for the laws' intervals.

    Raises:
        UserError: no method has enough runs below the budget.
    """
    everything = [run for of_method in runs.values() for run in of_method]
    measured = cells(everything)
    laws: dict[str, Law] = {}
    found = []
    for method, of_method in runs.items():
        below = [run for run in of_method if run.budget_flops < budget_flops]
        if len({run.budget_flops for run in below}) < 2 or len({run.parameters for run in below}) < 2:
            continue
        laws[method] = fit_law(below, bootstrap=bootstrap)
        candidates = []
        for parameters in sorted({run.parameters for run in below}):
            setting = best_setting(measured, method, parameters, below=budget_flops)
            one = next(run for run in below if run.parameters == parameters and run.setting == setting)
            candidates.append(Candidate(f"{parameters} {setting}", parameters, one.flops_per_token, one.trainable))
        choice = choose(laws[method], budget_flops, candidates, extrapolate=True)[0]
        parameters = int(choice.candidate.parameters)
        setting = choice.candidate.name.partition(" ")[2]
        loss = measured.get(budget_flops, {}).get((method, parameters, setting))
        found.append(Chosen("planned", method, parameters, setting, loss, choice.loss))
    if not found:
        raise UserError("no method has two sizes and two budgets below the largest: let the sweep run on")
    return min(found, key=lambda chosen: chosen.predicted or math.inf), laws


def baselines(runs: dict[str, list[Run]], budget_flops: float) -> list[Chosen]:
    """The best that was measured at a budget, and three rules of thumb."""
    measured = cells([run for of_method in runs.values() for run in of_method])
    at = measured[budget_flops]
    largest = max(size for _, size, _ in at)
    best = min(at, key=lambda key: at[key])
    smallest = measured[min(measured)]
    won = min(smallest, key=lambda key: smallest[key])
    found = [Chosen("best measured", *best, at[best])]
    full = best_setting(measured, "full", largest, below=budget_flops)
    if full is None:  # no run of it below: the better setting of those measured here, to its advantage
        fulls = {setting: loss for (method, size, setting), loss in at.items() if (method, size) == ("full", largest)}
        full = min(fulls, key=lambda setting: fulls[setting], default="")
    found.append(Chosen("always full on the largest", "full", largest, full, at.get(("full", largest, full))))
    ranked = [key for key in at if key[:2] == ("lora", largest) and read_setting(key[2]).get("rank") == LORA_RANK]
    lora = min(ranked, key=lambda key: at[key], default=("lora", largest, f"rank={LORA_RANK}"))
    found.append(Chosen(f"always LoRA r={LORA_RANK} on the largest", *lora, at.get(lora)))
    return [*found, Chosen("won at the smallest budget", *won, at.get(won))]


def crossing(runs: dict[str, list[Run]]) -> dict[str, object]:
    """Where LoRA passes full fine-tuning: by the laws of all budgets, and by the best measured at each budget."""
    if not {"full", "lora"} <= set(runs):
        return {"by_law": None, "measured": {}}
    measured = cells([*runs["full"], *runs["lora"]])
    winners = {f"{budget:g}": min(found, key=lambda key: found[key])[0] for budget, found in measured.items()}
    return {
        "by_law": crossings(fit_law(runs["full"], bootstrap=0), fit_law(runs["lora"], bootstrap=0), extrapolate=True),
        "measured": winners,
    }


def main() -> None:
    """Compare, append the row, print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="table of runs")
    parser.add_argument("--budget", type=float, help="to plan for, in FLOP [the largest in the table]")
    parser.add_argument("--no-row", action="store_true", help="print only: the sweep is not through")
    arguments = parser.parse_args()
    try:
        runs = fittable(read_runs(arguments.runs), source=str(arguments.runs))
        budget = arguments.budget or max(run.budget_flops for of_method in runs.values() for run in of_method)
        planned, laws = plan(runs, budget)
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
    others = baselines(runs, budget)
    best = others[0].loss
    assert best is not None
    print(f"\nat {budget:g} FLOP, laws of the smaller budgets\n")
    print("| configuration | method | N | setting | predicted | measured | above the best |\n| --- |" + " --- |" * 6)
    for chosen in (planned, *others):
        predicted = "-" if chosen.predicted is None else f"{chosen.predicted:.4f}"
        loss, above = ("-", "-") if chosen.loss is None else (f"{chosen.loss:.4f}", f"{chosen.loss / best - 1:+.1%}")
        cells_ = (chosen.what, chosen.method, f"{chosen.parameters:,}", chosen.setting, predicted, loss, above)
        print("| " + " | ".join(cells_) + " |")
    crosses = crossing(runs)
    print(f"\nfull against LoRA: laws cross at {crosses['by_law']}, best measured {crosses['measured']}")
    for law in laws.values():
        print(f"{law.method}: " + "; ".join(law.warnings or ("nothing is left open",)))
    within = planned.loss is not None and planned.loss <= (1 + TARGET) * best
    ahead = planned.loss is not None and all(planned.loss < o.loss for o in others[1:] if o.loss is not None)
    print(f"within {TARGET:.0%} of the best: {within}; ahead of every rule of thumb: {ahead}")
    if not arguments.no_row:
        figures = [vars(chosen) for chosen in (planned, *others)]
        rows.append("recipe", budget_flops=budget, within=within, ahead=ahead, chosen=figures, crossing=crosses)


if __name__ == "__main__":
    main()
