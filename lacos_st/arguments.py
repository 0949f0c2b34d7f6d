"""A `TrainConfig` in the stock trainer's words."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from lacos_st import ranks
from lacos_st.errors import UserError
from lacos_st.runs import RunFolder
from lacos_st.settings import ADAPTER_METHODS, TrainConfig

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformerTrainingArguments

OPTIMIZERS = {"adam8bit": "adamw_bnb_8bit", "adamw": "adamw_torch"}
EVALUATIONS_PER_RUN = 10
EVALUATOR_NAME = "sts"
BEST_METRIC = {"loss": "eval_loss", "sts": f"eval_{EVALUATOR_NAME}_spearman_max"}


def chosen_by(config: TrainConfig, *, eval_rows: int, sts: bool) -> Literal["loss", "sts"] | None:
    """By what the best checkpoint of a run is chosen: what `best` asks for, where that is measured.

    Args:
        config: of the run.
        eval_rows: of the validation loss; 0 without.
        sts: whether graded pairs are scored.

    Returns:
        "loss" for the validation loss, "sts" for Spearman; None where nothing is measured.
    """
    return config.best if eval_rows else "sts" if sts else None


def training_arguments(
    config: TrainConfig, folder: RunFolder, *, rows: int, eval_rows: int, sts: bool, saves: bool = True
) -> SentenceTransformerTrainingArguments:
    """`config` for a run of so many rows.

    Args:
        config: resolved, with a learning rate.
        folder: whose checkpoints these are.
        rows: to train on.
        eval_rows: of the validation loss; 0 without.
        sts: whether graded pairs are scored.
        saves: whether there are checkpoints, and figures for others.

    Raises:
        UserError: there are fewer rows than several processes take at a time.
    """
    import torch
    from sentence_transformers import SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.training_args import BatchSamplers

    batches = _batches(config, rows=rows)
    total = config.max_steps or math.ceil(math.ceil(batches / config.gradient_accumulation) * config.epochs)
    every = config.eval_steps or max(1, math.ceil(total / EVALUATIONS_PER_RUN))
    best = chosen_by(config, eval_rows=eval_rows, sts=sts)
    evaluates = best is not None
    assert config.lr is not None  # `resolved` has filled it in
    return SentenceTransformerTrainingArguments(
        output_dir=str(folder.checkpoints),
        seed=config.seed,
        use_cpu=config.cpu,
        # stock looks each step for weights that no loss reached; adapters all have one
        ddp_find_unused_parameters=config.method not in ADAPTER_METHODS,
        dataloader_drop_last=ranks.count() > 1,  # a process without a batch would be waited for
        dataloader_pin_memory=torch.cuda.is_available() and not config.cpu,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.batch_size * (ranks.count() if config.gather_across_devices else 1),
        gradient_accumulation_steps=config.gradient_accumulation,
        batch_sampler=BatchSamplers.BATCH_SAMPLER
        if config.allow_duplicates or config.method == "sbert"  # no negatives in a batch, so no false ones
        else BatchSamplers.NO_DUPLICATES,
        num_train_epochs=config.epochs,
        max_steps=config.max_steps or -1,
        optim=OPTIMIZERS[config.optimizer],
        learning_rate=config.lr,
        lr_scheduler_type=config.scheduler,
        warmup_steps=config.warmup,  # below 1 a part of all steps
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        bf16=config.autocast == "bfloat16",
        fp16=config.autocast == "float16",
        eval_strategy="steps" if evaluates else "no",
        eval_steps=every,
        eval_on_start=evaluates and not config.resume,  # the log's first line: the loss before training
        save_strategy="steps" if saves else "no",
        save_steps=every,
        save_total_limit=2,  # the last one, and the best or the one before
        load_best_model_at_end=evaluates,
        metric_for_best_model=BEST_METRIC[best] if best is not None else None,
        greater_is_better=best == "sts" if evaluates else None,
        logging_steps=config.log_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,  # the stock default hides a NaN loss
        disable_tqdm=not config.progress,
        report_to=list(config.report_to) if saves else [],
        prompts=config.prompt,
    )


def _batches(config: TrainConfig, *, rows: int) -> int:
    """Batches in an epoch, of each process.

    Raises:
        UserError: there are fewer rows than several processes take at a time.
    """
    if ranks.count() == 1:
        return math.ceil(rows / config.batch_size)
    at_once = config.batch_size * ranks.count()
    if rows < at_once:
        raise UserError(
            f"{rows} training rows are fewer than the {at_once} that {ranks.count()} processes take at a time: lower "
            "batch_size, or start fewer processes"
        )
    return rows // at_once
