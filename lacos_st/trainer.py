"""`LacosTrainer`: the stock trainer, but for restoring a checkpoint; and the callbacks that log and stop a run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformerTrainer
from sentence_transformers.sentence_transformer.losses import AdaptiveLayerLoss
from torch import nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lacos_st import ranks
from lacos_st.atomic import clear_leftovers, remove_folder, whole_folder, write_text
from lacos_st.columns import tie_columns_
from lacos_st.errors import UserError
from lacos_st.finite import ROWS, RowKeepingCollator, StopOnNonFinite
from lacos_st.heap import keep_freed_memory, return_freed_memory
from lacos_st.losses import gathering, load_own_weights_, own_gradients, own_weights, parts
from lacos_st.pickles import check_pickles
from lacos_st.restoring import frozen_bases, restore_
from lacos_st.resume import FILES, STATE, best_of, check_checkpoint, checkpoints, list_files
from lacos_st.runs import LAST_LINE, read_log
from lacos_st.savable import check_adapters
from lacos_st.saving import whatever_it_embeds
from lacos_st.shares import SharedBatches
from lacos_st.streams import OfItsRows, check_streams, read_by_each_
from lacos_st.transformer import LoRA8bit
from lacos_st.upstream import overrides

LOSS_FILE = "loss.safetensors"


@overrides(
    "_load_from_checkpoint",
    "_load_best_model",
    "_get_output_dir",
    "_save_checkpoint",
    "_run_epoch",
    "_save",
    package="transformers",
)
class LacosTrainer(SentenceTransformerTrainer):
    """The stock trainer, with the columns of a batch embedded in one pass and a `_load_from_checkpoint` that is safe.

    The stock method (resume and `load_best_model_at_end`) loads the whole model a second time to copy it over the one
    that is being trained (`lacos_st.steadfast` keeps the base from it). Here the base is never touched: the first
    module takes back its adapter, the others the weights they have, and a loss with weights of its own (SoftmaxLoss)
    those that the stock checkpoint leaves out. A checkpoint appears whole, with the hashes of its files, or not at all,
    and is compared with them before anything of it is read. A run whose loss or gradients are not finite ends
    (`StopOnNonFinite`).
    """

    data_collator_class = RowKeepingCollator

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_streams(self.train_dataset, self.eval_dataset, self.args, processes=ranks.count())
        if any(isinstance(part, AdaptiveLayerLoss) for part in parts(self.loss)):
            raise UserError(
                "AdaptiveLayerLoss and Matryoshka2dLoss need the output of each layer, of which lacos_st's modules "
                "give the last one's alone: MatryoshkaLoss trains fewer dimensions"
            )
        for module in self.model.modules():
            if isinstance(module, LoRA8bit):
                check_adapters(module)  # before anything is trained that could not be saved
        self._bases = frozen_bases(self.model)
        ranks.check_same(repr(self._bases), "base")
        self._stop_on_non_finite = StopOnNonFinite(self.loss, scaled=self.accelerator.scaler is not None)
        self.add_callback(self._stop_on_non_finite)
        self._find_best = FindBest()

    def create_accelerator_and_postprocess(self) -> None:
        """As the stock method; a streaming set is read by the process that trains on it (`lacos_st.streams`)."""
        read_by_each_(self.args, processes=ranks.count())
        super().create_accelerator_and_postprocess()
        self._of_its_rows = OfItsRows(self.gather_function)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As the stock method; on a CPU the memory of a step is kept for the next, and given back at the end."""
        ranks.on_first(lambda: clear_leftovers(Path(str(self.args.output_dir)), "checkpoint-*"))
        if ranks.count() > 1:  # dropout differs from process to process; what is resumed has its own numbers
            torch.manual_seed(self.args.seed + ranks.rank())
        if self._find_best not in self.callback_handler.callbacks:  # behind those of the user
            self.add_callback(self._find_best)
        try:
            return super().train(*args, **kwargs)
        finally:
            return_freed_memory()

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """As the stock method, but not beyond the last step: stock takes one more where a run is resumed at its end."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """As the stock method; NonFiniteLoss where the loss is NaN or infinite."""
        if self.model.device.type == "cpu":
            keep_freed_memory()
        loss = super().training_step(model, inputs, *args, **kwargs)
        if self.accelerator.sync_gradients:
            # torch averages those of the model; a loss with weights of its own (SoftmaxLoss) is nobody's to it
            ranks.average_(list(own_gradients(self.loss).values()))
        self._stop_on_non_finite.check_loss(loss, inputs.get(ROWS), self.args, self.state)
        return loss

    def collect_features(self, inputs: dict[str, Any]) -> tuple[list[dict[str, Any]], torch.Tensor | None]:
        """As the stock method; flat columns are tied together, unless a cached loss is going to cut them up."""
        features, labels = super().collect_features(inputs)
        cached = any(hasattr(part, "mini_batch_size") for part in parts(self.loss))
        if isinstance(self.model[0], LoRA8bit) and not cached:
            tie_columns_(features)
        return features, labels

    def get_batch_sampler(
        self,
        dataset: Any,
        batch_size: int,
        drop_last: bool,
        valid_label_columns: list[str] | None = None,
        generator: torch.Generator | None = None,
        seed: int = 0,
    ) -> Any:
        """As the stock method; several processes share batches that hold no sentence twice, see `SharedBatches`."""
        how = {"valid_label_columns": valid_label_columns, "generator": generator, "seed": seed}
        stock: Any = super().get_batch_sampler
        if ranks.count() == 1:
            return stock(dataset, batch_size, drop_last, **how)
        shares = ranks.count() if gathering(self.loss) else 1
        return SharedBatches(stock(dataset, batch_size * shares, True, **how), parts=shares)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """As the stock method; of several processes each has all the rows, in the batches of a single process."""
        rows: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        if ranks.count() == 1 or rows is None or isinstance(rows, str):
            return super().get_eval_dataloader(eval_dataset)
        seed = self.args.seed
        batches = super().get_batch_sampler(
            rows,
            self.args.eval_batch_size,
            False,
            valid_label_columns=self.data_collator.valid_label_columns,
            generator=torch.Generator().manual_seed(seed),
            seed=seed,
        )
        loader = DataLoader(rows, batch_sampler=batches, collate_fn=self.data_collator)
        return prepare_data_loader(loader, self.args.device, num_processes=1, process_index=0, put_on_device=True)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As the stock method; several processes compute one figure, that of a single process.

        Stock shares the rows out and leaves out those that do not fill a batch of each process: of few rows, all.
        """
        if ranks.count() == 1:
            self.gather_function = self._of_its_rows  # each time: stock puts its own back
            return super().evaluate(*args, **kwargs)
        gatherers, gather = gathering(self.loss), self.gather_function
        self.gather_function = self._without_filling
        for part in gatherers:
            part.gather_across_devices = False  # each process has the whole batch
        try:
            return ranks.share(super().evaluate(*args, **kwargs))
        finally:
            self.gather_function = gather
            for part in gatherers:
                part.gather_across_devices = True

    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As the stock method; of a streaming set, the batch's loss counts once for each of its rows."""
        rows = inputs.get(ROWS)
        length_known = self.accelerator.gradient_state.remainder >= 0  # then stock's weights are kept
        self._of_its_rows.rows = None if rows is None or length_known else len(rows.rows)
        return super().prediction_step(model, inputs, *args, **kwargs)

    def _without_filling(self, losses: torch.Tensor) -> torch.Tensor:
        """A batch's loss once for each of its rows, as accelerate has it in a single process."""
        state = self.accelerator.gradient_state
        return losses[: state.remainder] if state.end_of_dataloader and state.remainder > 0 else losses

    def _load_from_checkpoint(self, checkpoint_path: str) -> None:  # type: ignore[override]
        """Restore what is trained from `checkpoint_path`.

        Raises:
            UserError: the checkpoint is broken or does not fit.
        """
        folder = Path(checkpoint_path)
        check_pickles(folder)  # which are opened next
        if (folder / FILES).is_file():  # not so in a model's folder, nor in what the stock trainer wrote
            check_checkpoint(folder)
        self._find_best.recorded = best_of(folder)
        try:
            restore_(self.model, folder, bases=self._bases)
            if (file := folder / LOSS_FILE).is_file():
                load_own_weights_(self.loss, load_file(file, device=str(self.model.device)))
            elif own_weights(self.loss):
                raise UserError(f"{file} is missing: the checkpoint was not written by LacosTrainer")
        except (OSError, SafetensorError, RuntimeError, KeyError) as error:
            raise UserError(f"checkpoint {checkpoint_path} cannot be restored: {error}") from error

    def _load_best_model(self) -> None:
        """As the stock method, but a checkpoint that cannot be loaded is an error, not a line in the log."""
        assert self.state.best_model_checkpoint is not None
        self.model.model_card_data.set_best_model_step(int(self.state.best_model_checkpoint.rsplit("-", 1)[-1]))
        self._load_from_checkpoint(self.state.best_model_checkpoint)

    def _get_output_dir(self, trial: Any) -> str:
        """As the stock method; while a checkpoint is being written, the folder that it is written in first."""
        return self._staging or super()._get_output_dir(trial)

    _staging: str | None = None

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """As the stock method, but beside the checkpoint's place, with `loss.safetensors` and the hashes of all files.

        Of older checkpoints, `save_total_limit` keeps the best and the newest; each goes at once.

        Raises:
            UserError: it cannot be written: a full disk, a read-only folder.
        """
        run = Path(self._get_output_dir(trial))
        place = run / f"checkpoint-{self.state.global_step}"
        if self.args.push_to_hub:  # stock uploads from where it writes, and goes on meanwhile: nothing may move
            super()._save_checkpoint(model, trial)
            self._complete(place, place)
            return
        limit = self.args.save_total_limit
        with whole_folder(place) if ranks.is_first() else nullcontext() as folder:
            new = Path(ranks.share(str(folder)))
            self._staging, self.args.save_total_limit = str(new), None
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._staging, self.args.save_total_limit = None, limit
            ranks.wait()  # each process has written its random numbers
            if ranks.is_first():
                inner = new / place.name
                for path in inner.iterdir():
                    path.rename(new / path.name)
                inner.rmdir()
                self._complete(new, place)
        ranks.wait()
        self.state.best_model_checkpoint = ranks.share(self.state.best_model_checkpoint)
        if ranks.is_first():
            self._keep_newest(run)

    def _save(self, *args: Any, **kwargs: Any) -> None:
        """As the stock method, in one of several processes: transformers 5 calls it in all, and stock writes in all."""
        if ranks.is_first():
            with whatever_it_embeds():
                super()._save(*args, **kwargs)

    def _complete(self, new: Path, place: Path) -> None:
        """Add what is ours to the checkpoint that stock wrote into `new`, and that is to stand at `place`."""
        if weights := own_weights(self.loss):
            save_file({name: tensor.contiguous() for name, tensor in weights.items()}, new / LOSS_FILE)
        if self.state.best_global_step == self.state.global_step:  # else the best of those before stays what it is
            self.state.best_model_checkpoint = str(place)
        self.state.save_to_json(str(new / STATE))  # again, as stock looks for the best one beside the new one
        list_files(new, step=self.state.global_step)

    def _keep_newest(self, run: Path) -> None:
        """Remove the checkpoints beyond `save_total_limit`, but for the newest and the best."""
        limit = self.args.save_total_limit
        if not limit or limit < 1:
            return
        whole = checkpoints(run)
        kept = {whole[-1], Path(str(self.state.best_model_checkpoint))}
        old = [path for path in whole if path not in kept]
        for path in old[: max(0, len(whole) - max(limit, len(kept.intersection(whole))))]:
            remove_folder(path)


