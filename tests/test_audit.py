"""What is said of training rows: against the stock sampler, the built model and rows that overlap on purpose."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from sentence_transformers.base.sampler import NoDuplicatesBatchSampler

from lacos_st import audit
from lacos_st.audit import CutSentences, batch_sizes, cut_sentences, duplicates_in_batches
from lacos_st.errors import UserError
from lacos_st.methods import build_model, load_rows
from lacos_st.settings import TrainConfig
from lacos_st.trainer import LacosTrainer
from lacos_st.training import train


class Stop(Exception):
    """Raised where training would begin."""


@pytest.fixture
def options(tiny_bloom_dir: str, tmp_path: Path) -> dict[str, Any]:
    lines = [f"anchor {i}\tpositive {i}" for i in range(20)]
    (tmp_path / "pairs.tsv").write_text("\n".join(lines), encoding="utf-8")
    return {
        "base": tiny_bloom_dir,
        "data": str(tmp_path / "pairs.tsv"),
        "output": str(tmp_path / "run"),
        "block_size": 64,
        "batch_size": 4,
        "eval_rows": 0,
        "cpu": True,
    }


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    ours = [record for record in caplog.records if record.name.startswith("lacos_st")]
    return [record.getMessage() for record in ours if record.levelno >= logging.WARNING]


def test_clean_rows_raise_no_warning(options: dict[str, Any], caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text("1\tunseen\tz\n2\tz\tnew\n")
    with caplog.at_level(logging.INFO, "lacos_st"):
        rows, _ = load_rows(TrainConfig.from_mapping({**options, "eval_sts": str(tmp_path / "x.tsv")}))
    assert len(rows) == 20
    assert not warnings_of(caplog)
    assert "no training row holds a sentence of eval_sts" in caplog.text
    assert "0 of 20 rows share a sentence" in caplog.text
    assert "longer than the model's limit of 2048 tokens" in caplog.text


def test_overlap_with_each_named_evaluation_set_is_counted(
    options: dict[str, Any], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "graded.tsv").write_text("1\tAnchor  3\tz\n2\tz\tpositive 5\n")
    (tmp_path / "dev.tsv").write_text("anchor 7\tpositive 8\nfresh\tnew\n")
    (tmp_path / "sts").mkdir()
    (tmp_path / "sts" / "x.tsv").write_text("1\tANCHOR 0\tz\n2\tz\tpositive 1\n3\tz\tpositive 2\n")
    sets = {"eval_sts": tmp_path / "graded.tsv", "eval_data": tmp_path / "dev.tsv", "exclude_sts": tmp_path / "sts"}
    rows, held_out = load_rows(TrainConfig.from_mapping(options | {name: str(path) for name, path in sets.items()}))
    assert held_out is not None
    assert (len(rows), len(held_out)) == (17, 2)
    excluded, dev, graded = warnings_of(caplog)
    assert f"3 of 20 training rows hold a sentence of exclude_sts {tmp_path / 'sts'} and are left out" in excluded
    assert f"2 of 17 training rows hold a sentence of eval_data {tmp_path / 'dev.tsv'} (2 of its 4" in dev
    assert f"2 of 17 training rows hold a sentence of eval_sts {tmp_path / 'graded.tsv'} (2 of its 3" in graded


def test_rows_with_a_sentence_of_any_set_of_a_folder_are_left_out(options: dict[str, Any], tmp_path: Path) -> None:
    """Those that are scored only by name included: development sets, languages of STSb-multi, other domains."""
    for folder in ("en", "sts17", "stsb_multi_mt"):
        (tmp_path / "sts" / folder).mkdir(parents=True)
    (tmp_path / "sts" / "en" / "STSb.dev.tsv").write_text("x\t1\tanchor 3\tz\nx\t2\tz\tw\n")
    (tmp_path / "sts" / "sts17" / "track4b.es-en.tsv").write_text("1\tanchor 4\tz\n2\tz\tw\n")
    (tmp_path / "sts" / "stsb_multi_mt" / "dev.fr.tsv").write_text("1\tz\tpositive 5\n2\tz\tw\n")
    rows, _ = load_rows(TrainConfig.from_mapping({**options, "exclude_sts": str(tmp_path)}))
    assert {f"anchor {i}" for i in range(20)} - set(rows["anchor"]) == {"anchor 3", "anchor 4", "anchor 5"}


def test_a_graded_file_that_is_not_there_is_refused_with_the_rows(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"eval_sts none\.tsv is no file"):
        load_rows(TrainConfig.from_mapping({**options, "eval_sts": "none.tsv"}))


@pytest.mark.parametrize("name", ["data", "eval_data"])
def test_on_bad_row_reaches_training_and_validation_data(
    options: dict[str, Any], caplog: pytest.LogCaptureFixture, tmp_path: Path, name: str
) -> None:
    (tmp_path / "bad.tsv").write_text("a\tb\nc\td\nbroken\n")
    given = {**options, name: str(tmp_path / "bad.tsv")}
    with pytest.raises(UserError, match=r"bad\.tsv, line 3: 1 columns"):
        load_rows(TrainConfig.from_mapping(given))
    rows, held_out = load_rows(TrainConfig.from_mapping({**given, "on_bad_row": "skip"}))
    assert len(rows if name == "data" else held_out or ()) == 2
    assert any("bad.tsv: 1 malformed rows left out" in line and "line 3" in line for line in warnings_of(caplog))
    with pytest.raises(UserError, match="on_bad_row is 'ignore': expected one of error, skip"):
        TrainConfig.from_mapping({**given, "on_bad_row": "ignore"})


def stock_batches(table: dict[str, list[str]], *, batch_size: int, seed: int) -> list[list[int]]:
    data = Dataset.from_dict(table)
    generator = torch.Generator()
    return list(NoDuplicatesBatchSampler(data, batch_size, False, generator=generator, seed=seed))


@pytest.mark.parametrize("seed", range(12))
def test_duplicates_are_those_of_the_stock_samplers_order(seed: int) -> None:
    unique = [f"{i}" for i in range(23)]
    plain = stock_batches({"anchor": unique, "positive": [f"p{i}" for i in range(23)]}, batch_size=5, seed=seed)
    assert sum(plain, []) == torch.randperm(23, generator=torch.Generator().manual_seed(seed)).tolist()
    anchors = [f"{i % 19}" for i in range(23)]
    positives = [f"{i}x" for i in range(22)] + ["3"]  # which is an anchor too
    moved = [sum(row not in firsts(batch, anchors, positives) for row in batch) for batch in plain]
    assert duplicates_in_batches([anchors, positives], batch_size=5, seed=seed) == sum(moved)
    stock = stock_batches({"anchor": anchors, "positive": positives}, batch_size=5, seed=seed)
    assert len(set(plain[0]) - set(stock[0])) == moved[0]
    assert (stock == plain) == (sum(moved) == 0)
    sizes = batch_sizes([anchors, positives], batch_size=5, seed=seed)
    assert sizes == [len(batch) for batch in stock[: len(plain)]]


@pytest.mark.parametrize("seed", range(6))
def test_an_epoch_of_many_duplicates_is_the_stock_samplers(seed: int) -> None:
    anchors, positives = [f"question {i % 4}" for i in range(96)], [f"answer {i // 2}" for i in range(96)]
    stock = stock_batches({"anchor": anchors, "positive": positives}, batch_size=3, seed=seed)
    found = batch_sizes([anchors, positives], batch_size=3, seed=seed)
    assert found == [len(batch) for batch in stock[:32]]
    assert batch_sizes([anchors, positives], batch_size=16, seed=seed) == [4] * 6


def firsts(batch: list[int], *columns: list[str]) -> list[int]:
    """The rows of a batch that may stay: those without a text of a row that stays before them."""
    stay: list[int] = []
    for row in batch:
        texts = {column[row] for column in columns}
        if not any(texts & {column[other] for column in columns} for other in stay):
            stay.append(row)
    return stay


def test_duplicates_by_hand_and_in_the_log(
    options: dict[str, Any], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    assert duplicates_in_batches([["a"] * 5, list("vwxyz")], batch_size=5, seed=1) == 4
    assert duplicates_in_batches([["a"] * 6, list("uvwxyz")], batch_size=3, seed=1) == 4
    assert duplicates_in_batches([], batch_size=3, seed=1) == 0
    (tmp_path / "pairs.tsv").write_text("".join(f"one anchor\tpositive {i}\n" for i in range(8)))
    with caplog.at_level(logging.INFO, "lacos_st"):
        load_rows(TrainConfig.from_mapping(options))
    assert "6 of 8 rows share a sentence" in caplog.text
    assert "no-duplicates sampler moves them" in caplog.text
    (warning,) = warnings_of(caplog)
    assert "An epoch of 2 batches, with 1.0 rows on average, does not reach 6 of the rows: lower batch_size" in warning
    caplog.clear()
    load_rows(TrainConfig.from_mapping({**options, "allow_duplicates": True}))
    (warning,) = warnings_of(caplog)
    assert "6 of 8 rows share" in warning
    assert "allow_duplicates leaves them" in warning


@pytest.mark.parametrize(
    ("method", "allow", "apart"), [("lacos", False, True), ("lacos", True, False), ("sbert", False, False)]
)
def test_by_default_no_batch_holds_a_sentence_twice(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, method: str, allow: bool, apart: bool
) -> None:
    labels = [name + "\t" if method == "sbert" else "" for name in ("entailment", "neutral", "contradiction")]
    lines = [f"{labels[i % 3]}anchor {i % 6}\tpositive {i}" for i in range(24)]
    (tmp_path / "pairs.tsv").write_text("\n".join(lines), encoding="utf-8")
    runs: list[LacosTrainer] = []

    def stop(self: LacosTrainer, *_: object, **__: object) -> None:
        runs.append(self)
        raise Stop

    monkeypatch.setattr(LacosTrainer, "train", stop)
    own = {"block_size": 64} if method == "lacos" else {}
    config = {key: value for key, value in options.items() if key != "block_size"} | own
    with pytest.raises(Stop):
        train(TrainConfig.from_mapping({**config, "method": method, "allow_duplicates": allow, "progress": False}))
    (run,) = runs
    first = next(name for name in run.train_dataset.column_names if name != "label")
    batches = [
        [run.train_dataset[place][first] for place in batch] for batch in run.get_train_dataloader().batch_sampler
    ]
    assert sorted(text for batch in batches for text in batch) == sorted(run.train_dataset[first])
    assert all(len(set(batch)) == len(batch) for batch in batches) == apart


@pytest.mark.parametrize("base", ["tiny_bloom_dir", "tiny_bert_dir", "bloom-nano", "bert-nano"])
@pytest.mark.parametrize("max_seq_length", [None, 7])
def test_the_limit_is_that_of_the_built_model(
    options: dict[str, Any], request: pytest.FixtureRequest, base: str, max_seq_length: int | None
) -> None:
    name = request.getfixturevalue(base) if base.startswith("tiny") else base
    config = TrainConfig.from_mapping({**options, "base": name, "max_seq_length": max_seq_length}).resolved()
    model = build_model(config)
    found = cut_sentences(config, ["a man"])
    assert found == CutSentences(limit=model.max_seq_length, sentences=1, cut=0, longest=0)


def test_sentences_over_the_limit_are_those_that_the_model_cuts(
    options: dict[str, Any], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    config = TrainConfig.from_mapping({**options, "max_seq_length": 6}).resolved()
    model = build_model(config)
    sentences = [
        "a man",
        "x",
        "a man plays a guitar and walks",
        "\u0926\u094b",
        "guitar " * 9,
        "\ufdfa",
        "ab" * 3,
        "ab" * 4,
    ]
    lengths = [len(model[0].tokenizer(text, truncation=False).input_ids) for text in sentences]
    over = [length for length in lengths if length > 6]
    assert 0 < len(over) < len(sentences)
    found = cut_sentences(config, sentences)
    assert found == CutSentences(limit=6, sentences=len(sentences), cut=len(over), longest=max(over))
    caplog.clear()
    (tmp_path / "pairs.tsv").write_text("a man\tx\nguitar guitar guitar guitar guitar guitar guitar guitar\ta\nb\tc\n")
    load_rows(TrainConfig.from_mapping({**options, "max_seq_length": 6}))
    (warning,) = warnings_of(caplog)
    assert "1 of 6 training sentences are longer than the model's limit of 6 tokens" in warning


def test_a_prompt_counts_and_leaves_room_for_sentences(
    options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    given = {**options, "max_seq_length": 12}
    load_rows(TrainConfig.from_mapping(given))
    assert not warnings_of(caplog)
    load_rows(TrainConfig.from_mapping({**given, "prompt": "guitar man: "}))
    (warning,) = warnings_of(caplog)
    assert "training sentences are longer than the model's limit of 12 tokens" in warning
    for prompt in ("abcdefghijkl", "xyz " * 12):
        with pytest.raises(UserError, match=r"prompt takes \d+ tokens and the model keeps 12"):
            load_rows(TrainConfig.from_mapping({**given, "prompt": prompt}))


def test_short_sentences_are_not_tokenised(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(audit, "_lengths", lambda _, texts: asked.append(texts) or [])
    cut_sentences(TrainConfig.from_mapping({**options, "max_seq_length": 40}), ["short", "\u00e9 \u00e9", "long" * 20])
    assert asked == [["\u00e9 \u00e9", "long" * 20]]  # what Unicode's normal forms may lengthen is looked at


def test_a_base_without_a_tokenizer_is_named(options: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    config = Path(options["base"], "config.json").read_text()
    (tmp_path / "bare" / "config.json").write_text(config)
    with pytest.raises(UserError, match="bare' has no tokenizer"):
        cut_sentences(TrainConfig.from_mapping({**options, "base": str(tmp_path / "bare")}), ["a"])
