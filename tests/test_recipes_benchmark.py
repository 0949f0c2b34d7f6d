"""`benchmarks/recipes.py`: equal compute, the dev score, and the interval of a difference."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
from scipy.stats import spearmanr

from benchmarks import recipes, rows
from lacos_st import encoder, grammar
from lacos_st.evaluation import evaluate
from lacos_st.settings import TrainConfig
from lacos_st.sts import StsTask


def test_a_dearer_step_means_fewer_of_them() -> None:
    steps = {name: variant.steps(48) for name, variant in recipes.VARIANTS.items()}
    assert (steps["start"], steps["echo"], steps["negatives"], steps["batch 32"], steps["cached 256"]) == (
        48,
        24,
        32,
        96,
        9,
    )


@pytest.mark.parametrize("name", recipes.VARIANTS)
def test_every_variant_is_a_training_that_can_be_asked_for(name: str, tmp_path: Path) -> None:
    config = recipes.config(
        recipes.VARIANTS[name], base="llama", data="rows.tsv", sts="sts", output=tmp_path, budget=48
    ).resolved()
    start = TrainConfig.from_mapping({**recipes.START, "base": "llama", "data": "rows.tsv", "output": "x"}).resolved()
    changed = {key for key in vars(config) if getattr(config, key) != getattr(start, key)}
    own = {"output", "max_steps", "eval_rows", "eval_steps", "log_steps", "progress", "cpu", "exclude_sts"}
    assert changed - own == {key for key in recipes.VARIANTS[name].settings}


def test_the_papers_variant_is_the_papers_preset() -> None:
    papers = TrainConfig.from_mapping(
        {"preset": "paper", "base": "llama", "data": "rows.tsv", "output": "x"}
    ).resolved()
    ours = TrainConfig.from_mapping(
        {**recipes.START, **recipes.PAPER, "base": "b", "data": "d", "output": "x"}
    ).resolved()
    names = {*recipes.START, *recipes.PAPER} - {"block_size", "max_seq_length"}  # as the base has them
    assert {name: getattr(papers, name) for name in names} == {name: getattr(ours, name) for name in names}


def test_the_best_preset_is_the_variant_with_the_highest_row() -> None:
    """On the committed rows; of models that embed at their base's cost, so echo and prompts stand apart."""
    found = {
        row["variant"]: row["dev_max"]
        for row in rows.read("recipes")
        if row["budget"] == recipes.STEPS and not {"echo", "prompt"} & row["settings"].keys()
    }
    winner = max(found, key=lambda name: found[name])
    named = {"base": "b", "data": "d", "output": "x"}
    ours = TrainConfig.from_mapping({**recipes.START, **recipes.VARIANTS[winner].settings, **named}).resolved()
    best = TrainConfig.from_mapping({"preset": "best", **named}).resolved()
    own = {"preset", "block_size", "max_seq_length"}  # as the base has them
    names = vars(best).keys() - own
    assert {name: getattr(best, name) for name in names} == {name: getattr(ours, name) for name in names}


def graded(count: int) -> StsTask:
    texts = ["a man plays a guitar", "guitar", "the street is long", "a man walks", "x"]
    pairs = [(texts[n % 5], texts[n * n % 5] + f" {n % 3}") for n in range(count)]
    scores = tuple(float(n * 7 % 11) for n in range(count))
    return StsTask("made", "sts", "en", tuple(a for a, _ in pairs), tuple(b for _, b in pairs), scores, (0, 10))


def test_scores_are_those_of_the_evaluator(tmp_path: Path) -> None:
    model = encoder(tiny.save(tmp_path), block_size=64, device="cpu")
    task = graded(40)
    found = recipes.similarities(model, task)
    ours = recipes.spearman(found, np.array(task.scores))
    assert ours == pytest.approx([100 * spearmanr(row, task.scores).statistic for row in found])
    stock = evaluate({"made": model}, tasks=[task]).models[0].tasks[0].spearman
    assert dict(zip(recipes.SIMILARITIES, ours, strict=True)) == pytest.approx(stock, abs=1e-4)


def test_the_interval_holds_zero_for_equals_and_not_for_a_better_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "RESAMPLES", 100)
    chance = np.random.default_rng(0)
    scores = chance.normal(size=400)
    good, noise = (np.stack([scores + weight * chance.normal(size=400)] * 4) for weight in (0.5, 3.0))
    low, high = recipes.difference(good, noise, scores)
    assert low > 20 and high < 80
    assert recipes.difference(good, good, scores) == (0.0, 0.0)


