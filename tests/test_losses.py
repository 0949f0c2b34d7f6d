"""`LacosTrainer` with several losses, with a Router, with a loss alone: as the stock trainer, and restored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.base.modules import Router
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    Matryoshka2dLoss,
    MultipleNegativesRankingLoss,
    SoftmaxLoss,
)

import lacos_st
from lacos_st.errors import UserError
from lacos_st.losses import by_prefix, load_own_weights_, own_weights
from lacos_st.trainer import LacosTrainer

WORDS = "man woman dog plays guitar park house red blue walks".split()


def _texts(seed: int, rows: int = 16) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(2, 7))) for _ in range(rows)]


PAIRS = Dataset.from_dict({"anchor": _texts(0), "positive": _texts(1)})
CLASSES = Dataset.from_dict({"first": _texts(2), "second": _texts(3), "label": [row % 3 for row in range(16)]})


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random BLOOM."""
    return str(tiny.save(tmp_path_factory.mktemp("base")))


def _model(base: str, *, pooling: str = "mean") -> SentenceTransformer:
    torch.manual_seed(0)
    module = lacos_st.BloomLoRA8bit(base, lora_rank=2, block_size=64)
    pooled = lacos_st.Pooling(module.get_embedding_dimension(), pooling_mode=pooling)
    return SentenceTransformer(modules=[module, pooled], device="cpu")


def _options(output: Path, **options: Any) -> SentenceTransformerTrainingArguments:
    given = {
        "max_steps": 3,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 8,
        "learning_rate": 1e-2,
        "save_strategy": "no",
        "report_to": "none",
        "logging_steps": 1,
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return SentenceTransformerTrainingArguments(output_dir=str(output), **{**given, **options})


@pytest.mark.parametrize("pooling", ["mean", "lasttoken"])
def test_a_cached_loss_among_several_is_stocks(base: str, pooling: str, tmp_path: Path) -> None:
    found = []
    for trainer in (SentenceTransformerTrainer, LacosTrainer):
        model = _model(base, pooling=pooling)
        losses = {
            "cached": CachedMultipleNegativesRankingLoss(model, mini_batch_size=3),
            "plain": MultipleNegativesRankingLoss(model),
        }
        sets = {"cached": PAIRS, "plain": PAIRS}
        run = trainer(
            model=model, args=_options(tmp_path), train_dataset=sets, eval_dataset={"cached": PAIRS}, loss=losses
        )
        before = run.evaluate()["eval_cached_loss"]
        run.train()
        found.append([before, *(row["loss"] for row in run.state.log_history if "loss" in row)])
    assert len(found[0]) == 4
    assert found[1] == pytest.approx(found[0], abs=1e-4)


def test_several_losses_are_saved_with_their_weights_and_restored(base: str, tmp_path: Path) -> None:
    def trainer(steps: int) -> LacosTrainer:
        model = _model(base)
        losses = {
            "classes": SoftmaxLoss(model, model.get_embedding_dimension(), num_labels=3),
            "pairs": MultipleNegativesRankingLoss(model),
        }
        return LacosTrainer(
            model=model,
            args=_options(tmp_path, max_steps=steps, save_strategy="steps", save_steps=2),
            train_dataset={"classes": CLASSES, "pairs": PAIRS},
            loss=losses,
        )

    whole = trainer(4)
    whole.train()
    resumed = trainer(4)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    expected, found = own_weights(whole.loss), own_weights(resumed.loss)
    assert set(expected) == {"classes.classifier.weight", "classes.classifier.bias"}
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])
    np.testing.assert_allclose(resumed.model.encode(WORDS), whole.model.encode(WORDS), atol=1e-6)


def test_a_missing_weight_of_a_loss_is_not_passed_over(base: str) -> None:
    model = _model(base)
    loss = SoftmaxLoss(model, model.get_embedding_dimension(), num_labels=3)
    weights = own_weights(loss)
    weights.pop("classifier.bias")
    with pytest.raises(KeyError, match="classifier.bias"):
        load_own_weights_(loss, weights)
    assert by_prefix(None) == {}


@pytest.mark.parametrize("shared", [False, True], ids=["a base for each route", "one for both"])
def test_a_routers_best_checkpoint_is_taken_back(base: str, shared: bool, tmp_path: Path) -> None:
    def router() -> SentenceTransformer:
        torch.manual_seed(0)
        one = lacos_st.LoRA8bit(base, lora_rank=2, block_size=64)
        other = one if shared else lacos_st.LoRA8bit(base, lora_rank=2, block_size=64)
        pooling = lacos_st.Pooling(one.get_embedding_dimension())
        return SentenceTransformer(modules=[Router.for_query_document([one, pooling], [other, pooling])], device="cpu")

    model = router()
    run = LacosTrainer(
        model=model,
        args=_options(
            tmp_path,
            router_mapping={"anchor": "query", "positive": "document"},
            learning_rate=0.3,
            eval_strategy="steps",
            eval_steps=1,
            save_strategy="steps",
            save_steps=1,
            load_best_model_at_end=True,
            metric_for_best_model="eval_loss",
        ),
        train_dataset=PAIRS,
        eval_dataset=PAIRS,
        loss=MultipleNegativesRankingLoss(model),
    )
    run.train()
    best = SentenceTransformer(run.state.best_model_checkpoint, device="cpu")
    for kind in ("encode_query", "encode_document"):
        np.testing.assert_allclose(getattr(model, kind)(WORDS), getattr(best, kind)(WORDS), atol=1e-6)


def test_losses_over_layers_are_refused_by_name(base: str, tmp_path: Path) -> None:
    model = _model(base)
    loss = Matryoshka2dLoss(model, MultipleNegativesRankingLoss(model), [8])
    with pytest.raises(UserError, match="Matryoshka2dLoss need.* MatryoshkaLoss"):
        LacosTrainer(model=model, args=_options(tmp_path), train_dataset={"pairs": PAIRS}, loss={"pairs": loss})


def test_a_loss_alone_is_trained_as_by_stock(base: str, tmp_path: Path) -> None:
    found = []
    for trainer in (SentenceTransformerTrainer, LacosTrainer):
        torch.manual_seed(0)
        model = lacos_st.encoder(base, lora_rank=0, code=None, device="cpu")
        model.requires_grad_(False)
        loss = SoftmaxLoss(model, model.get_embedding_dimension(), num_labels=3)
        run = trainer(model=model, args=_options(tmp_path), train_dataset=CLASSES, loss=loss)
        run.train()
        found.append([row["loss"] for row in run.state.log_history if "loss" in row])
    assert len(found[0]) == 3
    assert found[1] == pytest.approx(found[0], abs=1e-5)
