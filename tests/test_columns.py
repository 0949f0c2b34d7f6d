from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)

import lacos_st
from lacos_st.columns import COLUMN, tie_columns_

ANCHORS, POSITIVES = ["a man plays", "the street is long", "x"], ["guitar", "a man walks the long street", "दो बच्चे"]


def encoder(folder: str) -> Any:
    torch.manual_seed(0)
    model = lacos_st.encoder(folder, device="cpu", block_size=32)
    tiny.stir_(model)
    return model.train()


def features(model: Any) -> list[dict[str, Any]]:
    return [model.preprocess(column) for column in (ANCHORS, POSITIVES)]


def gradients(model: Any, loss: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("architecture", ["bloom", "llama"])
def test_one_pass_gives_the_loss_of_two(architecture: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = encoder(tiny.save(tmp_path, architecture))
    loss = MultipleNegativesRankingLoss(model)
    apart = loss(features(model), torch.empty(0))
    expected = gradients(model, apart)
    calls = []
    embed = type(model[0])._embed
    monkeypatch.setattr(type(model[0]), "_embed", lambda self, *a, **k: calls.append(1) or embed(self, *a, **k))
    columns = features(model)
    tie_columns_(columns)
    together = loss(columns, torch.empty(0))
    assert len(calls) == 1
    assert (together - apart).detach().abs() <= 1e-6
    for ours, theirs in zip(gradients(model, together), expected, strict=True):
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


def test_a_part_is_not_reused_in_another_mode(tiny_bloom_dir: str) -> None:
    model = encoder(tiny_bloom_dir)
    columns = features(model)
    tie_columns_(columns)
    first = dict(columns[1])
    with torch.no_grad():
        assert not model(dict(columns[0]))["sentence_embedding"].requires_grad
    assert model(first)["sentence_embedding"].requires_grad


def test_a_single_or_padded_column_stays_as_it_is(tiny_bloom_dir: str) -> None:
    model = encoder(tiny_bloom_dir)
    one = features(model)[:1]
    tie_columns_(one)
    assert COLUMN not in one[0]
    padded = [{"input_ids": torch.ones(2, 3, dtype=torch.long), "attention_mask": torch.ones(2, 3)} for _ in range(2)]
    tie_columns_(padded)
    assert all(COLUMN not in column for column in padded)


@pytest.mark.parametrize(("cached", "tied"), [(False, True), (True, False)])
def test_the_trainer_ties_columns(tiny_bloom_dir: str, tmp_path: Any, cached: bool, tied: bool) -> None:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainingArguments

    from lacos_st.trainer import LacosTrainer

    model = encoder(tiny_bloom_dir)
    loss: Any = CachedMultipleNegativesRankingLoss(model, mini_batch_size=2) if cached else None
    trainer = LacosTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(str(tmp_path), report_to="none", use_cpu=True),
        train_dataset=Dataset.from_dict({"anchor": ANCHORS, "positive": POSITIVES}),
        loss=loss or MultipleNegativesRankingLoss(model),
    )
    inputs = trainer.data_collator([{"anchor": a, "positive": p} for a, p in zip(ANCHORS, POSITIVES, strict=True)])
    found, _ = trainer.collect_features(inputs)
    assert [COLUMN in column for column in found] == [tied, tied]