def test_a_variant_is_trained_scored_and_reported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    grammar.write(data, nli_rows=60, graded_rows=20)
    task = graded(30)
    monkeypatch.setattr(recipes, "load_tasks", lambda folder, names: [task])
    monkeypatch.setattr(recipes, "RESAMPLES", 20)
    monkeypatch.setattr(rows, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(recipes, "START", {**recipes.START, "block_size": 64, "batch_size": 8})
    file = sorted((data / "nli").glob("*.tsv"))[0]
    asked = ["recipes", "--data", str(data), "--rows", str(file), "--output", str(tmp_path / "out"), "--steps", "2"]
    asked += ["--base", tiny.save(tmp_path / "base", "llama"), "--only", "start", "echo"]
    monkeypatch.setattr("sys.argv", [*asked[:-2], "echo"])
    with pytest.raises(SystemExit, match="no row of the starting point at 2 steps on this data: run the variant start"):
        recipes.main()
    monkeypatch.setattr("sys.argv", asked)
    for _ in range(2):
        recipes.main()
    made = [json.loads(line) for line in (tmp_path / "results" / "recipes.jsonl").read_text().splitlines()]
    assert [(row["variant"], row["steps"]) for row in made] == [("start", 2), ("echo", 2)]
    assert made[0]["dev_max"] == max(made[0]["dev"].values()) != made[1]["dev_max"]
    start = np.load(tmp_path / "results" / "recipes_start.npy")
    assert start.shape == (4, 30) and recipes.spearman(start, np.array(task.scores)).max() == made[0]["dev_max"]
    assert made[0]["interval"] == [0, 0] and made[1]["interval"][0] < made[1]["dev_max"] - made[0]["dev_max"]
    table = (tmp_path / "results" / "recipes.md").read_text()
    assert "{:+.2f} to {:+.2f}".format(*made[1]["interval"]) in table
    assert f"{made[1]['dev_max'] - made[0]['dev_max']:+.2f}" in table
    assert "echo: each text twice: 2 steps" not in table and "2 steps" in capsys.readouterr().out
    # other steps in the same folder are another training, not the finished one of before
    asked[asked.index("--steps") + 1] = "3"
    monkeypatch.setattr("sys.argv", [*asked[:-2], "start"])
    recipes.main()
    assert [(row["budget"], row["steps"], row["train_loss"] > 0) for row in rows.read("recipes")[2:]] == [(3, 3, True)]
    monkeypatch.setattr("sys.argv", ["recipes", "--report", "--steps", "2"])
    recipes.main()
    assert (tmp_path / "results" / "recipes.md").read_text() == table


def test_nli_alone_is_what_nli_holds_whatever_its_label(tmp_path: Path) -> None:
    file = tmp_path / "rows.tsv"
    nli = [("entailment", "A.", "B\u2028b."), ("neutral", "C.", "D."), ("entailment", "E.", "F.")]
    others = [("neutral", "News.", "Report."), ("entailment", "News.", "Paper.")]
    lines = ["label\tpremise\thypothesis", *("\t".join(row) for row in [nli[0], *others, *nli[1:]])]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    made = recipes.nli_rows(file, tmp_path, of_nli=[*nli, ("neutral", "not", "drawn")])
    assert made.read_text(encoding="utf-8").split("\n") == [lines[0], *("\t".join(row) for row in nli), ""]
    with pytest.raises(SystemExit, match="no row of .* is one of the NLI"):
        recipes.nli_rows(file, tmp_path, of_nli=[("neutral", "not", "drawn")])


def test_what_is_missing_for_a_training_or_a_report_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    cases = (["--data", "d"], "needs --rows, --output"), (["--report"], "no row of the starting point at 48 steps")
    for arguments, message in cases:
        monkeypatch.setattr("sys.argv", ["recipes", *arguments])
        with pytest.raises(SystemExit):
            recipes.main()
        assert message in capsys.readouterr().err


def test_a_variant_that_is_no_more_keeps_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    facts = {"budget": 2, "data": "abc", "train_rows": 8, "steps": 2, "dev": {"cosine": 60.0}, "seconds": 1.0}
    for name, dev_max in (("an option of before", 61.0), ("start", 62.0)):
        rows.append("recipes", variant=name, says=name, dev_max=dev_max, start_max=62.0, interval=[-2, 0], **facts)
    lines = recipes.report(2, "abc").splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["start", "an option of before"]
    assert "-1.00" in lines[3]


def test_intervals_are_drawn_to_the_starting_point_of_the_same_steps_and_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    people = np.array(graded(30).scores)
    start = np.random.default_rng(0).normal(size=(4, 30)).astype(np.float32)
    best = float(recipes.spearman(start, people).max())
    rows.append("recipes", variant="start", budget=2, data="abc", dev_max=best)
    with pytest.raises(SystemExit, match=r"recipes_start\.npy is missing"):
        recipes.started(2, "abc", people)
    np.save(recipes.start_file(), start)
    assert np.array_equal(recipes.started(2, "abc", people), start)
    for steps, data in ((3, "abc"), (2, "abd")):
        with pytest.raises(SystemExit, match=f"no row of the starting point at {steps} steps on this data"):
            recipes.started(steps, data, people)
    rows.append("recipes", variant="start", budget=2, data="abc", dev_max=best - 1)
    with pytest.raises(SystemExit, match="is of other steps or data than the row"):
        recipes.started(2, "abc", people)
