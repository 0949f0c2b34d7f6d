"""A plan as text, as JSON, and as the file that `lacos-st train --config` runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from lacos_st.recipe.bill import TERMS
from lacos_st.recipe.law import LEVEL
from lacos_st.recipe.law_file import without_nan
from lacos_st.recipe.plan import Plan
from lacos_st.recipe.proposal import RECIPE, Proposal
from lacos_st.recipe.tables import align, show_count
from lacos_st.recipe.units import show_bytes, show_flops, show_seconds
from lacos_st.settings import TrainConfig

FORMAT_VERSION = 1
SHOWN = 6  # configurations of the table beside the two


def lines(plan: Plan) -> Iterator[str]:
    """Lines for a terminal: the limits, the plan beside its runner-up, why, and what to mind."""
    request = plan.request
    serving = f", {show_count(request.serve_tokens)} tokens served from it" if request.serve_tokens else ""
    yield f"budget: {show_flops(request.budget.flops)}{serving}; {request.budget.source}"
    data = "as many pairs as it pays for" if request.pairs is None else f"{request.pairs:,.0f} pairs"
    memory = "any memory" if request.memory_bytes is None else show_bytes(request.memory_bytes)
    yield f"limits: {data}, of {request.length:g} tokens a side; {memory}; {request.device}, {request.dtype}"
    yield f"law: {plan.law}"
    yield ""
    options = [plan.best] + ([] if plan.runner_up is None else [plan.runner_up])
    columns = [_column(option, plan) for option in options]
    heads = ["plan", "runner-up"][: len(options)]
    yield from align([["", *heads], *([name, *(of[name] for of in columns)] for name in columns[0])])
    yield ""
    yield "why:"
    yield from (f"  {sentence}" for sentence in plan.why)
    if plan.notes:
        yield "mind:"
        yield from (f"  {note[:1].upper()}{note[1:]}." for note in plan.notes)
    yield from _table(plan)


def _column(option: Proposal, plan: Plan) -> dict[str, str]:
    flops, seconds = option.bill.flops, plan.request.budget.seconds(option.training_flops)
    found = {
        "base": option.member.name,
        "method": option.bill.label,
        "N": f"{option.member.parameters:,}",
        "D, tokens": f"{option.tokens:,.0f}",
        "pairs": f"{option.pairs:,}",
        "steps": f"{option.steps:,} of {option.job.batch_size}",
        "learning rate": f"{option.setting.lr:g}",
        "expected loss": "not known",
    }
    if option.loss is not None:
        found["expected loss"] = f"{option.loss.loss:.4g}"
        span = "not known" if math.isnan(option.loss.low) else f"{option.loss.low:.4g} to {option.loss.high:.4g}"
        found[f"  its {LEVEL:.0%} interval"] = span
    found["FLOP, as the paper counts"] = f"{flops.paper:.4g}"
    found |= {f"  {name}": f"{getattr(flops, name):.3g}" for name, _ in TERMS}
    found["  all of it"] = f"{flops.total:.4g}"
    found["time of training"] = "no machine named" if seconds is None else show_seconds(seconds)
    found["peak memory"] = show_bytes(option.peak_bytes) + ("" if option.fits is None else ", fits")
    found["  switched on for it"] = ", ".join(_switched(option)) or "nothing"
    return found


def _switched(option: Proposal) -> list[str]:
    found = ["checkpointing"] if option.job.checkpointing else []
    if option.job.mini_batch is not None:
        found.append(f"cached loss, {option.job.mini_batch} pairs at a time")
    return found


def _table(plan: Plan) -> Iterator[str]:
    others = [option for option in plan.considered if option is not plan.best and option is not plan.runner_up]
    if others:
        yield "also possible:"
        rows = [["", "D", "steps", "loss", "peak"]]
        for option in others[:SHOWN]:
            loss = "-" if option.loss is None else f"{option.loss.loss:.4g}"
            rows.append(
                [option.label, show_count(option.tokens), f"{option.steps:,}", loss, show_bytes(option.peak_bytes)]
            )
        yield from (f"  {line}" for line in align(rows))
        if len(others) > SHOWN:
            yield f"  and {len(others) - SHOWN} more, see --json"
    if plan.left_out:
        yield "left out:"
        yield from (f"  {each.method} on {each.member.name}: {each.reason}" for each in plan.left_out[:SHOWN])
        if len(plan.left_out) > SHOWN:
            yield f"  and {len(plan.left_out) - SHOWN} more, see --json"


def as_json(plan: Plan) -> dict[str, Any]:
    """Plain numbers; null is what is not known or not asked."""
    request = plan.request
    rate = request.budget.rate
    found = {
        "format_version": FORMAT_VERSION,
        "law": plan.law,
        "budget": {
            "flops": request.budget.flops,
            "counted": request.budget.counted,
            "source": request.budget.source,
            "flops_per_second": None if rate is None else rate.flops_per_second,
        },
        "request": {
            name: getattr(request, name)
            for name in ("length", "batch_size", "device", "dtype", "memory_bytes", "pairs", "serve_tokens")
        },
        "plan": _option(plan.best, plan),
        "runner_up": None if plan.runner_up is None else _option(plan.runner_up, plan),
        "considered": [_option(option, plan) for option in plan.considered],
        "left_out": [
            {"base": each.member.name, "method": each.method, "reason": each.reason} for each in plan.left_out
        ],
        "why": list(plan.why),
        "notes": list(plan.notes),
    }
    plain: dict[str, Any] = without_nan(found)
    return plain


def _option(option: Proposal, plan: Plan) -> dict[str, Any]:
    job, bill = option.job, option.bill
    return {
        "base": option.member.name,
        "method": option.setting.method,
        "parameters": option.member.parameters,
        "counts": asdict(bill.parameters),
        "tokens": option.tokens,
        "pairs": option.pairs,
        "steps": option.steps,
        "batch_size": job.batch_size,
        "lora_rank": job.rank if job.adapted else None,
        "frozen_blocks": job.frozen_blocks if job.method == "freeze" else None,
        "learning_rate": option.setting.lr,
        "loss": None if option.loss is None else asdict(option.loss),
        "flops": asdict(bill.flops),
        "paper_flops": bill.flops.paper,
        "total_flops": bill.flops.total,
        "training_seconds": plan.request.budget.seconds(option.training_flops),
        "peak_bytes": option.peak_bytes,
        "fits": option.fits,
        "gradient_checkpointing": job.checkpointing,
        "mini_batch_size": job.mini_batch,
        "dtype": job.dtype,
        "autocast": option.autocast,
    }


def config_of(
    option: Proposal, *, data: Sequence[str], output: str, shared: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Options of `lacos-st train`, checked by it; what is not among them stands in its preset, `recipe` or the runs'.

    Args:
        option: to be trained.
        data: as `lacos-st train` takes it.
        output: the run's folder.
        shared: options that all runs of a law were told, their preset too; what was planned goes before them. None, or
            empty: not known.

    Raises:
        UserError: the options contradict each other.
    """
    job = option.job
    values: dict[str, Any] = {
        "preset": "recipe",
        **{name: list(value) if isinstance(value, tuple) else value for name, value in (shared or {}).items()},
        "base": option.member.name,
        "data": list(data),
        "output": output,
        "method": option.setting.method,
        "lr": option.setting.lr,
        "batch_size": job.batch_size,
        "max_steps": option.steps,
        "gradient_checkpointing": job.checkpointing,
        "dtype": job.dtype,
    }
    if job.adapted:
        values["lora_rank"] = job.rank
    if job.method == "freeze":
        values["frozen_blocks"] = job.frozen_blocks
    if job.method == "lacos":
        values["block_size"] = job.block_size
    if job.mini_batch is not None:
        values["mini_batch_size"] = job.mini_batch
    if option.autocast is not None:
        values["autocast"] = option.autocast
    if not shared and job.length > RECIPE.values["max_seq_length"]:
        values["max_seq_length"] = None  # sentences longer than the preset keeps
    values |= option.setting.others
    TrainConfig.from_mapping(values, source="the plan").resolved()
    return values


def as_yaml(plan: Plan, values: dict[str, Any]) -> str:
    """The text of a file for `lacos-st train --config`, which says in its head where it comes from."""
    import yaml

    head = [f"{plan.best.label}: {show_flops(plan.request.budget.flops)}, {plan.law}", *plan.why]
    text = "".join(f"# {' '.join(sentence.split())}\n" for sentence in head)
    return text + str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
