"""`train`: one run of any of the six methods, on the stock trainer, losses and evaluators."""

from __future__ import annotations

import logging
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from lacos_st import ranks
from lacos_st.arguments import EVALUATOR_NAME, chosen_by, training_arguments
from lacos_st.atomic import cannot_write, whole_folder
from lacos_st.autocast import check_autocast, without_autocast_
from lacos_st.embedded import ASSETS, resolve
from lacos_st.errors import UserError
from lacos_st.methods import build_loss, build_model, load_rows
from lacos_st.peak import PeakMemory
from lacos_st.presets import described, learning_rate
from lacos_st.rows_hash import RowsHash
from lacos_st.runs import RunFolder
from lacos_st.settings import ADAPTER_METHODS, TrainConfig
from lacos_st.sts import StsTask, load_task_file
from lacos_st.trackers import check_trackers
from lacos_st.unheeded import unheeded

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

    from lacos_st.recipe.memory import Memory
    from lacos_st.recipe.shapes import ModelShape
    from lacos_st.trainer import RunLog
    from lacos_st.transformer import LoRA8bit

logger = logging.getLogger(__name__)

SAMPLED_ROWS = 1000  # whose sentences' lengths say what memory a batch will take


@dataclass(frozen=True)
class TrainResult:
    """What a run came to.

    Attributes:
        model: the trained model, at its best checkpoint; it embeds as the one that was saved, without autocast.
        model_path: where it was saved.
        config: the run's options with everything filled in, as in `train.yaml`.
        train_rows: rows trained on, validation left out.
        eval_rows: rows of the validation loss.
        steps: optimiser steps of the whole run, earlier parts included.
        train_loss: mean loss over this call's steps.
        best_by: what the checkpoint was chosen by: "loss", or "sts", which it is too where there are graded pairs and
            no validation rows, whatever `config.best` says; None without validation.
        best_metric: lowest validation loss, or highest Spearman (max over the four, 0 to 1); None without validation.
        best_step: the step at which it was reached.
        trainable_parameters: how many numbers were trained.
        seconds: wall time of the training loop.
    """

    model: SentenceTransformer
    model_path: Path
    config: TrainConfig
    train_rows: int
    eval_rows: int
    steps: int
    train_loss: float
    best_by: Literal["loss", "sts"] | None
    best_metric: float | None
    best_step: int | None
    trainable_parameters: int
    seconds: float


def train(config: TrainConfig) -> TrainResult:
    """Train a sentence encoder and save it to `config.output/model`.

    lacos, lora, full, freeze and bias minimise the stock MultipleNegativesRankingLoss over pairs (anchor, positive),
    sbert the stock SoftmaxLoss over NLI rows of three classes. Everything that can be refused is refused before the
    output folder is touched; the model appears in it whole or not at all.

    Args:
        config: every option; `train.yaml` in the output folder is the one that reproduces the run.

    Raises:
        UserError: base, data, options or output folder cannot be used, the run does not fit in memory (see `fit` and
            `force`), or the loss became NaN or infinite.
    """
    from transformers import set_seed

    from lacos_st.finite import NonFiniteLoss
    from lacos_st.trainer import RunLog
    from lacos_st.upstream import commit_hash

    config = config.resolved()
    check_trackers(config.report_to)
    check_autocast(config.autocast, cpu=config.cpu)
    if (names := unheeded(config)) and ranks.is_first():
        logger.warning("method %s does not use %s: what is given for it has no effect", config.method, ", ".join(names))
    joined = ranks.join(cpu=config.cpu)
    if ranks.count() > 1 and config.embedding_device is not None and not config.cpu:
        raise UserError("embedding_device is for one process: NCCL moves nothing in host memory; leave it out")
    folder = RunFolder(Path(config.output))
    config = replace(config, revision=ranks.share(folder.revision(config)))
    if config.revision is not None and resolve(config.base) == str(ASSETS / config.base):
        raise UserError(f"revision is for a base from the hub: {config.base} comes with the package; leave it out")
    shape = _shape(config)
    config = _with_rate(config, shape)
    ranks.on_first(lambda: folder.check(config))
    train_rows, eval_rows = load_rows(config)
    rows = RowsHash.of(train_rows, eval_rows)
    ranks.on_first(lambda: folder.check_rows(rows, resume=config.resume))
    peak = PeakMemory(cpu=config.cpu)
    config, memory = _within_memory(config, shape, train_rows)
    evaluator = _evaluator(config)
    set_seed(config.seed)
    model = build_model(config)
    config = replace(config, revision=config.revision or commit_hash(model[0].config, config.base))
    was_there = folder.path.exists()
    ranks.on_first(lambda: folder.start(config, rows))
    _check_shared(folder, config)
    try:
        log = RunLog(folder.log, at_end=lambda: {**memory.figures(), **peak.figures()})
        result = _run(config, folder, model, (train_rows, eval_rows), evaluator, log)
    except BaseException as error:
        # a checkpoint whose weights gave no finite loss yet is not worth keeping
        if (error.checkpoint if isinstance(error, NonFiniteLoss) else folder.last_checkpoint()) is None:
            if ranks.is_first():
                folder.clear(and_folder=not was_there)
        if ranks.lost(error):
            raise UserError(
                f"another process of the run in {folder.path} ended ({str(error).splitlines()[0][:200]}): see what it "
                "said, and go on with --resume and as many processes"
            ) from error
        if cannot_write(error):
            raise UserError(
                f"the run in {folder.path} was stopped ({error}): free space on its disk, or make its folder writable, "
                "and go on with --resume"
            ) from error
        raise
    if joined:
        ranks.leave()
    logger.info("model saved to %s after %d steps (%.0f s)", result.model_path, result.steps, result.seconds)
    return result


