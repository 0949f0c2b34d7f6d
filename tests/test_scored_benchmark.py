"""`benchmarks/scored.py`: a row of scores and of the training behind them, with no path in it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import rows, scored
from lacos_st.settings import TrainConfig

MODEL = {"spearman": {"cosine": 1.0, "manhattan": 2.004, "euclidean": 0.5, "dot": 0.25}, "max": 2.004, "task": "STS12"}
LOG: list[dict[str, Any]] = [
    {"step": 0, "eval_loss": 1.23456},
    {"step": 2, "loss": 1.0},
    {"step": 2, "train_runtime": 9.6, "train_loss": 1.11116, "peak_bytes": 7},
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    (folder / "model").mkdir(parents=True)
    given: dict[str, Any] = {"base": "/secret/base.gguf", "data": ["/secret/pairs.tsv"], "output": str(folder)}
    given |= {"lr": 1e-3, "echo": True}
    (folder / "train.yaml").write_text(TrainConfig.from_mapping(given).to_yaml())
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in LOG))
    return folder


def results(tmp_path: Path, *names: str) -> Path:
    file = tmp_path / "results.json"
    file.write_text(json.dumps({"models": [{"name": name, "tasks": [MODEL]} for name in names]}))
    return file


def called(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *arguments: str) -> list[dict[str, Any]]:
    monkeypatch.setattr(rows, "RESULTS", tmp_path / "results")
    says = [] if "--says" in arguments else ["--says", "made here"]
    monkeypatch.setattr(sys, "argv", ["scored", "made", *arguments, *says])
    scored.main()
    return rows.read("made")


def test_a_row_has_settings_losses_and_scores_and_no_path(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = results(tmp_path, "other", str(run / "model"))
    (row,) = called(monkeypatch, tmp_path, str(file), "--run", str(run), "--trained-at", "abc")
    assert row["settings"] == {
        **{"base": "base.gguf", "data": ["pairs.tsv"], "lr": 1e-3, "echo": True},
        **{"batch_size": 32, "gradient_accumulation": 1},
    }
    assert (row["steps"], row["train_seconds"], row["peak_bytes"], row["trained_at"]) == (2, 10, 7, "abc")
    assert row["validation_loss"] == {"0": 1.2346}
    assert row["tasks"] == {"STS12": {"max": 2.0, "cosine": 1.0, "manhattan": 2.0, "euclidean": 0.5, "dot": 0.25}}
    assert "secret" not in json.dumps(row)


def test_scores_without_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (row,) = called(monkeypatch, tmp_path, str(results(tmp_path, "/secret/only")), "--says", "zero-shot")
    assert (row["says"], row["tasks"]["STS12"]["max"]) == ("zero-shot", 2.0)
    assert "settings" not in row
    assert "secret" not in json.dumps(row)


def test_what_is_missing_is_said(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = [(str(results(tmp_path, "one", "two")), "none is"), (str(run / "log.jsonl"), "is no results.json")]
    for file, message in cases:
        with pytest.raises(SystemExit):
            called(monkeypatch, tmp_path, file, "--run", str(run))
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        called(monkeypatch, tmp_path, str(results(tmp_path, "one", "two")))
    assert "expected one" in capsys.readouterr().err
    (run / "log.jsonl").write_text(json.dumps(LOG[0]) + "\n")
    with pytest.raises(SystemExit):
        called(monkeypatch, tmp_path, str(results(tmp_path, "one")), "--run", str(run))
    assert "has not finished" in capsys.readouterr().err
    assert rows.read("made") == []


@pytest.mark.parametrize(
    ("log", "last", "best", "kept"),
    [
        ([(0, 0.5), (2, 0.9), (4, 0.7), (6, 0.7), (8, 0.8)], {}, "loss", 4),  # step 0 is no checkpoint
        ([(0, 0.5), (2, 0.9), (4, 0.7)], {"best_step": 2}, "loss", 2),
        ([(0, 0.5), (2, 0.9), (4, 0.7)], {"best_step": None}, "loss", 4),
        ([(2, 0.1), (4, 0.7), (6, 0.7)], {}, "sts", 4),
        ([], {}, "loss", 8),
    ],
)
def test_the_step_that_a_run_kept_is_that_of_its_best_evaluation(
    log: list[tuple[int, float]], last: dict[str, Any], best: str, kept: int
) -> None:
    metric = {"loss": "eval_loss", "sts": "eval_sts_spearman_max"}[best]
    lines = [{"step": step, metric: value} for step, value in log]
    assert scored.kept_step(lines, {"step": 8, **last}, best=best) == kept


def test_a_checkpoint_is_scored_by_its_name(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = [*LOG[:2], {"step": 2, "eval_loss": 0.5}, {"step": 4, "eval_loss": 0.75}, {**LOG[2], "step": 4}]
    (run / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
    for only in (run / "model", run / "checkpoints" / "checkpoint-2"):
        with pytest.raises(SystemExit):
            called(monkeypatch, tmp_path, str(results(tmp_path, str(only))), "--run", str(run), "--checkpoint", "4")
        assert "checkpoint-4" in capsys.readouterr().err
    file = str(results(tmp_path, str(run / "model"), str(run / "checkpoints" / "checkpoint-4")))
    called(monkeypatch, tmp_path, file, "--run", str(run))
    model, checkpoint = called(monkeypatch, tmp_path, file, "--run", str(run), "--checkpoint", "4")
    assert (model["steps"], model["kept_step"]) == (4, 2)
    assert (checkpoint["steps"], checkpoint["kept_step"]) == (4, 4)
    with pytest.raises(SystemExit):
        called(monkeypatch, tmp_path, file, "--checkpoint", "4")
    assert "give --run too" in capsys.readouterr().err


def test_an_option_that_was_set_back_to_its_default_under_a_preset_is_told() -> None:
    named = {"base": "b", "data": "d", "output": "o", "preset": "best"}
    found = scored.settings(TrainConfig.from_mapping({**named, "scale": 20.0, "batch_size": 32}))
    assert (found["scale"], found["batch_size"], found["pooling"]) == (20.0, 32, "lasttoken")
    assert found["gradient_accumulation"] == 1 and "epochs" not in found


def test_a_row_without_words_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["scored", "made", str(results(tmp_path, "only"))])
    with pytest.raises(SystemExit):
        scored.main()
