"""The card of an exported model says how it was made, by the files beside it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny

from lacos_st.cli import main
from lacos_st.export import facts
from lacos_st.export.saved import SavedModel


def test_a_train_yaml_of_somebody_else_is_left_alone(bloom: str, tmp_path: Path) -> None:
    shutil.copytree(bloom, tmp_path / "my-encoder")
    shutil.copytree(bloom, tmp_path / "model")
    (tmp_path / "train.yaml").write_text("base: bloom-nano\ndata: pairs.tsv\noutput: run\n")
    assert facts.read_facts(SavedModel.read(str(tmp_path / "my-encoder"))).config is None
    assert facts.read_facts(SavedModel.read(str(tmp_path / "model"))).config is not None
    for content in ("trainer:\n  epochs: 3\n", "a: [", "- 1"):
        (tmp_path / "train.yaml").write_text(content)
        assert facts.read_facts(SavedModel.read(str(tmp_path / "model"))).config is None


def test_the_card_says_how_the_model_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny.save(Path("base"))
    Path("data").mkdir()
    rows = "".join(f"a man walks {i}\ta man {i}\n" for i in range(24))
    Path("data/pairs.tsv").write_text(rows, encoding="utf-8")
    Path("data/LICENSE").write_text("\nCC0 1.0 Universal\n")
    line = ["train", "--base", "base", "--data", "data/pairs.tsv", "--output", "run", "--block-size", "64"]
    line += ["--prompt", "a guitar: "]
    assert main([*line, "--batch-size", "8", "--cpu", "--no-progress", "--eval-rows", "2", "--lr", "1e-3"]) == 0
    task = {"task": "STS12", "languages": "en-en", "pairs": 3108, "spearman": {"cosine": 38.5}, "max": 39.25}
    average = {"STS-Avg": {"max": 39.25, "cosine": 38.5, "tasks": ["STS12"]}, "xSTS-Avg": {"max": None}}
    entry = {"name": "run/model", "tasks": [task], "averages": average}
    Path("results.json").write_text(json.dumps({"models": [entry, {**entry, "name": "other"}]}))
    assert main(["export", "run/model", "out", "--results", "results.json", "--license", "apache-2.0"]) == 0
    card = Path("out/README.md").read_text()
    for part in (
        "license: apache-2.0", "Base: base; licence: not known here", "Method: lacos, base in 8-bit blocks of 64",
        "LoRA of rank 4 and alpha 4 on paper", "| pairs.tsv |", "CC0 1.0 Universal", "Trained on 22 rows", "3 steps",
        "| STS12 ", "38.50", "39.25", "| **STS-Avg** (1 tasks) |", "1.000000 in float32", "FLOP",
    ):  # fmt: skip
        assert part in card, part
    assert str(tmp_path) not in card
    assert "xSTS-Avg" not in card
    found = facts.read_facts(SavedModel.read("run/model"))
    assert found.sources == (facts.Source("pairs.tsv", 24, "CC0 1.0 Universal"),)
    tokenizer = tiny.tokenizer()
    sides = [f"a guitar: {text}" for line in rows.splitlines() for text in line.split("\t")]
    mean = sum(len(tokenizer(text).input_ids) for text in sides) / len(sides)
    assert found.tokens == pytest.approx(2 * mean * 8 * 3)
    assert found.flops is not None
    shape = tiny.model().config
    matrices = 12 * shape.n_layer * shape.hidden_size**2
    assert found.flops == pytest.approx(
        4 * matrices * found.tokens, rel=0.15
    )  # forward and backward, a little for the rest
