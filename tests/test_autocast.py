"""Autocast ends with a training, and is refused where it would be ignored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from lacos_st.errors import UserError
from lacos_st.methods import build_model
from lacos_st.settings import TrainConfig
from lacos_st.trainer import LacosTrainer
from lacos_st.training import fit_, prepared, train

PAIRS = [(f"a man walks {i}", f"a man {i}") for i in range(16)]
ROWS = Dataset.from_dict({"anchor": [one for one, _ in PAIRS], "positive": [two for _, two in PAIRS]})


class Watching(MultipleNegativesRankingLoss):
    """The stock loss; remembers whether the model was called under autocast."""

    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__(model)
        self.seen: set[bool] = set()
        model[0].register_forward_hook(lambda *_: self.seen.add(torch.is_autocast_enabled("cpu")))


@pytest.fixture
def options(tiny_bloom_dir: str, tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "pairs.tsv").write_text("".join(f"{one}\t{two}\n" for one, two in PAIRS))
    return {
        "base": tiny_bloom_dir, "data": str(tmp_path / "pairs.tsv"), "output": str(tmp_path / "run"), "block_size": 64,
        "batch_size": 8, "lr": 1e-2, "eval_rows": 0, "max_steps": 1, "cpu": True, "progress": False,
        "autocast": "bfloat16",
    }  # fmt: skip


def again(model: SentenceTransformer, folder: Path, *, bf16: bool, calls: int = 1) -> set[bool]:
    """Under which autocast the model is called in another training."""
    loss = Watching(model)
    args = SentenceTransformerTrainingArguments(
        str(folder), max_steps=1, per_device_train_batch_size=8, bf16=bf16, save_strategy="no", report_to="none",
        disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    trainer = LacosTrainer(model=model, args=args, train_dataset=ROWS, loss=loss)
    for _ in range(calls):
        loss.seen.clear()
        trainer.train()
    return loss.seen


def test_a_trained_model_embeds_as_the_one_that_was_saved(options: dict[str, Any], tmp_path: Path) -> None:
    result = train(TrainConfig.from_mapping(options))
    saved = SentenceTransformer(str(result.model_path), device="cpu")
    found, expected = (model.encode(tiny.SENTENCES, show_progress_bar=False) for model in (result.model, saved))
    assert found.tobytes() == expected.tobytes()
    assert again(result.model, tmp_path / "more", bf16=True) == {True}


def test_a_model_can_be_trained_again_with_autocast_or_without(options: dict[str, Any], tmp_path: Path) -> None:
    config = prepared(TrainConfig.from_mapping(options).resolved(), ROWS)
    model = build_model(config)
    fit_(model, config, ROWS)
    assert "_original_forward" not in vars(model)
    assert again(model, tmp_path / "plain", bf16=False) == {False}
    model = build_model(config)
    fit_(model, config, ROWS)
    assert again(model, tmp_path / "twice", bf16=True, calls=2) == {True}


def test_float16_is_refused_on_a_cpu(options: dict[str, Any]) -> None:
    config = TrainConfig.from_mapping({**options, "autocast": "float16"})
    for start in (train, lambda given: prepared(given.resolved(), ROWS)):
        with pytest.raises(UserError, match="float16 is for a GPU, .* use bfloat16"):
            start(config)
    assert not Path(options["output"]).exists()
