"""The page's plans and laws, and the runs that they were fitted on."""

from __future__ import annotations

import json
from typing import Any

import pytest
import sweeps

from html_report.report_parts import OPTION, PLAN, Read, values
from lacos_st.errors import UserError
from lacos_st.html_report.laws import law_block, measured
from lacos_st.html_report.plan import parse_plan, plan_section
from lacos_st.recipe.law_file import Laws


def test_a_plan_with_its_law_and_runs(laws: Laws) -> None:
    runs = sweeps.sweep()
    plan = parse_plan(PLAN, source="plan.json")
    section = plan_section([("plan.json", plan)], [("law.json", laws)], [("runs.csv", runs)])
    assert section is not None
    assert set(section.charts) == {"choices-0", "isoflop-0-full", "frontier-0"}
    rows = values(section.charts["isoflop-0-full"])
    assert sum(row["what"] == "measured" for row in rows) == len({(one.parameters, one.budget_flops) for one in runs})
    assert sum(row["what"] == "minimum" for row in rows) == sum(p.trusted for p in laws.isoflops["full"].parabolas) > 0
    assert [row["x"] for row in values(section.charts["frontier-0"]) if row["what"] == "budget"] == [1e13]
    assert [row["best"] for row in values(section.charts["choices-0"])] == [True, False]
    assert "because" in section.body
    json.dumps(section.charts, allow_nan=False)
    assert plan_section([], [], []) is None


def test_runs_that_the_law_was_not_fitted_on_are_not_drawn(laws: Laws) -> None:
    runs = sweeps.sweep()
    assert set(measured(laws, [("runs.csv", runs)])) == {"full"}
    assert measured(laws, [("runs.csv", runs[1:])]) == {}
    assert measured(laws, [("runs.csv", sweeps.sweep(method="bias"))]) == {}
    body, charts = law_block(laws, {}, place=0, budget_flops=1e30)
    assert "Measured losses are not drawn" in body
    assert "The plan's budget is not on the line of full: the law of full was fitted on" in Read(body).text
    assert not any(row["what"] in ("measured", "above") for row in values(charts["frontier-0"]))


def test_a_plan_without_a_loss_draws_none() -> None:
    section = plan_section([("p", parse_plan({**PLAN, "considered": [{**OPTION, "loss": None}]}, source="p"))], [], [])
    assert section is not None
    assert section.charts == {}
    assert "no losses are expected that could be drawn" in section.body


@pytest.mark.parametrize(
    "change", [{"plan": None}, {"budget": {"flops": "much"}}, {"considered": 1}, {"plan": {**OPTION, "steps": None}}]
)
def test_plans_that_are_none_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="p is no file of lacos-st plan"):
        parse_plan({**PLAN, **change}, source="p")