def _check_shared(folder: RunFolder, config: TrainConfig) -> None:
    """That all processes write to one folder, with one set of options.

    Raises:
        UserError: in all of them, where one sees another folder, or was told otherwise.
    """
    ranks.check_same(config.to_yaml(), "set of options")
    seen = ranks.gather(folder.config.is_file())
    if not all(seen):
        raise UserError(
            f"process {seen.index(False)} does not see {folder.config}, which process 0 has written: name an output on "
            "a file system that all machines share"
        )


def _shape(config: TrainConfig) -> ModelShape:
    """Of the base."""
    from lacos_st.loading import read_config
    from lacos_st.recipe.shapes import shape_of

    return shape_of(read_config(resolve(config.base), **_hub(config)))


def _hub(config: TrainConfig) -> dict[str, str]:
    return {} if config.revision is None else {"revision": config.revision}


def _with_rate(config: TrainConfig, shape: ModelShape) -> TrainConfig:
    """The run with its learning rate, where that depends on the base's size; and a line of log on its preset."""
    nearest = None
    if config.lr is None:
        lr, nearest = learning_rate(shape.without_embedding)
        config = replace(config, lr=lr)
    logger.info("%s", described(config, adapters=config.method in ADAPTER_METHODS, nearest=nearest))
    return config


def _within_memory(config: TrainConfig, shape: ModelShape, rows: Dataset) -> tuple[TrainConfig, Memory]:
    """`recipe.check.checked` for this base, these rows and this machine; and what the run is predicted to take."""
    from lacos_st.recipe.check import checked, job_of
    from lacos_st.recipe.machine import available_bytes, training_device
    from lacos_st.recipe.memory import predict

    device = training_device(cpu=config.cpu)
    sides = sampled_lengths(config, rows)
    available = available_bytes(device)
    if available is not None and device == "cpu":
        available //= ranks.on_this_machine()
    config = checked(config, shape, sides, device=device, available=available)
    return config, predict(shape, job_of(config, sides, device=device))


def sampled_lengths(config: TrainConfig, rows: Dataset) -> list[list[int]]:
    """Tokens of the sentences in the first rows, which come shuffled, column by column, as training reads them."""
    from lacos_st.lengths import tokens_read
    from lacos_st.loading import read_tokenizer

    tokenizer = read_tokenizer(resolve(config.base), **_hub(config))
    sample = rows[:SAMPLED_ROWS]
    columns = [column for column in sample.values() if isinstance(column[0], str)]
    return [tokens_read(config, tokenizer, texts) for texts in columns]


