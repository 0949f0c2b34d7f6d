"""Hard negatives: the third column of pairs, and contradictions of one premise."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import tiny
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
)
from torch.nn.functional import cross_entropy, normalize

from lacos_st import UserError, encoder
from lacos_st.data import load_pairs
from lacos_st.methods import build_loss, load_rows
from lacos_st.negatives import draw_negatives
from lacos_st.settings import TrainConfig
from lacos_st.training import sampled_lengths, train

NLI = """label\tpremise\thypothesis
entailment\tA cat naps.\tIt sleeps.
contradiction\tA cat naps.\tIt runs.
contradiction\tA cat naps.\tIt barks.
neutral\tA cat naps.\tIt dreams.
entailment\tA man rows.\tHe is in a boat.
"""


def write(folder: Path, text: str, name: str = "rows.tsv") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def test_contradictions_of_the_premise_are_drawn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="lacos_st.negatives"):
        rows = load_pairs(write(tmp_path, NLI), hard_negatives=True)
    found = {row["anchor"]: row for row in rows}
    assert found["A cat naps."]["negative"] in ("It runs.", "It barks.")
    assert found["A man rows."]["negative"] == "It sleeps."  # the only other positive
    assert "hard negatives: 1 of 2 pairs have one" in caplog.text
    assert load_pairs(write(tmp_path, NLI)).column_names == ["anchor", "positive"]
    drawn = {
        load_pairs(write(tmp_path, NLI), seed=seed, hard_negatives=True).to_dict()["negative"][0] for seed in range(8)
    }
    assert {"It runs.", "It barks."} <= drawn


@pytest.mark.parametrize("columns", [("negative",), ("negative_1", "negative_2")])
def test_columns_of_negatives(tmp_path: Path, columns: tuple[str, ...]) -> None:
    head = "\t".join(("anchor", "positive", *columns))
    rows = [f"a{n}\tp{n}\t" + "\t".join(f"n{n}{column[-1]}" for column in columns) for n in range(30)]
    file = write(tmp_path, "\n".join([head, *rows]) + "\n")
    found = load_pairs(file, hard_negatives=True)
    assert {row["negative"][:-1] == f"n{row['anchor'][1:]}" for row in found} == {True}
    assert {row["negative"][-1] for row in found} == {column[-1] for column in columns}
    assert load_pairs(file, hard_negatives=True).to_dict() == found.to_dict()


def test_an_empty_negative_is_a_malformed_row(tmp_path: Path) -> None:
    file = write(tmp_path, "anchor\tpositive\tnegative\na\tb\tc\nd\te\t\n")
    with pytest.raises(UserError, match="line 3"):
        load_pairs(file)


def test_rows_of_json_may_have_negatives_or_none(tmp_path: Path) -> None:
    lines = ['{"anchor": "a", "positive": "b"}', '{"anchor": "c", "positive": "d", "negative": "e"}']
    lines += [
        '{"anchor": "f", "positive": "g", "negative": null}',
        '{"anchor": "h", "positive": "i", "Negative_2": "j"}',
    ]
    file = write(tmp_path, "\n".join(lines), "rows.jsonl")
    assert len(load_pairs(file)) == 4
    drawn = {row["anchor"]: row["negative"] for row in load_pairs(file, hard_negatives=True)}
    assert (drawn["c"], drawn["h"]) == ("e", "j")
    assert {drawn["a"], drawn["f"]} <= {"b", "d", "g", "i"}
    with pytest.raises(UserError, match="line 2: expected text, found 1"):
        load_pairs(write(tmp_path, lines[0] + '\n{"anchor": "c", "positive": "d", "negative": 1}\n', "bad.jsonl"))


def test_a_meaning_is_never_its_own_negative() -> None:
    anchors, positives = ["a", "a", "b"], ["p", "q", "r"]
    drawn = draw_negatives(anchors, positives, [("a", "q"), ("a", "a"), ("b", "x")], seed=0)
    assert drawn == ["r", "r", "x"]


def test_what_has_no_negative_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no pair has a hard negative: expected NLI rows"):
        load_pairs(write(tmp_path, "a\tb\nc\td\n"), hard_negatives=True)
    with pytest.raises(UserError, match="the data holds too few sentences"):
        draw_negatives(["a", "a"], ["p", "p"], [("a", "p")], seed=0)


@pytest.fixture(scope="module")
def bloom(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.save(tmp_path_factory.mktemp("bloom"))


def config(tmp_path: Path, base: str, **changes: object) -> TrainConfig:
    rows = "".join(f"a man {n}\ta guitar {n}\ta street {n}\n" for n in range(24))
    values = {
        "base": base, "data": write(tmp_path, "anchor\tpositive\tnegative\n" + rows), "block_size": 64, "batch_size": 8,
        "output": str(tmp_path / "run"), "eval_rows": 0, "max_steps": 3, "cpu": True, "progress": False,
        "hard_negatives": True,
    }  # fmt: skip
    return TrainConfig.from_mapping({**values, **changes}).resolved()


def test_the_loss_ranks_the_negatives_too(tmp_path: Path, bloom: str) -> None:
    model = encoder(bloom, block_size=64, device="cpu")
    tiny.stir_(model)
    rows, _ = load_rows(config(tmp_path, bloom))
    batch = rows[:8]
    sides = [batch[name] for name in ("anchor", "positive", "negative")]
    embedded = [normalize(model.encode(side, convert_to_tensor=True)) for side in sides]
    expected = cross_entropy(20 * embedded[0] @ torch.cat(embedded[1:]).T, torch.arange(8))
    loss = build_loss(config(tmp_path, bloom), model)
    with torch.no_grad():
        found = loss([model.preprocess(side) for side in sides], torch.empty(0))
    torch.testing.assert_close(found, expected)


def test_negatives_are_drawn_on_their_side_of_the_split(tmp_path: Path, bloom: str) -> None:
    lines = []
    for i in range(300):
        lines += [f"entailment\tpremise {i}\thypothesis {i}"]
        lines += [f"contradiction\tpremise {i}\tnot {i}"] if i % 10 == 0 else []
        lines += [f"contradiction\tpremise {i}\thypothesis {i + 1}"] if i % 10 == 5 else []
    data = write(tmp_path, "\n".join(lines) + "\n", "nli.tsv")
    rows, held_out = load_rows(config(tmp_path, bloom, data=data, eval_rows=30))
    assert held_out is not None
    assert (len(rows), len(held_out)) == (270, 30)
    assert not set(rows["negative"]) & set(held_out["positive"])
    assert any(negative.startswith("not") for negative in rows["negative"])
    few = "anchor\tpositive\tnegative\n" + "".join(f"a{i}\tp{i}\tn{i}\n" for i in range(12))
    rows, held_out = load_rows(config(tmp_path, bloom, data=write(tmp_path, few, "few.tsv"), eval_rows=1))
    assert held_out is not None
    assert len(held_out) == 1


def test_an_excluded_sentence_is_no_negative(tmp_path: Path, bloom: str) -> None:
    (tmp_path / "sts").mkdir()
    (tmp_path / "sts" / "x.tsv").write_text("1\tA street 3\tz\n2\ta guitar 5\tw\n", encoding="utf-8")
    rows, _ = load_rows(config(tmp_path, bloom, exclude_sts=str(tmp_path / "sts")))
    assert len(rows) == 23  # the pair of guitar 5 is left out, that of street 3 has another negative
    assert not {"a street 3", "a guitar 5"} & {text for name in rows.column_names for text in rows[name]}


def test_a_pair_set_aside_needs_no_negative_of_its_own() -> None:
    assert draw_negatives(["a", "b"], ["p", "q"], [], seed=0, spare=["s"]) == ["q", "p"]
    assert draw_negatives(["a"], ["p"], [], seed=0, spare=["s"]) == ["s"]


def test_training_on_triples(tmp_path: Path, bloom: str) -> None:
    asked = config(tmp_path, bloom)
    result = train(asked)
    assert result.steps == 3
    assert len(sampled_lengths(asked, load_rows(asked)[0])) == 3
    assert SentenceTransformer(str(result.model_path), device="cpu").encode(["a man"]).shape == (1, 64)


def test_losses_are_the_stock_ones(tmp_path: Path, bloom: str) -> None:
    model = encoder(bloom, block_size=64, device="cpu")
    loss = build_loss(config(tmp_path, bloom, same_side_negatives=True), model)
    assert type(loss) is MultipleNegativesRankingLoss
    assert (set(loss.directions), loss.partition_mode) == (
        {"query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc"},
        "joint",
    )
    cut = build_loss(config(tmp_path, bloom, matryoshka_dims=[16, 32], mini_batch_size=4), model)
    assert isinstance(cut, MatryoshkaLoss)
    assert isinstance(cut.loss, CachedMultipleNegativesRankingLoss)
    assert list(cut.matryoshka_dims) == [64, 32, 16]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "sbert"}, "hard_negatives is for in-batch negatives"),
        ({"symmetric": True, "same_side_negatives": True}, "two losses: give one"),
        ({"matryoshka_dims": [0]}, "expected widths of 1 or more"),
        (
            {"method": "sbert", "hard_negatives": False, "matryoshka_dims": [16]},
            "matryoshka_dims is for in-batch negatives",
        ),
        ({"lora_dropout": 1.5}, "lora_dropout is 1.5: expected 0 or more, below 1"),
        ({"lora_dropout": 1}, "lora_dropout is 1"),
        ({"lora_dropout": -0.1}, "lora_dropout is -0.1"),
        ({"lora_dropout": "nan"}, "lora_dropout is nan"),
        ({"lora_alpha": 0}, "lora_alpha is 0.0: expected a number above 0"),
        ({"lora_alpha": -3}, "lora_alpha is -3.0"),
    ],
)
def test_options_that_contradict(tmp_path: Path, bloom: str, changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(tmp_path, bloom, **changes)


def test_a_width_beyond_the_models(tmp_path: Path, bloom: str) -> None:
    with pytest.raises(UserError, match="matryoshka_dims names 65, the model's embeddings have 64"):
        build_loss(config(tmp_path, bloom, matryoshka_dims=[65]), encoder(bloom, block_size=64))
