"""`Plan`: the configuration that a budget is best spent on, the one after it, and why.

With a fitted law every size and method has an expected loss, and the lowest is taken. Without one the recipe paper's
Algorithm 1 names the method, and a rule of ours the size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

from lacos_st.errors import UserError
from lacos_st.recipe import paper
from lacos_st.recipe.choice import Chosen, chosen_setting
from lacos_st.recipe.family import Member
from lacos_st.recipe.job import Method
from lacos_st.recipe.law import Law
from lacos_st.recipe.law_file import Laws
from lacos_st.recipe.proposal import (
    LeftOut,
    Proposal,
    Request,
    Setting,
    preset_rate,
    propose,
    smallest_budget,
)
from lacos_st.recipe.runs_table import Run
from lacos_st.recipe.units import show_flops

PAPER_LAW = "Algorithm 1 of the recipe paper (arXiv 2406.04165)"


@dataclass(frozen=True)
class Plan:
    """What to train.

    Attributes:
        request: that it answers.
        law: what it goes by, a phrase.
        best: the configuration.
        runner_up: the next one; None where nothing else can be run.
        considered: all that can be run, the best first where a law ranks them.
        left_out: what cannot.
        why: sentences.
        notes: what to mind, sentences.
    """

    request: Request
    law: str
    best: Proposal
    runner_up: Proposal | None
    considered: tuple[Proposal, ...]
    left_out: tuple[LeftOut, ...]
    why: tuple[str, ...]
    notes: tuple[str, ...]


def plan_by_law(
    family: Sequence[Member],
    request: Request,
    laws: Laws,
    *,
    source: str,
    runs: Sequence[Run] = (),
    extrapolate: bool = False,
) -> Plan:
    """The configuration with the lowest expected loss.

    Args:
        family: bases to choose from.
        request: the limits.
        laws: fitted; each of its methods is considered.
        source: where they were read from.
        runs: that they were fitted on: rank, frozen blocks and learning rate are then those that won nearest.
        extrapolate: also where a law was not fitted.

    Raises:
        UserError: nothing can be run, or all that can be is out of the laws' range.
    """
    found: list[Proposal] = []
    left_out: list[LeftOut] = []
    beyond: list[UserError] = []
    notes = [f"the law of {law.method}: {warning}" for law in _best_forms(laws) for warning in law.warnings]
    for law in _best_forms(laws):
        for member in family:
            option, stands_in = _trained(member, law, laws, request, runs)
            if isinstance(option, LeftOut):
                left_out.append(option)
                continue
            try:
                if not extrapolate:
                    law.check_range(budget_flops=option.bill.flops.paper)
                loss = law.predict(
                    member.parameters, option.tokens, trainable=option.trainable, extrapolate=extrapolate
                )
            except UserError as error:
                beyond.append(error)
                left_out.append(LeftOut(member, option.setting.method, str(error)))
                continue
            found.append(replace(option, loss=loss))
            if stands_in and stands_in not in notes:
                notes.append(stands_in)
    if not found:
        raise beyond[-1] if beyond else smallest_budget(left_out, request)
    found.sort(key=lambda option: cast(float, option.loss.loss if option.loss else None))
    best, second = found[0], found[1] if len(found) > 1 else None
    if extrapolate:
        notes += _beyond(laws, found)
    why = [
        f"Of the {len(found)} configurations that can be run, the law ({source}, fitted on the family {laws.family}: "
        f"{laws.provenance.rows} runs, {laws.provenance.date[:10]}) expects the lowest loss of {best.label}: "
        f"{_loss(best)}.",
        *_why_size(best, found, request),
        f"Setting: {best.setting.source}.",
        *_why_common(request),
        *_why_second(best, second),
    ]
    return Plan(request, f"fitted law {source}", best, second, tuple(found), tuple(left_out), tuple(why), tuple(notes))


def _best_forms(laws: Laws) -> list[Law]:
    """A law for each method: L(N, D) where there is one."""
    found: dict[str, Law] = {}
    for law in laws.laws:
        if law.method not in found or law.form == "ND":
            found[law.method] = law
    return list(found.values())


def _trained(
    member: Member, law: Law, laws: Laws, request: Request, runs: Sequence[Run]
) -> tuple[Proposal | LeftOut, str | None]:
    """A base by a law's method; where LoRA does not fit, over an 8-bit base, which LoRA's law then stands for."""
    method = cast(Method, law.method)
    setting = chosen_setting(member.shape, method, law, runs, request)
    if setting is None:
        return LeftOut(member, method, "has no biases to train"), None
    option = propose(member, setting, request)
    if method != "lora" or "lacos" in laws.methods or isinstance(option, Proposal) or option.smallest_flops:
        return option, None
    stored = propose(member, replace(setting, method="lacos"), request)
    if isinstance(stored, LeftOut):
        return option, None
    return stored, "where LoRA does not fit, its base is stored in 8 bits (lacos): LoRA's law stands for it"


def _beyond(laws: Laws, found: Sequence[Proposal]) -> list[str]:
    """What lies outside the fitted ranges, of the two best."""
    notes = []
    for option in found[:2]:
        law = next((law for law in _best_forms(laws) if law.method == option.setting.method), None)
        if law is None:
            continue
        try:
            law.check_range(N=option.member.parameters, D=option.tokens, budget_flops=option.bill.flops.paper)
        except UserError as error:
            notes.append(f"extrapolated: {error}")
    return notes


def _loss(option: Proposal) -> str:
    assert option.loss is not None
    span = "" if option.loss.low != option.loss.low else f" ({option.loss.low:.4g} to {option.loss.high:.4g})"
    return f"{option.loss.loss:.4g}{span}"


def _why_size(best: Proposal, found: Sequence[Proposal], request: Request) -> list[str]:
    """What smaller and larger sizes of the same method would do."""
    same = sorted(
        (option for option in found if option.setting.method == best.setting.method),
        key=lambda option: option.member.parameters,
    )
    place = same.index(best)
    beside = same[max(0, place - 1) : place] + same[place + 1 : place + 2]
    text = [
        "Of its neighbours in size "
        + " and ".join(
            f"{other.member.name} sees {_times(other, best)} the data, for {_loss(other)}" for other in beside
        )
        + "."
    ] * bool(beside)
    if best.all_data:
        text.append(f"All {request.pairs:,.0f} pairs are used once, and the data end before the budget does.")
    return text


def _why_common(request: Request) -> list[str]:
    if request.common is None:
        return []
    limit = request.common.max_seq_length
    cut = "" if limit is None else f", sentences of at most {limit} tokens"
    return [f"Everything else as all runs had it: preset {request.common.preset}{cut}."]


def _times(other: Proposal, best: Proposal) -> str:
    return f"{other.tokens / best.tokens:.2g} times"


def _why_second(best: Proposal, second: Proposal | None) -> list[str]:
    if second is None or second.loss is None or best.loss is None:
        return []
    gap = second.loss.loss / best.loss.loss - 1
    close = second.loss.low <= best.loss.high
    unsure = "; the intervals overlap, so that the law does not tell the two apart" if close else ""
    return [f"The runner-up, {second.label}, is expected at {_loss(second)}: {gap:.1%} more{unsure}."]


def plan_by_paper(family: Sequence[Member], request: Request, *, shipped: Sequence[tuple[str, Laws]] = ()) -> Plan:
    """The method by Algorithm 1; the size by a fit of this project where one reaches so far, else by our rule.

    Args:
        family: bases to choose from.
        request: the limits.
        shipped: fits that come with the package, by name.

    Raises:
        UserError: nothing can be run.
    """
    flops = request.budget.flops
    first, second = paper.methods(flops)
    left_out: list[LeftOut] = []
    # full fine-tuning that does not fit gives way to freezing, then to adapters; adapters to an 8-bit base
    groups = {"full": (("full",), ("freeze",)), "lora": (("lora", "lacos"),)}
    found: dict[str, list[Proposal]] = {}
    for name in (first, second):
        tried: list[LeftOut] = []
        for methods in groups[name]:
            options = [_first_that_fits(member, methods, request, tried) for member in family]
            found[name] = [option for option in options if option is not None]
            if found[name] or any(each.smallest_flops is not None for each in tried):
                break
        left_out += tried
        if name == first and not found[name] and any(each.smallest_flops is not None for each in tried):
            raise smallest_budget(tried, request)
    chosen = {name: _sized(options, request, shipped) for name, options in found.items() if options}
    if not chosen:
        raise smallest_budget(left_out, request)
    side = "at most" if first == "full" else "above"
    best = chosen.get(first) or chosen[second]
    other = chosen[second] if first in chosen and second in chosen else None
    why = [
        f"{show_flops(flops)} are {side} the paper's threshold of {show_flops(paper.THRESHOLD_FLOPS)}: {_names(first)}."
    ]
    if first not in chosen:
        why.append(f"{_names(first)} fits no size of the family, so {_names(second)} takes its place.")
    elif best.option.setting.method != first:
        why.append(f"{_names(first)} itself does not fit: {best.option.setting.method} is the nearest that does.")
    why += [best.sentence, f"Setting: {best.option.setting.source}."]
    why.append("No loss is expected: the constants of the paper's laws are not published.")
    if request.pairs is not None and best.option.all_data:
        why.append(
            f"The {request.pairs:,.0f} pairs are what limits the run: there the paper takes the largest model, trained "
            "in full or with LoRA of a higher rank."
        )
    if other is not None:
        why.append(f"The runner-up is the method on the other side of the threshold: {other.option.label}.")
    considered = [option for options in found.values() for option in options]
    return Plan(
        request,
        PAPER_LAW,
        best.option,
        None if other is None else other.option,
        tuple(considered),
        tuple(left_out),
        tuple(why),
        tuple(_few(best.option)),
    )


def _names(method: str) -> str:
    return {"full": "Full fine-tuning", "lora": "LoRA"}[method]


def _first_that_fits(
    member: Member, methods: Sequence[str], request: Request, left_out: list[LeftOut]
) -> Proposal | None:
    for method in methods:
        option = propose(member, paper_setting(member, cast(Method, method)), request)
        if isinstance(option, Proposal):
            return option
        left_out.append(option)
        if option.smallest_flops is not None:
            break  # another method helps where memory is short, not where the budget is
    return None


def paper_setting(member: Member, method: Method) -> Setting:
    """Rank, frozen blocks and learning rate as the paper has them."""
    shape = member.shape
    lr, source = preset_rate(method, shape)
    said = f"learning rate {lr:g}, {source}"
    if method in ("lora", "lacos"):
        rank = paper.rank(shape)
        said = f'rank {rank} ("32 or 128, around 128"), {said}'
        return Setting(method, rank=rank, lr=lr, source=said)
    if method == "freeze":
        blocks = paper.frozen_blocks(shape)
        said = f"{blocks} of {shape.layers} blocks frozen (little up to 160M, 50 to 70 % at 1B), {said}"
        return Setting(method, frozen_blocks=blocks, lr=lr, source=said)
    return Setting(method, lr=lr, source=said)


def _sized(options: Sequence[Proposal], request: Request, shipped: Sequence[tuple[str, Laws]]) -> Chosen:
    """The size, by a fit that reaches so far, else by the rule."""
    for name, laws in shipped:
        law = next((law for law in _best_forms(laws) if law.method == options[0].setting.method), None)
        ranked = []
        for option in options if law is not None else ():
            assert law is not None
            try:
                law.check_range(budget_flops=option.bill.flops.paper)
                ranked.append((law.predict(option.member.parameters, option.tokens).loss, option))
            except UserError:
                continue
        if len(ranked) > 1:
            option = min(ranked, key=lambda each: each[0])[1]
            return Chosen(
                option,
                f"The paper prints no optimal sizes: N is the one with the lowest loss by this project's own fit "
                f"{name!r} ({option.setting.method}, {laws.provenance.rows} runs of the family {laws.family}).",
            )
    rule = (
        "The paper prints no optimal sizes, and no fit of this project reaches this budget: by a rule of ours, which "
        f"is not measured, N is the size that sees nearest to {paper.TOKENS_PER_PARAMETER:g} token per parameter"
    )
    measured = "For a measured one give --law FILE"
    option = min(options, key=lambda each: abs(math.log(each.tokens / each.member.parameters)))
    ends = [each for each in options if each.all_data and each.member.parameters > option.member.parameters]
    if option.all_data or ends:
        larger = max(ends, default=option, key=lambda each: each.member.parameters)
        return Chosen(
            larger,
            f"The data end before the budget does: N is the largest that can use all of them: {larger.member.name}.",
        )
    seen = option.tokens / option.member.parameters
    return Chosen(option, f"{rule}: {option.member.name}, {seen:.2g} of them. {measured}.")


def _few(option: Proposal) -> list[str]:
    if option.steps >= paper.FEWEST_STEPS:
        return []
    return [f"{option.steps} steps are few: a smaller --batch-size gives more of them, with fewer negatives each"]
