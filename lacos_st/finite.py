"""A run whose loss or gradients are NaN or infinite ends at once: with the step, the batch's rows and what is left."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lacos_st import ranks
from lacos_st.errors import UserError
from lacos_st.losses import Losses, own_gradients

logger = logging.getLogger(__name__)

ROWS = "lacos_rows"
SHOWN_ROWS, SHOWN_CHARACTERS = 4, 60


class Rows:
    """The rows of a batch as the data set has them; a class of its own, so that nobody looks into it for tensors."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __str__(self) -> str:
        shown = "; ".join(
            " | ".join(str(value)[:SHOWN_CHARACTERS] for value in row.values()) for row in self.rows[:SHOWN_ROWS]
        )
        more = len(self.rows) - SHOWN_ROWS
        return f"{shown}; and {more} more, all of them in the log" if more > 0 else shown


class RowKeepingCollator(SentenceTransformerDataCollator):
    """The stock collator, with the rows themselves beside their tokens."""

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """As the stock method, with one key more, `ROWS`."""
        return {**super().__call__(features), ROWS: Rows(features)}


class NonFiniteLoss(UserError):
    """A loss or a gradient became NaN or infinite.

    Attributes:
        checkpoint: The last checkpoint from which a finite loss has been computed; None if there is none.
        rows: The batch's rows; None for a validation loss.
    """

    def __init__(self, message: str, *, checkpoint: str | None, rows: Rows | None = None) -> None:
        super().__init__(message)
        self.checkpoint = checkpoint
        self.rows = rows


class StopOnNonFinite(TrainerCallback):
    """Ends a run at the first loss or gradient that is not finite, before it reaches a weight or a checkpoint.

    `LacosTrainer` calls `check_loss` after each batch; the rest is called by the stock trainer.

    Args:
        loss: whose own weights, where it has any, are looked at beside the model's; a loss, or a dict of them.
        scaled: whether a scaler looks at the gradients and skips such a step: with autocast to float16 on a GPU.
    """

    def __init__(self, loss: Losses | None = None, *, scaled: bool = False) -> None:
        self.loss, self.scaled = loss, scaled
        self.batches: list[Rows] = []

    def check_loss(self, loss: torch.Tensor, rows: Rows | None, args: TrainingArguments, state: TrainerState) -> None:
        """Raises NonFiniteLoss where the loss of a batch is not finite.

        Args:
            loss: Of one batch, a scalar.
            rows: That batch's.
            args: The run's.
            state: The run's, with the steps that are done.
        """
        if rows is not None:
            self.batches.append(rows)
        if ranks.any_of(~torch.isfinite(loss)):
            what = f"the training loss was {float(loss)}"
            if ranks.count() > 1:
                what += f" in process {ranks.rank()}, and not finite in one of {ranks.count()}"
            # the weights of the last checkpoint gave a loss only if a step was taken after it
            raise self._error(what, rows, args, state, proven=state.global_step - 1)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Raises NonFiniteLoss where a gradient is not finite, but where a scaler skips such a step."""
        batches, self.batches = self.batches, []
        if self.scaled:
            return
        named = [(name, p.grad) for name, p in kwargs["model"].named_parameters() if p.grad is not None]
        named += own_gradients(self.loss).items()
        if not named:
            return
        total = torch.stack([torch.linalg.vector_norm(grad.detach().float()) for _, grad in named]).sum()
        if not bool(torch.isfinite(total)):
            bad = [name for name, grad in named if not bool(grad.isfinite().all())]
            what = f"{len(bad)} gradients were not finite ({bad[0]})" if bad else "the gradients' norm overflowed"
            rows = Rows([row for batch in batches for row in batch.rows]) if batches else None
            raise self._error(f"{what}, with a finite loss,", rows, args, state, proven=state.global_step)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Raises NonFiniteLoss on a validation loss that is not finite, before the checkpoint of its step."""
        value = kwargs["logs"].get("eval_loss")
        if value is not None and not math.isfinite(value):
            raise self._error(f"the validation loss was {value}", None, args, state, proven=state.global_step - 1)

    def _error(
        self, what: str, rows: Rows | None, args: TrainingArguments, state: TrainerState, *, proven: int
    ) -> NonFiniteLoss:
        """The error, with the last checkpoint of step `proven` or before, or of a step with a validation loss."""
        validated = {row["step"] for row in state.log_history if math.isfinite(row.get("eval_loss", math.nan))}
        steps = [
            int(folder.name.rsplit("-", 1)[1])
            for folder in Path(str(args.output_dir)).glob("checkpoint-*")
            if folder.name.rsplit("-", 1)[1].isdigit() and (folder / "trainer_state.json").is_file()
        ]
        good = max((step for step in steps if step <= proven or step in validated), default=None)
        checkpoint = None if good is None else str(Path(str(args.output_dir), f"checkpoint-{good}"))
        step = state.global_step + (rows is not None)
        for row in rows.rows if rows else ():
            logger.error("in the batch at step %d: %s", step, json.dumps(row, ensure_ascii=False, default=str))
        return NonFiniteLoss(
            f"{what} at step {step} (peak learning rate {args.learning_rate:g}): nothing of that step was kept; train "
            "anew with a lower learning rate, a longer warm-up, or without autocast to float16, and look at the data; "
            + (f"last good checkpoint: {checkpoint}" if checkpoint else "there is no good checkpoint yet")
            + (f"; the batch's rows: {rows}" if rows else ""),
            checkpoint=checkpoint,
            rows=rows,
        )
