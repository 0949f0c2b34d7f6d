"""What `lacos-st fit` says: constants with intervals, warnings, held-out error, and the best size at each budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

from lacos_st.recipe.forms import FormName
from lacos_st.recipe.isoflop import Isoflops
from lacos_st.recipe.law import LEVEL, SHOWN, Law
from lacos_st.recipe.law_file import Laws, without_nan
from lacos_st.recipe.optimum import Optimum, crossings, lowest_loss, optimum, tokens_at
from lacos_st.recipe.tables import align, show_count

NORMAL = 1.96  # standard errors on either side of an estimate, at LEVEL

BELOW_ZERO = "below 0"


def report(laws: Laws, budgets: Sequence[float] = (), *, extrapolate: bool = False) -> Iterator[str]:
    """Lines about all laws of a family.

    Args:
        laws: fitted.
        budgets: at which the best size is asked; none: those that were fitted.
        extrapolate: also far beyond what was fitted.

    Raises:
        UserError: a budget is beyond the range of a law, without `extrapolate`.
    """
    source = laws.provenance
    left_out = f"; {source.unreached} did not reach their budget and are left out" if source.unreached else ""
    yield f"{laws.family}: {source.rows} runs of {source.source}{left_out}"
    for method in laws.methods:
        mine = [law for law in laws.laws if law.method == method]
        for law in mine:
            yield ""
            yield from _constants(law)
        yield ""
        yield from optima_table(laws, method, budgets, extrapolate=extrapolate)
        yield from (f"warning: {warning}" for warning in laws.isoflops[method].warnings)
    if len(laws.methods) > 1:
        yield ""
        yield from _crossings(laws)


def _constants(law: Law) -> Iterator[str]:
    fitted = law.fitted
    yield f"{law.method}: {SHOWN[law.form]}"
    yield (
        f"{fitted.rows} runs of the best settings, {fitted.sizes} sizes, {fitted.budgets} budgets, "
        f"{fitted.configurations} configurations; {law.agreeing:.0%} of the descents agree"
    )
    rows = [["", "estimate", f"{LEVEL:.0%} interval"]]
    for name, value in law.constants.items():
        rows.append([name, f"{value:.4g}", _span(*law.intervals[name], lambda end: f"{end:.4g}")])
    yield from align(rows)
    seeds = "one seed each" if law.seed_noise is None else f"{law.seed_noise:.2%} between seeds"
    yield f"residual {law.residual:.2%} ({seeds})"
    for part in law.held_out:
        yield f"held out, {part.what}: off by {part.mean_error:.2%} on average, {part.max_error:.2%} at most"
    if not law.held_out:
        yield "held out: nothing, as what is left would have one size or one budget"
    yield from (f"warning: {warning}" for warning in law.warnings)


def optima(
    laws: Laws, method: str, budgets: Sequence[float] = (), *, extrapolate: bool = False
) -> dict[FormName, list[Optimum]]:
    """The best size at each budget by each form; see `report` for the arguments and what is raised."""
    mine = [law for law in laws.laws if law.method == method]
    wanted = budgets or [line.budget_flops for line in laws.isoflops[method].parabolas]
    return {law.form: [optimum(law, budget, extrapolate=extrapolate) for budget in wanted] for law in mine}


def optima_table(laws: Laws, method: str, budgets: Sequence[float] = (), *, extrapolate: bool = False) -> Iterator[str]:
    """Lines: per budget the best size by each form and by the IsoFLOP lines; see `report`."""
    found = optima(laws, method, budgets, extrapolate=extrapolate)
    lines, law = laws.isoflops[method], next(law for law in laws.laws if law.method == method)
    rows = [["best size at", "by", "N", "interval", "D", "loss", "interval"]]
    marks = set()
    impossible = False
    for same_budget in zip(*found.values(), strict=True):
        budget = same_budget[0].budget_flops
        for form, best in zip(found, same_budget, strict=True):
            mark = "!" if best.edge else "*" if best.beyond else ""
            marks.add(mark)
            rows.append(
                [
                    f"{budget:.3g} FLOP" if best is same_budget[0] else "",
                    form,
                    show_count(best.parameters) + mark,
                    _span(best.parameters_low, best.parameters_high, show_count),
                    show_count(best.tokens),
                    _loss(best.loss),
                    _span(best.loss_low, best.loss_high, _loss) if best.loss > 0 else "-",
                ]
            )
            impossible |= best.loss <= 0
        rows.append(["", "IsoFLOP", *_isoflop_cells(lines, law, budget)])
    yield from align(rows)
    if lines.power_law is not None:
        power = lines.power_law
        error = "" if math.isnan(power.error) else f" ± {NORMAL * power.error:.3f}"
        yield f"IsoFLOP: N_opt = {power.factor:.3g}·C^({power.exponent:.3f}{error}) through {power.budgets} minima"
        if not all(line.trusted for line in lines.parabolas):
            yield "~: by that power law, as the line itself has no minimum"
    if "*" in marks:
        yield "*: beyond the sizes that were run"
    if "!" in marks:
        yield "!: at the end of the sizes that may be asked: the law has no minimum there, and this is no optimum"
    if impossible:
        yield f"{BELOW_ZERO}: no loss is; the law says nothing of models of that size"


def _loss(value: float) -> str:
    return f"{value:.4g}" if value > 0 else BELOW_ZERO


def as_json(laws: Laws, budgets: Sequence[float] = (), *, extrapolate: bool = False) -> dict[str, Any]:
    """The file of the laws with the best sizes by method and form; see `report`."""
    best = {
        method: {form: [asdict(each) for each in found] for form, found in of_method.items()}
        for method in laws.methods
        for of_method in [optima(laws, method, budgets, extrapolate=extrapolate)]
    }
    return laws.to_dict() | {"optima": without_nan(best)}


def _isoflop_cells(lines: Isoflops, law: Law, budget: float) -> list[str]:
    """Cells at a budget: of its own line, else by the power law (with ~), else nothing."""
    line = next((line for line in lines.parabolas if line.budget_flops == budget and line.trusted), None)
    if line is not None:
        reach = math.exp(NORMAL * line.error)
        span = _span(line.parameters / reach, line.parameters * reach, show_count)
        return [
            show_count(line.parameters),
            span,
            show_count(tokens_at(law, budget, line.parameters)),
            f"{line.loss:.4g}",
            "-",
        ]
    if lines.power_law is not None:
        size = lines.power_law.parameters(budget)
        return [f"~{show_count(size)}", "-", show_count(tokens_at(law, budget, size)), "-", "-"]
    return ["-"] * 5


def _span(low: float, high: float, show: Callable[[float], str]) -> str:
    return "-" if math.isnan(low) or math.isnan(high) else f"{show(low)} to {show(high)}"


def _crossings(laws: Laws) -> Iterator[str]:
    """Which of two methods is better where, by their laws of N and D, within the fitted budgets."""
    for first, second in combinations(laws.methods, 2):
        form = laws.laws[0].form
        one, other = laws.law(first, form), laws.law(second, form)
        found = crossings(one, other)
        low = max(one.fitted.budget_flops[0], other.fitted.budget_flops[0])
        better, worse = (first, second) if lowest_loss(one, low) <= lowest_loss(other, low) else (second, first)
        if found:
            places = " and ".join(f"{budget:.2g}" for budget in found)
            yield f"{better} is better than {worse} up to {found[0]:.2g} FLOP; their laws cross at {places}"
        else:
            yield f"{better} is better than {worse} at every budget that both were fitted on"
