"""A task of mteb's that is the mean of others: loaded, scored, kept and told part by part."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from datasets import Dataset
from sentence_transformers import SentenceTransformer

from lacos_st import encoder
from lacos_st.cli import main
from lacos_st.errors import UserError
from lacos_st.leaderboard.run import evaluate_mteb
from lacos_st.sts import load_mteb_task

mteb = pytest.importorskip("mteb", reason="the extra lacos_st[mteb] is not installed")

NAME = "CQADupstackRetrieval"
WORDS = "man dog park guitar street walks long house".split()


@pytest.fixture
def model(tiny_bloom_dir: str) -> SentenceTransformer:
    return encoder(tiny_bloom_dir, device="cpu", block_size=64, lora_rank=2)


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The first two parts of the task, the only ones that it has here; each has data of its own."""
    metadata = type(mteb.get_task(NAME)).metadata
    monkeypatch.setattr(metadata, "tasks", metadata.tasks[:2])
    for shift, part in enumerate(metadata.tasks):
        monkeypatch.setattr(part, "load_data", lambda part=part, shift=shift, **_: _fill(part, shift))
        monkeypatch.setattr(part, "data_loaded", False)
        monkeypatch.setattr(part, "metadata", part.metadata)
    return list(metadata.tasks)


def _fill(task: Any, shift: int) -> None:
    documents = [f"{one} {two}" for one in WORDS[shift:] for two in WORDS[:3]]
    ids = [f"d{i}" for i in range(len(documents))]
    corpus = Dataset.from_dict({"id": ids, "title": [""] * len(ids), "text": documents})
    queries = Dataset.from_dict({"id": ["q0", "q1"], "text": WORDS[:2]})
    relevant = {"q0": {ids[3 + shift]: 1}, "q1": {ids[7]: 1}}
    split = {"corpus": corpus, "queries": queries, "relevant_docs": relevant, "top_ranked": None}
    task.dataset, task.data_loaded = {"default": {"test": split}}, True


def test_its_score_is_the_mean_of_its_parts(
    model: SentenceTransformer, parts: list[Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = evaluate_mteb({"a": model}, [NAME], output_dir=tmp_path)
    files = {path.stem: json.loads(path.read_text()) for path in tmp_path.rglob("CQA*.json")}
    scores = {name: file["scores"]["test"][0]["main_score"] for name, file in files.items()}
    whole = scores.pop(NAME)
    assert sorted(scores) == [part.metadata.name for part in parts]
    assert len(set(scores.values())) == 2  # so that the mean is neither
    assert whole == pytest.approx(fmean(scores.values()), abs=1e-6)
    assert re.search(rf"\| {NAME} +\| +{100 * whole:.2f} \|", table)
    assert not caplog.records

    parts[1].metadata = parts[1].metadata.model_copy(update={"dataset": {"path": "p", "revision": "other"}})
    assert evaluate_mteb({"a": model}, [NAME], output_dir=tmp_path) == table
    said = [record.getMessage() for record in caplog.records if record.name.startswith("lacos_st")]
    assert len(said) == 1 and f"of other data or another mteb: {parts[1].metadata.name} runs again" in said[0]
    written = json.loads(next(tmp_path.rglob(f"{parts[1].metadata.name}.json")).read_text())
    assert written["dataset_revision"] == "other"


def test_a_part_that_cannot_be_fetched_is_named(
    tiny_bloom_dir: str, parts: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreachable(**_: Any) -> None:
        raise ConnectionError("no way to the hub")

    monkeypatch.setattr(parts[1], "load_data", unreachable)
    assert main(["evaluate", tiny_bloom_dir, "--mteb", NAME]) == 2
    assert f"data of mteb task {parts[1].metadata.name!r} could not be fetched" in capsys.readouterr().err


def test_it_is_no_set_of_graded_pairs(parts: list[Any]) -> None:
    with pytest.raises(UserError, match=f"run it with --mteb {NAME}"):
        load_mteb_task(NAME)
