"""What the page of `lacos-st report` is made of: each kind of input, each section's figures, and escaped texts."""

from __future__ import annotations

import dataclasses
import json
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sweeps
import tiny
from hypothesis import given
from hypothesis import strategies as st

from lacos_st.cli import main
from lacos_st.errors import UserError
from lacos_st.html_report.charts import MOST_POINTS, series, thinned
from lacos_st.html_report.curves import curves_section
from lacos_st.html_report.inputs import Inputs, TrainedRun, read_inputs
from lacos_st.html_report.laws import law_block, measured
from lacos_st.html_report.markup import script_json, tag
from lacos_st.html_report.memory import memory_section
from lacos_st.html_report.names import short_names
from lacos_st.html_report.plan import parse_plan, plan_section
from lacos_st.html_report.quantization import parse_errors, quantization_section
from lacos_st.html_report.scores import scores_section, side_by_side
from lacos_st.html_report.sentences import MOST, SENTENCES, read_sentences
from lacos_st.html_report.similarity import SHOWN_FIRST, similarities, similarity_section
from lacos_st.layer_errors import as_json, layer_errors
from lacos_st.recipe.law_file import Laws, fit_laws
from lacos_st.recipe.runs_table import append_run
from lacos_st.report import SIMILARITIES, ModelScores, Results, TaskScores
from lacos_st.settings import TrainConfig

EVIL = "</script><img src=x onerror=window.hacked=1>&\"'"
LAST = {
    "train_runtime": 3.5, "train_samples_per_second": 10.2, "train_loss": 1.1, "predicted_weights_bytes": 100 * 2**20,
    "predicted_adapters_bytes": 10 * 2**20, "predicted_optimizer_bytes": 5 * 2**20, "predicted_peak_bytes": 200 * 2**20,
    "predicted_at": "optimiser step", "measured": "resident", "peak_bytes": 900 * 2**20, "before_bytes": 650 * 2**20,
}  # fmt: skip


def task(name: str, value: float, *, group: Any = "sts", languages: str = "en-en") -> TaskScores:
    scores = {similarity: value - place for place, similarity in enumerate(SIMILARITIES)}
    scores["dot"] = value + 1
    return TaskScores(name, group, languages, 100, scores, dict(scores))


def results(*models: tuple[str, float], baseline: str | None = None, names: str = "AB") -> Results:
    made = []
    for name, value in models:
        tasks = [*(task(each, value) for each in names), task("X", value, group="xsts", languages="es-en")]
        made.append(ModelScores(name, {"base": "b"}, tuple(tasks)))
    return Results(tuple(made), baseline, "2026-01-02T03:04:05+00:00", {"torch": "2"})


def log(*, steps: int = 4, last: dict[str, Any] | None = LAST, factor: float = 1.0) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{"step": 0, "epoch": 0, "eval_loss": 2.0}]
    for step in range(1, steps + 1):
        rows.append(
            {"step": step, "epoch": step / 8, "loss": factor * 3 / step, "grad_norm": 1.0, "learning_rate": 1e-3}
        )
        rows.append({"step": step, "epoch": step / 8, "eval_loss": factor * 2 / step})
    return rows + ([] if last is None else [{"step": steps, "epoch": steps / 8, **last}])


def run(name: str = "a", *, rows: list[dict[str, Any]] | None = None, **options: Any) -> TrainedRun:
    config = TrainConfig.from_mapping({"base": "bloom-nano", "data": "pairs.tsv", "output": name, **options})
    return TrainedRun(name, Path(name), config, tuple(log() if rows is None else rows))


def write_run(folder: Path, rows: list[dict[str, Any]]) -> str:
    folder.mkdir()
    (folder / "train.yaml").write_text(run(folder.name).config.to_yaml())
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def values(chart: dict[str, Any]) -> list[dict[str, Any]]:
    return list(chart["data"]["values"])


@pytest.fixture(scope="module")
def laws() -> Laws:
    return fit_laws({"full": sweeps.sweep()}, source="runs.csv", date="2026-01-02", forms=["ND"], bootstrap=8)


# --- texts ---