def _run(
    config: TrainConfig,
    folder: RunFolder,
    model: SentenceTransformer,
    rows: tuple[Dataset, Dataset | None],
    evaluator: EmbeddingSimilarityEvaluator | None,
    log: RunLog,
) -> TrainResult:
    from lacos_st.freezing import frozen_hash
    from lacos_st.resume import check_checkpoint, check_processes
    from lacos_st.trainer import LacosTrainer

    train_rows, eval_rows = rows
    checkpoint = folder.last_checkpoint() if config.resume else None
    if checkpoint is not None:
        check_checkpoint(checkpoint)
        check_processes(checkpoint, processes=ranks.count())
    elif config.resume:
        logger.warning("%s was stopped before its first checkpoint: it starts again at step 0", folder.path)
        config = replace(config, resume=False)
    base = cast("LoRA8bit", model[0]).model
    hash_before = frozen_hash(base)
    loss = build_loss(config, model)
    trainer = LacosTrainer(
        model=model,
        args=training_arguments(
            config, folder, rows=len(train_rows), eval_rows=len(eval_rows or ()), sts=evaluator is not None
        ),
        train_dataset=train_rows,
        eval_dataset=eval_rows,
        loss=loss,
        evaluator=evaluator,
        callbacks=[log],
    )
    start = time.perf_counter()
    output = trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    seconds = time.perf_counter() - start
    without_autocast_(model, trainer.accelerator)
    if frozen_hash(base) != hash_before:
        raise RuntimeError(f"training changed frozen weights of {config.base}: nothing was saved; please report this")
    model.eval()
    ranks.on_first(lambda: save_model(model, folder))
    return TrainResult(
        model=model,
        model_path=folder.model,
        config=config,
        train_rows=len(train_rows),
        eval_rows=len(eval_rows or ()),
        steps=trainer.state.global_step,
        train_loss=output.training_loss,
        best_by=chosen_by(config, eval_rows=len(eval_rows or ()), sts=evaluator is not None),
        best_metric=trainer.state.best_metric,
        best_step=trainer.state.best_global_step,
        trainable_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        seconds=seconds,
    )


def prepared(config: TrainConfig, rows: Dataset) -> TrainConfig:
    """The run with its learning rate filled in, after a look at the memory that it will take.

    Raises:
        UserError: it does not fit in memory, or its device has no such autocast.
    """
    check_autocast(config.autocast, cpu=config.cpu)
    shape = _shape(config)
    return _within_memory(_with_rate(config, shape), shape, rows)[0]


def fit_(model: SentenceTransformer, config: TrainConfig, rows: Dataset) -> float:
    """Train a model on rows as `train` does, but validate, log and save nothing.

    Args:
        model: from `build_model` with this `config`; trained in place.
        config: resolved; its `output` is a folder that the stock trainer may write to.
        rows: to train on.

    Returns:
        Seconds of the training loop.

    Raises:
        UserError: the loss became NaN or infinite.
    """
    from transformers import PrinterCallback

    from lacos_st.trainer import LacosTrainer

    model.model_card_data.widget = [{"text": ""}]  # or examples are looked for, for a card that there is not
    arguments = training_arguments(
        config, RunFolder(Path(config.output)), rows=len(rows), eval_rows=0, sts=False, saves=False
    )
    trainer = LacosTrainer(model=model, args=arguments, train_dataset=rows, loss=build_loss(config, model))
    trainer.remove_callback(PrinterCallback)
    start = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - start
    without_autocast_(model, trainer.accelerator)
    return seconds


def _evaluator(config: TrainConfig) -> EmbeddingSimilarityEvaluator | None:
    """That of `eval_sts`."""
    if config.eval_sts is None:
        return None
    return sts_evaluator(load_task_file(config.eval_sts), batch_size=config.batch_size)


def sts_evaluator(task: StsTask, *, batch_size: int) -> EmbeddingSimilarityEvaluator:
    """The stock evaluator on graded pairs; all four similarities, as the paper takes their best."""
    from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

    return EmbeddingSimilarityEvaluator(
        list(task.sentences1),
        list(task.sentences2),
        task.unit_scores,
        batch_size=batch_size,
        name=EVALUATOR_NAME,
        similarity_fn_names=["cosine", "manhattan", "euclidean", "dot"],
        write_csv=False,  # the figures go to log.jsonl
    )


def save_model(model: SentenceTransformer, folder: RunFolder) -> None:
    """Write the model beside its place, then move it there: whole or not at all."""
    with whole_folder(folder.model) as new:
        model.save_pretrained(str(new))
        shutil.copy(folder.config, new / folder.config.name)
