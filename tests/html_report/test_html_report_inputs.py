"""What `lacos-st report` is given: each kind known by what it holds, anything else refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import sweeps

from html_report.report_parts import PLAN, log, results, write_run
from lacos_st.errors import UserError
from lacos_st.html_report.inputs import Inputs, read_inputs
from lacos_st.recipe.law_file import Laws
from lacos_st.recipe.runs_table import append_run


def test_each_kind_is_known_by_what_it_holds(tmp_path: Path, laws: Laws) -> None:
    folder = write_run(tmp_path / "run", log())
    (tmp_path / "run" / "model").mkdir()
    (tmp_path / "run" / "model" / "modules.json").write_text("[]")
    (tmp_path / "run" / "results.json").write_text(json.dumps(results(("a", 1.0)).to_dict()))
    laws.save(tmp_path / "law.json")
    (tmp_path / "plan.json").write_text(json.dumps(PLAN))
    (tmp_path / "errors.json").write_text(json.dumps({"base": "b", "layers": []}))
    for each in sweeps.sweep(seeds=1):
        append_run(tmp_path / "runs.csv", each)
    names = [folder, *(str(tmp_path / name) for name in ("law.json", "plan.json", "errors.json", "runs.csv"))]
    found = read_inputs([*names, "bert-nano"])
    assert {field.name: len(getattr(found, field.name)) for field in dataclasses.fields(Inputs)} == {
        "runs": 1, "scores": 1, "models": 2, "laws": 1, "tables": 1, "plans": 1, "errors": 1,
    }  # fmt: skip
    assert found.models == [f"{folder}/model", "bert-nano"]
    assert found.runs[0][1].rows == tuple(log())
    assert found.laws[0][1].family == laws.family


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("nothing", None, "no such file or folder: expected a folder of lacos-st train"),
        ("thesis.txt", "mine", "what it holds is not known: expected"),
        ("other.json", "{}", "of none of the files"),
        ("list.json", "[1]", "of none of the files"),
        ("cut.json", '{"schema": 1, ', "is no JSON"),
        ("bytes.json", b"\xff\xfe\xff", "is no JSON"),
        (
            "scores.json",
            '{"schema": 1, "models": [{"name": "a"}], "baseline": null}',
            "no results of lacos-st evaluate",
        ),
        ("law.json", '{"laws": [], "isoflops": {}}', "format_version"),
        ("runs.csv", "a,b\n1,2\n", "there is no column"),
        ("empty", {}, "holds nothing to show: expected"),
        ("run", {"train.yaml": "base: b\n"}, "missing data, output"),
        ("run", {"train.yaml": "base: b\ndata: d\noutput: o\n", "log.jsonl": '{"loss": 1}\n'}, "line without a step"),
        ("run", {"train.yaml": "base: b\ndata: d\noutput: o\n", "log.jsonl": "\n[\n"}, "line 1, is broken"),
    ],
)
def test_what_is_none_of_them_is_refused(tmp_path: Path, name: str, content: Any, said: str) -> None:
    path = tmp_path / name
    if isinstance(content, dict):
        path.mkdir()
        for file, text in content.items():
            (path / file).write_text(text)
    elif content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=said):
        read_inputs([str(path)])