class Read(HTMLParser):
    """Elements and texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


@given(st.text(alphabet=st.characters(blacklist_characters="\r\0", blacklist_categories=["Cs"])))
def test_a_text_is_a_text_whatever_it_holds(text: str) -> None:
    read = Read(tag("td", text, title=text, class_="x"))
    assert (read.tags, read.text, dict(read.attributes)) == (["td"], text, {"title": text, "class": "x"})
    written = script_json({"a": text})
    assert json.loads(written) == {"a": text}
    assert not set("<>&") & set(written)


def test_no_section_lets_markup_in(laws: Laws) -> None:
    named = dataclasses.replace(laws, family=EVIL)
    name = EVIL.replace("/", "")  # which would be a path's
    layers = [{"name": name, "shape": [4, 4], "blocks": [{"block_size": 4, "errors": {name: {"relative_rms": 0.1}}}]}]
    sections = [
        scores_section([(name, results((name, 50.0), ("b", 40.0), baseline="b"))]),
        curves_section([run(name, base=name), run("b", batch_size=4)]),
        memory_section([run(name, rows=log(last={**LAST, "predicted_at": name, "measured": name}))]),
        quantization_section([parse_errors({"base": name, "layers": layers}, source=name)]),
        plan_section([(name, parse_plan({**PLAN, "law": name, "why": [name]}, source=name))], [(name, named)], []),
    ]
    for section in sections:
        assert section is not None
        read = Read(section.body)
        assert name in " ".join([read.text, *(value or "" for _, value in read.attributes)]), section.name
        assert not {"img", "script"} & set(read.tags), section.name


@given(st.lists(st.sampled_from(["a/model", "b/model", "a", "x/a", "c/x/a", "model", "b/c/model", "a/a"]), unique=True))
def test_short_names_tell_paths_apart(paths: list[str]) -> None:
    names = short_names(paths)
    assert len(set(names)) == len(paths)
    assert all(len(name) <= len(path) for name, path in zip(names, paths, strict=True))


def test_a_run_beside_its_model_keeps_the_names_apart() -> None:
    assert short_names(["x/r", "x/r/model"]) == ["r", "model"]


# --- inputs ---


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


# --- scores ---


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


# --- runs ---


def test_curves_are_those_of_the_logs() -> None:
    section = curves_section([run(), run("b", rows=log(steps=3, factor=2.0))])
    assert section is not None
    points = values(section.charts["curve-loss"])
    assert [(p["name"], p["step"], p["value"]) for p in points] == [
        ("a", 1, 3.0), ("a", 2, 1.5), ("a", 3, 1.0), ("a", 4, 0.75), ("b", 1, 6.0), ("b", 2, 3.0), ("b", 3, 2.0),
    ]  # fmt: skip
    assert len(values(section.charts["curve-eval_loss"])) == 5 + 4
    assert "curve-sts" not in section.charts
    assert "compare scores instead" not in section.body
    assert curves_section([run(rows=[])]) is None


def test_curves_that_do_not_compare_are_said_to() -> None:
    rows = [*log(last=None), {"step": 5, "loss": float("nan")}]
    section = curves_section([run(), run("b", rows=rows, batch_size=4), run("c", seed=1)])
    assert section is not None
    assert "differ in batch_size: compare" in section.body
    assert "differ in batch_size, seed: compare" in section.body
    assert "stopped: b." in section.body
    assert "not finite are left out of the curves of b." in section.body
    assert len(values(section.charts["curve-loss"])) == 12
    json.dumps(section.charts, allow_nan=False)


def test_long_lines_are_thinned_and_many_are_dashed() -> None:
    kept = thinned(range(100_000))
    assert (len(kept), kept[0], kept[-1]) == (MOST_POINTS, 0, 99_999)
    assert thinned([1, 2]) == [1, 2]
    many = series([str(place) for place in range(8)], dashes=True)
    dashes = [tuple(dash) for dash in many["strokeDash"]["scale"]["range"]]
    assert len(set(dashes[:7])) == 1
    assert dashes[7] != dashes[0]


def test_memory_adds_up() -> None:
    section = memory_section([run(), run("b", rows=log(last={"train_runtime": 1.0})), run("c", rows=[])])
    assert section is not None
    bars = values(section.charts["memory"])
    assert sum(bar["mib"] for bar in bars if bar["kind"] == "predicted") == 200
    assert [bar["mib"] for bar in bars if bar["kind"] == "measured"] == [250]
    assert "No figures of memory in the log of b, c" in section.body
    assert "0.80" in section.body  # 200 / 250
    only = {name: value for name, value in LAST.items() if name not in ("peak_bytes", "before_bytes")}
    unmeasured = memory_section([run(rows=log(last=only))])
    assert unmeasured is not None
    assert "No measured peak of a" in unmeasured.body
    assert memory_section([run(rows=log(last=None))]) is None


# --- bases ---


def test_errors_are_those_of_the_layers() -> None:
    found = layer_errors(tiny.model(), block_sizes=[16, 64])
    section = quantization_section([parse_errors({"base": "b", "layers": as_json(found)}, source="x")])
    assert section is not None
    dots = values(section.charts["quantization-0"])
    assert len(dots) == len(found) * 4
    wanted = [100 * e.relative_rms for layer in found for of_block in layer.errors.values() for e in of_block.values()]
    assert [dot["error"] for dot in dots] == wanted
    assert quantization_section([]) is None


@pytest.mark.parametrize("layers", [[], [{}], 3, [{"name": "a", "shape": [1], "blocks": []}]])
def test_errors_that_are_none_are_refused(layers: Any) -> None:
    with pytest.raises(UserError, match="x is no file of lacos-st quantization"):
        parse_errors({"base": "b", "layers": layers}, source="x")


# --- sentences ---


def test_similarities_are_the_models() -> None:
    from lacos_st.models import load_model

    found = similarities("bert-nano", SENTENCES)
    model = load_model("bert-nano")
    vectors = model.encode(list(SENTENCES))
    np.testing.assert_allclose(found.values, model.similarity(vectors, vectors), atol=6e-5)
    section = similarity_section([found], SENTENCES)
    assert section is not None
    cells = values(section.charts["similarity"])
    assert len(cells) == SHOWN_FIRST**2
    assert [cell["value"] for cell in cells[:SHOWN_FIRST]] == found.values[0][:SHOWN_FIRST]
    assert (cells[1]["a"], cells[1]["b"]) == SENTENCES[:2]
    assert similarity_section([], SENTENCES) is None


def test_sentences_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("one\n\n two \none\n", encoding="utf-8")
    assert read_sentences(file) == ["one", "two"]
    assert read_sentences(None) == list(SENTENCES)
    for text in ("one", "\n".join(str(number) for number in range(MOST + 1))):
        file.write_text(text)
        with pytest.raises(UserError, match=f"expected 2 to {MOST}"):
            read_sentences(file)
    with pytest.raises(UserError, match="cannot be read"):
        read_sentences(tmp_path / "gone.txt")


# --- plans and laws ---

OPTION: dict[str, Any] = {
    "base": "b", "method": "full", "parameters": 1000, "tokens": 2e6, "steps": 10, "batch_size": 8, "lora_rank": None,
    "frozen_blocks": None, "learning_rate": 1e-3, "loss": {"loss": 1.5, "low": 1.4, "high": None}, "paper_flops": 1e13,
    "training_seconds": None, "peak_bytes": 2**30,
}  # fmt: skip
PLAN: dict[str, Any] = {
    "law": "law.json", "budget": {"flops": 1e13}, "plan": OPTION, "runner_up": None, "why": ["because"], "notes": [],
    "considered": [OPTION, {**OPTION, "parameters": 10, "loss": {"loss": 1.6, "low": 1.5, "high": 1.7}}],
}  # fmt: skip


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


# --- the command ---


def test_a_page_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, page = write_run(tmp_path / "run", log()), tmp_path / "new" / "page.html"
    line = ["report", folder, "--output", str(page), "--title", EVIL]
    assert main(line) == 0
    out = capsys.readouterr().out
    assert "curves of 1 run, memory of 1 run\n" in out
    assert "left out: Scores: no results.json" in out
    text = page.read_text(encoding="utf-8")
    assert EVIL not in text
    assert "No model was named" not in text
    assert 'http-equiv="Content-Security-Policy" content="default-src \'none\';' in text
    assert main(line) == 2
    assert "exists: choose another place, or say --overwrite" in capsys.readouterr().err
    assert main([*line, "--overwrite", "--json", "--skip", "memory"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["page"], told["shown"]) == (str(page), ["curves of 1 run"])
    assert told["bytes"] == page.stat().st_size
    assert "Memory: skipped, as asked." in told["left_out"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "run"], "given 2 times"),
        (["run", "--skip", "charts"], "there is no section charts"),
        (["run", "--skip", "curves", "memory"], "there is nothing to show"),
        (["run", "--output", "."], "is a folder"),
        (["run", "--sentences", "gone.txt"], "gone.txt cannot be read"),
        (["run", "--device", "cuda:99"], "device 'cuda:99' cannot be used here"),
    ],
)
def test_what_cannot_be_shown_leaves_no_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "run", log())
    assert main(["report", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_base_or_model_that_cannot_be_loaded_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "run", log())
    (tmp_path / "run" / "model").mkdir()
    (tmp_path / "run" / "model" / "modules.json").write_text("[]")
    assert main(["report", folder, "--quantization", "--output", str(tmp_path / "p.html"), "--json"]) == 0
    left_out = "\n".join(json.loads(capsys.readouterr().out)["left_out"])
    assert "Quantisation error: bloom-nano is quantised already" in left_out
    assert left_out.count("Similarity: ") == left_out.count("Quantisation error: ") == 1, "one reason each"


def test_without_vl_convert_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lacos_st.html_report.assemble import library

    library.cache_clear()
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(UserError, match=r"pip install 'lacos_st\[report\]'"):
        library()
