"""The page's scores: tables with differences, bars, and models beside those of the same tasks."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from html_report.report_parts import results, values
from lacos_st.html_report.scores import scores_section, side_by_side
from lacos_st.report import Results


def test_results_survive_their_file() -> None:
    made = results(("a", 50.0), ("b", 40.0), baseline="b")
    assert Results.from_dict(json.loads(json.dumps(made.to_dict()))) == made


@pytest.mark.parametrize(
    "change",
    [
        {"models": []}, {"models": 3}, {"baseline": "nobody"}, {"versions": 1},
        {"models": [{"name": "a", "info": {}, "tasks": []}]},
    ],
)  # fmt: skip
def test_results_that_are_none_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no results of lacos-st evaluate"):
        Results.from_dict({**results(("a", 50.0)).to_dict(), **change})


def test_scores_that_are_none_are_refused() -> None:
    for key, value, said in (("spearman", float("nan"), "not finite"), ("group", "x", "expected sts or xsts")):
        broken = results(("a", 50.0)).to_dict()
        task = broken["models"][0]["tasks"][0]
        task[key] = {**task[key], "dot": value} if key == "spearman" else value
        with pytest.raises(ValueError, match=said):
            Results.from_dict(broken)
    uneven = results(("a", 50.0), ("b", 40.0)).to_dict()
    del uneven["models"][1]["tasks"][0]
    with pytest.raises(ValueError, match="not scored on the same tasks"):
        Results.from_dict(uneven)


def test_models_stand_beside_those_of_the_same_tasks() -> None:
    first = results(("base", 40.0), ("a", 50.0), baseline="base")
    again = results(("base", 40.0), ("b", 60.0), baseline="base")
    other = results(("c", 60.0), names="AC")
    changed = results(("a", 51.0))
    sides = side_by_side([("one", first), ("two", again), ("three", other), ("four", changed)])
    assert [side.names for side in sides] == [("base", "a (one)", "b", "a (four)"), ("c",)]
    assert [side.baseline for side in sides] == [0, None]


def test_differences_and_bars() -> None:
    section = scores_section([("x", results(("base", 40.0), ("a", 50.5), baseline="base"))])
    assert section is not None
    assert section.body.count("(+10.50)") == 3 + 2  # tasks, averages
    bars = values(section.charts["scores-0"])
    assert len(bars) == 2 * (3 + 2) * 2  # models, tasks and averages, figures
    shown = {(bar["task"], bar["name"], bar["figure"]): bar["score"] for bar in bars}
    assert (shown["A", "a", "max"], shown["A", "a", "cosine"], shown["STS-Avg", "base", "max"]) == (51.5, 50.5, 41.0)
    assert scores_section([]) is None


def test_scores_of_truncated_embeddings_say_so() -> None:
    whole = results(("a", 50.0))
    cut = dataclasses.replace(whole, models=(dataclasses.replace(whole.models[0], info={"truncate_dim": 16}),))
    (side,) = side_by_side([("one", cut)])
    assert side.names == ("a, first 16 dimensions",)
