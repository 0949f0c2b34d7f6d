"""NaN and inf end a run at once, and say at which step, in which rows, and from where to go on."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from transformers import TrainerControl, TrainerState

from lacos_st import encoder
from lacos_st.adapters import adapter_parameters
from lacos_st.cli import main
from lacos_st.finite import NonFiniteLoss, StopOnNonFinite
from lacos_st.trainer import LacosTrainer

ROWS = Dataset.from_dict({"anchor": [f"a man {i}" for i in range(24)], "positive": [f"guitar {i}" for i in range(24)]})


class Bad(MultipleNegativesRankingLoss):
    """The stock loss, times NaN or inf in its third training batch or in every validation batch."""

    def __init__(self, model: SentenceTransformer, factor: float, *, training: bool = True) -> None:
        super().__init__(model)
        self.factor, self.training_batches, self.when = factor, 0, training

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().forward(*args, **kwargs)
        self.training_batches += torch.is_grad_enabled()
        bad = self.training_batches == 3 if self.when else not torch.is_grad_enabled()
        return loss * self.factor if bad else loss


@pytest.fixture
def model(tiny_bloom_dir: str) -> SentenceTransformer:
    return encoder(tiny_bloom_dir, device="cpu", block_size=64, lora_rank=2)


def trainer(model: SentenceTransformer, loss: torch.nn.Module, folder: Path, **options: Any) -> LacosTrainer:
    arguments = {
        "per_device_train_batch_size": 6, "save_strategy": "steps", "save_steps": 1, "logging_steps": 100,
        "learning_rate": 1e-3, "report_to": "none", "disable_tqdm": True, "use_cpu": True, **options,
    }  # fmt: skip
    args = SentenceTransformerTrainingArguments(output_dir=str(folder), **arguments)
    return LacosTrainer(model=model, args=args, train_dataset=ROWS, eval_dataset=ROWS.select(range(6)), loss=loss)


def weights(model: SentenceTransformer) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in adapter_parameters(model[0].model).values()]


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_loss_names_step_rows_and_checkpoint(
    model: SentenceTransformer, tmp_path: Path, caplog: pytest.LogCaptureFixture, factor: float, accumulation: int
) -> None:
    run = trainer(model, Bad(model, factor), tmp_path, gradient_accumulation_steps=accumulation)
    with pytest.raises(
        NonFiniteLoss, match=r"training loss was (nan|inf) at step \d .*the batch's rows: a man"
    ) as stop:
        run.train()
    step = 3 if accumulation == 1 else 2
    assert f"at step {step} " in str(stop.value)
    # the checkpoint before the last one gave a finite loss, the last one nobody knows
    expected = str(tmp_path / "checkpoint-1") if accumulation == 1 else None
    assert stop.value.checkpoint == expected
    assert ("there is no good checkpoint" in str(stop.value)) == (expected is None)
    order = list(run.get_train_dataloader().batch_sampler)[2]  # the sampler starts anew with the epoch's seed
    named = {row["anchor"] for row in stop.value.rows.rows}
    assert named == {ROWS[place]["anchor"] for place in order}
    said = [record.getMessage() for record in caplog.records if record.name == "lacos_st.finite"]
    assert len(said) == 6
    assert all(any(anchor in line for anchor in named) for line in said)
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {f"checkpoint-{k}" for k in range(1, step)}


def test_a_gradient_is_stopped_before_the_weights(model: SentenceTransformer, tmp_path: Path) -> None:
    run = trainer(model, MultipleNegativesRankingLoss(model), tmp_path)
    name, parameter = next(iter(adapter_parameters(model[0].model).items()))
    steps, before = [], []

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        steps.append(run.state.global_step)
        before[:] = weights(model)
        return gradient * (float("inf") if run.state.global_step == 2 else 1)

    parameter.register_hook(spoil)
    with pytest.raises(
        NonFiniteLoss, match=rf"gradients were not finite \(.*{name}\).* at step 3 .*rows: a man"
    ) as stop:
        run.train()
    assert steps == [0, 1, 2]
    assert stop.value.checkpoint == str(tmp_path / "checkpoint-2")  # its weights gave the finite loss of step 3
    assert len(stop.value.rows.rows) == 6
    assert all(torch.equal(now, was) for now, was in zip(weights(model), before, strict=True))


def test_float16_without_a_scaler_stops_as_well(model: SentenceTransformer, tmp_path: Path) -> None:
    run = trainer(model, MultipleNegativesRankingLoss(model), tmp_path, fp16=True)
    assert run.accelerator.scaler is None  # a CPU has none
    next(iter(adapter_parameters(model[0].model).values())).register_hook(lambda gradient: gradient * float("inf"))
    before = weights(model)
    with pytest.raises(NonFiniteLoss, match=r"gradients were not finite .* at step 1 "):
        run.train()
    assert all(torch.equal(now, was) for now, was in zip(weights(model), before, strict=True))


def test_where_there_is_a_scaler_it_skips_the_step() -> None:
    bad = torch.nn.Linear(2, 2)
    bad(torch.full((1, 2), float("inf"))).sum().backward()
    args = SentenceTransformerTrainingArguments(use_cpu=True)
    StopOnNonFinite(scaled=True).on_pre_optimizer_step(args, TrainerState(), TrainerControl(), model=bad)
    with pytest.raises(NonFiniteLoss, match="gradients were not finite"):
        StopOnNonFinite().on_pre_optimizer_step(args, TrainerState(), TrainerControl(), model=bad)


def test_a_validation_loss_leaves_the_step_before(model: SentenceTransformer, tmp_path: Path) -> None:
    run = trainer(model, Bad(model, float("nan"), training=False), tmp_path, eval_strategy="steps", eval_steps=3)
    with pytest.raises(NonFiniteLoss, match=r"validation loss was nan at step 3 ") as e:
        run.train()
    assert e.value.checkpoint == str(tmp_path / "checkpoint-2")
    assert e.value.rows is None
    assert not (tmp_path / "checkpoint-3").exists()


def test_the_command_line_names_the_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.save(tmp_path / "base")
    (tmp_path / "pairs.tsv").write_text("".join(f"a man walks {i}\ta man {i}\n" for i in range(24)))
    line = ["train", "--base", str(tmp_path / "base"), "--data", str(tmp_path / "pairs.tsv"), "--cpu", "--no-progress"]
    line += ["--output", str(tmp_path / "out"), "--block-size", "64", "--batch-size", "8", "--eval-rows", "0"]
    logging.getLogger("lacos_st").setLevel(logging.WARNING)
    assert main([*line, "--lr", "1e30", "--warmup", "0"]) == 2
    said = capsys.readouterr().err
    assert "at step 2 (peak learning rate 1e+30)" in said
    assert "there is no good checkpoint yet; the batch's rows: a man walks" in said
    assert "and 4 more, all of them in the log" in said
    assert not (tmp_path / "out").exists()
