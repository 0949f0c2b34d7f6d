"""Which checkpoint a `LacosTrainer` takes back at its end: the one that the stock trainer takes."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.evaluation import SentenceEvaluator
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

import lacos_st
from lacos_st.errors import UserError
from lacos_st.trainer import LacosTrainer

PAIRS = Dataset.from_dict(
    {"anchor": [f"man dog {word}" for word in "abcdefgh"], "positive": [f"park {word}" for word in "abcdefgh"]}
)
SCORES = (0.1, 0.5, 0.9, 0.2, 0.6, 0.3)
"""Of the steps 1 to 6: the best, 3, is saved only where every step is."""


class Scripted(SentenceEvaluator):
    """Scores that are given, one an evaluation."""

    def __init__(self, scores: Sequence[float]) -> None:
        super().__init__()
        self.greater_is_better, self.primary_metric, self.scores = True, "score", list(scores)

    def __call__(
        self, model: Any, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        return {"score": self.scores.pop(0)}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random BLOOM."""
    return str(tiny.save(tmp_path_factory.mktemp("base")))


def _trainer(
    base: str, output: Path, *, kind: type[SentenceTransformerTrainer], scores: Sequence[float], **options: Any
) -> SentenceTransformerTrainer:
    torch.manual_seed(0)
    module = lacos_st.BloomLoRA8bit(base, lora_rank=2, block_size=64)
    pooling = lacos_st.Pooling(module.get_embedding_dimension())
    model = SentenceTransformer(modules=[module, pooling], device="cpu")
    given: dict[str, Any] = {
        "max_steps": 6,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_strategy": "steps",
        "save_steps": 2,
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_score",
        "greater_is_better": True,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return kind(
        model=model,
        args=SentenceTransformerTrainingArguments(output_dir=str(output), **{**given, **options}),
        train_dataset=PAIRS,
        loss=MultipleNegativesRankingLoss(model),
        evaluator=Scripted(scores),
    )


def _adapter(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}


@pytest.mark.parametrize("save_steps", [1, 2])
def test_the_best_of_the_saved_checkpoints_is_stocks(base: str, save_steps: int, tmp_path: Path) -> None:
    found = {}
    for kind in (SentenceTransformerTrainer, LacosTrainer):
        output = tmp_path / kind.__name__
        run = _trainer(base, output, kind=kind, scores=SCORES, save_steps=save_steps, save_total_limit=2)
        run.train()
        found[kind] = (Path(run.state.best_model_checkpoint).name, _adapter(run.model))
    name, weights = found[SentenceTransformerTrainer]
    assert name == ("checkpoint-3" if save_steps == 1 else "checkpoint-2")
    assert found[LacosTrainer][0] == name
    for key, value in weights.items():
        torch.testing.assert_close(found[LacosTrainer][1][key], value, atol=1e-4, rtol=0)  # steps move them by 1e-2
    kept = sorted(path.name for path in (tmp_path / "LacosTrainer").glob("checkpoint-*"))
    assert kept == [name, "checkpoint-6"]


def test_a_run_whose_best_evaluation_was_not_saved_goes_on(base: str, tmp_path: Path) -> None:
    whole = _trainer(base, tmp_path, kind=LacosTrainer, scores=SCORES)
    whole.train()
    shutil.rmtree(tmp_path / "checkpoint-6")
    moved = tmp_path.with_name("moved")
    tmp_path.rename(moved)
    resumed = _trainer(base, moved, kind=LacosTrainer, scores=SCORES[4:])
    resumed.train(resume_from_checkpoint=str(moved / "checkpoint-4"))
    assert resumed.state.best_model_checkpoint == str(moved / "checkpoint-2")
    expected = _adapter(whole.model)
    for key, value in _adapter(resumed.model).items():
        torch.testing.assert_close(value, expected[key], atol=1e-6, rtol=0)


def test_a_best_checkpoint_that_was_saved_and_is_gone_is_missed(base: str, tmp_path: Path) -> None:
    _trainer(base, tmp_path, kind=LacosTrainer, scores=SCORES).train()
    shutil.rmtree(tmp_path / "checkpoint-2")
    resumed = _trainer(base, tmp_path, kind=LacosTrainer, scores=SCORES[4:])
    with pytest.raises(UserError, match="checkpoint-2, is gone"):
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))


def test_a_checkpoint_of_an_earlier_run_is_not_the_best(base: str, tmp_path: Path) -> None:
    _trainer(base, tmp_path, kind=LacosTrainer, scores=SCORES, save_steps=3, eval_steps=3).train()
    assert (tmp_path / "checkpoint-3").is_dir()
    again = _trainer(base, tmp_path, kind=LacosTrainer, scores=SCORES)
    again.train()
    assert Path(again.state.best_model_checkpoint).name == "checkpoint-2"
