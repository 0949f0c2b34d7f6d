"""The rows of `examples/smollm2_pairs.py`, from generated files."""

from __future__ import annotations

import os
import random
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from test_multilingual_benchmark import write

from lacos_st.settings import TrainConfig

SCRIPT = Path(__file__).parents[1] / "examples" / "smollm2_pairs.py"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A few rows of each source; the dev set holds one sentence of each, tokenised otherwise."""
    labels = ("entailment", "neutral", "contradiction")
    rows = [(labels[n % 3], f"Premise {n}.", f"Hypothesis {n}.") for n in range(12)]
    write(tmp_path / "nli" / "snli_tok.dev.tsv", *rows[:6])
    write(tmp_path / "nli" / "xnli" / "dev.en.tsv", *rows[6:])
    write(tmp_path / "para" / "asset.test.tsv", *[tuple(f"Plain {n} {k}." for k in range(11)) for n in range(3)])
    write(tmp_path / "para" / "mrpc.train.tsv", *[(str(n % 2), f"News {n} .", f"Report {n} .") for n in range(6)])
    write(tmp_path / "para" / "pawsx_dev.en.tsv", ("1", "Wiki .", "Encyclopedia ."))
    captions = [tuple(f"{name} scene {n} {k}" for name in ("en", "de") for k in range(5)) for n in range(8)]
    write(tmp_path / "para" / "multi30k_captions.train.tsv", *captions)
    write(tmp_path / "sts" / "en" / "STSb.dev.tsv", ("news", "4", "News 1.", "x"), ("news", "1", "Premise 0 .", "y"))
    return tmp_path


def made(data: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> list[tuple[str, ...]]:
    output = data / "rows.tsv"
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(data), str(output), *options])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    head, *lines = output.read_text(encoding="utf-8").splitlines()
    assert head == "label\tpremise\thypothesis"
    return [tuple(line.split("\t")) for line in lines]


def test_every_source_is_there_but_for_sentences_of_the_dev_set(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = made(data, monkeypatch, "--captions", "5")
    assert len(rows) == len(set(rows)) == 11 + 15 + 6 + 5
    assert sum("scene" in first for _, first, _ in rows) == 5
    assert ("entailment", "News 3 .", "Report 3 .") in rows and ("neutral", "News 2 .", "Report 2 .") in rows
    assert not any(text in ("News 1 .", "Premise 0.") for row in rows for text in row)
    assert "37 rows, 26 of them pairs, 5 of these captions" in capsys.readouterr().out
    assert made(data, monkeypatch, "--captions", "5") == rows  # a seed of its own


def test_simplifications_are_paired_by_chance_each_once(data: Path) -> None:
    pairs = runpy.run_path(str(SCRIPT))["simplifications"](data, random.Random(0))
    texts = [text for _, *both in pairs for text in both]
    assert len(texts) == len(set(texts)) == 30
    for _, first, second in pairs:
        assert first.split()[1] == second.split()[1] and first != second
    assert any(first.endswith(" 0.") or second.endswith(" 0.") for _, first, second in pairs)


def test_more_captions_than_there_are_is_an_error(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        made(data, monkeypatch, "--captions", "17")
    assert "--captions 17: there are 16" in capsys.readouterr().err


@pytest.mark.slow
def test_the_shell_script_trains_by_the_best_preset_and_goes_on(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options behind the number of steps go before the script's; started again, it finds the run."""
    made(data, monkeypatch, "--captions", "5")
    write(data / "sts" / "en" / "STSb.test.tsv", ("news", "4", "Wiki.", "y"), ("news", "1", "Nothing", "else"))
    (data / "out").mkdir()
    (data / "rows.tsv").rename(data / "out" / "pairs.tsv")
    base = tiny.save(data / "base", "llama")
    environment = {**os.environ, "LACOS_SMOLLM2": str(base)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    options = ("--block-size", "64", "--batch-size", "4", "--eval-rows", "0")
    command = ["sh", str(SCRIPT.with_name("train_smollm2.sh")), str(data), str(data / "out"), "2", *options]
    for _ in range(2):
        subprocess.run(command, env=environment, cwd=SCRIPT.parents[1], check=True, timeout=300)
    run = data / "out" / "run"
    config = TrainConfig.from_yaml(run / "train.yaml")
    assert (config.preset, config.pooling, config.block_size, config.batch_size) == ("best", "lasttoken", 64, 4)
    assert (run / "model" / "modules.json").is_file()


def test_a_run_that_is_there_goes_on_with_the_same_options_or_is_refused(tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    environment = {**os.environ, "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}

    def asked(*more: str) -> str:
        command = ["sh", str(SCRIPT.parent / "train_pairs.sh"), "base", "data", str(tmp_path / "out"), *more]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()

    first = asked("20", "--lr", "1e-4")
    assert "--max-steps 20" in first and first.endswith("--lr 1e-4")
    (tmp_path / "out" / "run").mkdir(parents=True)
    (tmp_path / "out" / "run" / "train.yaml").touch()
    assert asked("20", "--lr", "1e-4") == f"{first} --resume"
