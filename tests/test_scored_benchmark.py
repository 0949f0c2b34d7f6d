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
    monkeypatch.setattr(sys, "argv", ["scored", "made", *arguments])
    scored.main()
    return rows.read("made")


def test_a_row_has_settings_losses_and_scores_and_no_path(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = results(tmp_path, "other", str(run / "model"))
    (row,) = called(monkeypatch, tmp_path, str(file), "--run", str(run), "--trained-at", "abc")
    assert row["settings"] == {"base": "base.gguf", "data": ["pairs.tsv"], "lr": 1e-3, "echo": True}
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