class FindBest(TrainerCallback):
    """Finds the best checkpoint of a resumed run, which stock code forgets where the run's folder has moved.

    Attributes:
        recorded: name of the best checkpoint as the one that is resumed from has it; None where none was saved.
    """

    def __init__(self) -> None:
        self.recorded: str | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Raises UserError where the best checkpoint is not there; the best evaluation may have none."""
        if args.load_best_model_at_end and state.global_step and self.recorded:
            best = Path(str(args.output_dir), self.recorded)
            if not best.is_dir():
                raise UserError(
                    f"the best checkpoint so far, {best}, is gone: put it back, or train anew with --overwrite"
                )
            state.best_model_checkpoint = str(best)


class RunLog(TrainerCallback):
    """Writes every log of the trainer as a line of JSON: step, epoch, and the figures.

    A resumed run goes on behind the line of its checkpoint: what was logged of later steps comes again.

    Args:
        path: of the file.
        at_end: more figures for the last line, asked for when it is written.
    """

    def __init__(self, path: Path, *, at_end: Callable[[], Mapping[str, Any]] = dict) -> None:
        self.path, self.at_end = path, at_end

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the lines up to the step that is resumed from; none in a run that starts."""
        if not state.is_world_process_zero:
            return
        if state.global_step and self.path.is_file():
            kept = [row for row in read_log(self.path) if row["step"] <= state.global_step and LAST_LINE not in row]
            write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))
        else:
            self.path.unlink(missing_ok=True)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Have the loss logged before every save: the sum of the losses since the last log is in no checkpoint."""
        if control.should_save:
            control.should_log = True

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Append the figures in `kwargs["logs"]`."""
        if not state.is_world_process_zero:
            return
        row = {"step": state.global_step, "epoch": state.epoch, **kwargs["logs"]}
        if LAST_LINE in row:
            # the model is that of the best checkpoint, not of the step that this line stands at
            row |= {} if state.best_global_step is None else {"best_step": state.best_global_step}
            row |= self.at_end()
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())  # before the checkpoint of its step, which a resumed run goes on from
