"""`LacosTrainer`: the stock trainer, but for restoring a checkpoint; and the callbacks that log and stop a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers.base.modules import Module
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lacos_st.adapters import adapter_parameters, is_quantized
from lacos_st.columns import tie_columns_
from lacos_st.errors import UserError
from lacos_st.finite import ROWS, RowKeepingCollator, StopOnNonFinite
from lacos_st.heap import keep_freed_memory, return_freed_memory
from lacos_st.pickles import NEEDED, check_pickles
from lacos_st.transformer import LoRA8bit
from lacos_st.upstream import overrides

LOSS_FILE = "loss.safetensors"


@overrides("_load_from_checkpoint", "_load_best_model", package="transformers")
class LacosTrainer(SentenceTransformerTrainer):
    """The stock trainer, with the columns of a batch embedded in one pass and a `_load_from_checkpoint` that is safe.

    The stock method (resume and `load_best_model_at_end`) loads the whole model anew in float and copies it over the
    one that is being trained; into int8 tensors it truncates, which leaves a base of zeros, without an error. Here the
    base is never touched: the first module takes back its adapter, the others the weights they have, and a loss with
    weights of its own (SoftmaxLoss) those that `LossWeights` wrote, which the stock checkpoint leaves out. A run whose
    loss or gradients are not finite ends (`StopOnNonFinite`).
    """

    data_collator_class = RowKeepingCollator

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._stop_on_non_finite = StopOnNonFinite()
        self.add_callback(self._stop_on_non_finite)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As the stock method; on a CPU the memory of a step is kept for the next, and given back at the end."""
        try:
            return super().train(*args, **kwargs)
        finally:
            return_freed_memory()

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """As the stock method; NonFiniteLoss where the loss is NaN or infinite."""
        if self.model.device.type == "cpu":
            keep_freed_memory()
        loss = super().training_step(model, inputs, *args, **kwargs)
        self._stop_on_non_finite.check_loss(loss, inputs.get(ROWS), self.args, self.state)
        return loss

    def collect_features(self, inputs: dict[str, Any]) -> tuple[list[dict[str, Any]], torch.Tensor | None]:
        """As the stock method; flat columns are tied together, unless a cached loss is going to cut them up."""
        features, labels = super().collect_features(inputs)
        parts = self.loss.modules() if isinstance(self.loss, nn.Module) else ()
        if isinstance(self.model[0], LoRA8bit) and not any(hasattr(part, "mini_batch_size") for part in parts):
            tie_columns_(features)
        return features, labels

    def _load_from_checkpoint(self, checkpoint_path: str) -> None:  # type: ignore[override]
        """Restore what is trained from `checkpoint_path`.

        Raises:
            UserError: the checkpoint is broken or does not fit.
        """
        assert isinstance(self.loss, nn.Module)  # a loss per data set would be a dict
        check_pickles(Path(checkpoint_path))  # which are opened next
        try:
            _restore(self.model, Path(checkpoint_path))
            if (file := Path(checkpoint_path, LOSS_FILE)).is_file():
                self.loss.load_state_dict(load_file(file, device=str(self.model.device)), strict=False)
            elif own_weights(self.loss):
                raise UserError(f"{file} is missing: the checkpoint was not written by LacosTrainer")
        except (OSError, SafetensorError, RuntimeError, KeyError) as error:
            raise UserError(f"checkpoint {checkpoint_path} cannot be restored: {error}") from error

    def _load_best_model(self) -> None:
        """As the stock method, but a checkpoint that cannot be loaded is an error, not a line in the log."""
        assert self.state.best_model_checkpoint is not None
        self.model.model_card_data.set_best_model_step(int(self.state.best_model_checkpoint.rsplit("-", 1)[-1]))
        self._load_from_checkpoint(self.state.best_model_checkpoint)


def _restore(model: SentenceTransformer, folder: Path) -> None:
    entries = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    for module, entry in zip(model, entries, strict=True):
        if isinstance(module, LoRA8bit) and (adapter_parameters(module.model) or is_quantized(module.model)):
            module.restore_adapter(folder)
        elif isinstance(module, Module) and module.state_dict():
            saved = type(module).load(str(folder), subfolder=entry["path"])
            module.load_state_dict(saved.state_dict())


def own_weights(loss: nn.Module) -> dict[str, Any]:
    """The weights of a loss that are not its model's: tensors by name."""
    return {name: tensor for name, tensor in loss.state_dict().items() if not name.startswith("model.")}


def check_checkpoint(folder: Path) -> None:
    """That every file which resuming reads is whole: archives by their checksums, tensors by their length.

    Raises:
        UserError: one is missing, truncated or damaged.
    """
    try:
        json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        if lacking := [name for name in NEEDED if not (folder / name).is_file()]:
            raise ValueError(f"{lacking[0]} is missing")
        for file in folder.rglob("*.safetensors"):
            with safe_open(file, framework="pt"):
                pass
        check_pickles(folder)
    except UserError:
        raise
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(
            f"checkpoint {folder} is broken ({error}): delete this folder to resume from the one before it, or train "
            "anew with --overwrite"
        ) from error


class RunLog(TrainerCallback):
    """Writes every log of the trainer as a line of JSON: step, epoch, and the figures."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Append the figures in `kwargs["logs"]`."""
        row = {"step": state.global_step, "epoch": state.epoch, **kwargs["logs"]}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


class LossWeights(TrainerCallback):
    """Adds the loss's own weights to each checkpoint: without them a resumed SoftmaxLoss would start anew."""

    def __init__(self, loss: nn.Module) -> None:
        self.loss = loss

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write `loss.safetensors` into the checkpoint of this step."""
        if weights := own_weights(self.loss):
            folder = Path(str(args.output_dir), f"checkpoint-{state.global_step}")
            save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / LOSS_FILE)
