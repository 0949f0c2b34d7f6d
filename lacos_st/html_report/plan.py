"""Plans and laws: what a budget is best spent on, why, and the plots that say how surely."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lacos_st.errors import UserError
from lacos_st.html_report.charts import axis, chart, series, tooltip
from lacos_st.html_report.laws import law_block, measured
from lacos_st.html_report.markup import Html, bullets, join, tag
from lacos_st.html_report.section import Cell, Row, Section, figure, table
from lacos_st.recipe.law import LEVEL
from lacos_st.recipe.law_file import Laws
from lacos_st.recipe.runs_table import Run
from lacos_st.recipe.tables import show_count
from lacos_st.recipe.units import show_bytes, show_flops, show_seconds


@dataclass(frozen=True)
class Option:
    """A configuration of a plan; what is None is not known or was not asked."""

    base: str
    method: str
    parameters: float
    tokens: float
    steps: int
    batch_size: int
    lora_rank: int | None
    frozen_blocks: int | None
    learning_rate: float
    loss: float | None
    low: float | None
    high: float | None
    paper_flops: float
    training_seconds: float | None
    peak_bytes: float


@dataclass(frozen=True)
class ReadPlan:
    """What `lacos-st plan --json` printed."""

    law: str
    budget_flops: float
    best: Option
    runner_up: Option | None
    considered: tuple[Option, ...]
    why: tuple[str, ...]
    notes: tuple[str, ...]


def parse_plan(values: Any, *, source: str) -> ReadPlan:
    """A plan from its JSON.

    Raises:
        UserError: something is missing, or is no number.
    """
    try:
        second = values["runner_up"]
        return ReadPlan(
            law=str(values["law"]),
            budget_flops=_real(values["budget"]["flops"]),
            best=_option(values["plan"]),
            runner_up=None if second is None else _option(second),
            considered=tuple(_option(each) for each in values["considered"]),
            why=tuple(str(sentence) for sentence in values["why"]),
            notes=tuple(str(sentence) for sentence in values["notes"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{source} is no file of lacos-st plan --json ({type(error).__name__}: {error}): write it anew"
        ) from error


def _option(values: Mapping[str, Any]) -> Option:
    loss = values["loss"] or {}
    rank, blocks = (None if values[name] is None else int(values[name]) for name in ("lora_rank", "frozen_blocks"))
    return Option(
        base=str(values["base"]),
        method=str(values["method"]),
        steps=int(values["steps"]),
        batch_size=int(values["batch_size"]),
        training_seconds=_maybe(values["training_seconds"]),
        loss=_maybe(loss.get("loss")),
        low=_maybe(loss.get("low")),
        high=_maybe(loss.get("high")),
        lora_rank=rank,
        frozen_blocks=blocks,
        parameters=_real(values["parameters"]),
        tokens=_real(values["tokens"]),
        learning_rate=_real(values["learning_rate"]),
        paper_flops=_real(values["paper_flops"]),
        peak_bytes=_real(values["peak_bytes"]),
    )


def _real(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r:.50} is no finite number")
    return float(value)


def _maybe(value: Any) -> float | None:
    return None if value is None else _real(value)


def plan_section(
    plans: Sequence[tuple[str, ReadPlan]],
    laws: Sequence[tuple[str, Laws]],
    tables: Sequence[tuple[str, list[Run]]],
) -> Section | None:
    """The section; None where there is neither a plan nor a law."""
    if not plans and not laws:
        return None
    charts: dict[str, dict[str, Any]] = {}
    parts: list[Html] = []
    for place, (name, plan) in enumerate(plans):
        parts.append(_plan(plan, name, place))
        if drawn := _choices(plan):
            charts[f"choices-{place}"] = drawn
    budget = plans[0][1].best.paper_flops if len(plans) == 1 else None
    for place, (_, each) in enumerate(laws):
        block, found = law_block(each, measured(each, tables), place=place, budget_flops=budget)
        parts.append(block)
        charts |= found
    counts = [(len(plans), "plan"), (len(laws), "file of laws")]
    summary = " and ".join(f"{count} {what}" for count, what in counts if count)
    return Section("plan", "Plan" if plans else "Laws", summary, join(parts), charts)


def _plan(plan: ReadPlan, name: str, place: int) -> Html:
    options = [("the plan", plan.best)] + ([] if plan.runner_up is None else [("the next best", plan.runner_up)])
    columns = [_column(option) for _, option in options]
    rows: list[Row] = [[name, *(Cell(column[name]) for column in columns)] for name in columns[0]]
    drawn = f"Expected loss of every configuration, with {LEVEL:.0%} interval; the diamond is the plan"
    has_losses = any(option.loss is not None for option in plan.considered)
    return join(
        [
            tag("h3", f"{show_flops(plan.budget_flops)}, by {plan.law}"),
            tag("p", f"From {name}.", class_="note"),
            table(
                ["", *(label for label, _ in options)], rows, caption="What the budget is best spent on", sorts=False
            ),
            bullets(plan.why),
            figure(f"choices-{place}", drawn)
            if has_losses
            else tag(
                "p", "This plan goes by no fitted law: no losses are expected that could be drawn.", class_="note"
            ),
            tag("details", tag("summary", f"What to mind: {len(plan.notes)}"), bullets(plan.notes))
            if plan.notes
            else Html(""),
        ]
    )


def _column(option: Option) -> dict[str, str]:
    method = option.method
    method += "" if option.lora_rank is None else f", rank {option.lora_rank}"
    method += "" if option.frozen_blocks is None else f", {option.frozen_blocks} blocks frozen"
    span = "not known" if option.low is None or option.high is None else f"{option.low:.4g} to {option.high:.4g}"
    seconds = option.training_seconds
    return {
        "base": option.base,
        "method": method,
        "N, without token embedding": show_count(option.parameters),
        "tokens": show_count(option.tokens),
        "steps": f"{option.steps:,} of {option.batch_size:,} pairs",
        "learning rate": f"{option.learning_rate:g}",
        "expected loss": "not known" if option.loss is None else f"{option.loss:.4g}",
        f"its {LEVEL:.0%} interval": span,
        "FLOP, as the paper counts": f"{option.paper_flops:.3g}",
        "time of training": "no machine named" if seconds is None else show_seconds(seconds),
        "peak memory": show_bytes(option.peak_bytes),
    }


def _choices(plan: ReadPlan) -> dict[str, Any] | None:
    """Expected loss against N; None where no loss is expected."""
    rows = [
        {
            "name": option.method,
            "base": option.base,
            "x": option.parameters,
            "loss": option.loss,
            "tokens": option.tokens,
            "best": option == plan.best,
            **({} if option.low is None or option.high is None else {"low": option.low, "high": option.high}),
        }
        for option in plan.considered
        if option.loss is not None
    ]
    if not rows:
        return None
    x = axis("x", "N, without token embedding", log=True, axis={"format": "~s", "tickCount": 4})
    shown = tooltip(
        ("base", "base"), ("name", "method"), ("loss", "expected loss", ".4~g"), ("tokens", "tokens", ",.3~s")
    )
    y = axis("loss", "expected held-out loss", log=True, axis={"format": ".3~g"})
    colour = series(list(dict.fromkeys(str(row["name"]) for row in rows)))
    layers: list[dict[str, Any]] = [
        {"mark": {"type": "line", "strokeWidth": 1}, "encoding": {"y": y, **colour}},
        {"mark": {"type": "point", "filled": True, "size": 40}, "encoding": {"y": y, **colour}},
    ]
    if any("low" in row for row in rows):
        span = {"y": {**y, "field": "low"}, "y2": {"field": "high"}, **colour}
        layers.append({"mark": {"type": "rule"}, "transform": [{"filter": "isValid(datum.low)"}], "encoding": span})
    if any(row["best"] for row in rows):
        star = {"type": "point", "shape": "diamond", "size": 260, "strokeWidth": 2, "stroke": "currentColor"}
        layers.append({"mark": star, "transform": [{"filter": "datum.best"}], "encoding": {"y": y}})
    return chart(rows, height=300, encoding={"x": x, "tooltip": shown}, layer=layers)
