"""Before a training run loads anything: what it will take, whether that is there, and with `fit` what to switch on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from lacos_st.errors import UserError
from lacos_st.recipe.fit import advice, smaller
from lacos_st.recipe.job import Job
from lacos_st.recipe.memory import predict
from lacos_st.recipe.shapes import ModelShape
from lacos_st.recipe.units import show_bytes
from lacos_st.settings import TrainConfig

logger = logging.getLogger(__name__)

LONG_BATCH = 3.0
"""Standard errors by which a long batch's mean length exceeds that of all: one batch in some 700 is longer."""

HELD = 1.3
"""On a CPU the heap holds what a step frees for the next one (`lacos_st.heap`): the process then takes 1.09 to 1.71
times what is in use (eight runs of `python -m benchmarks.prediction --as-run`, 2026-11-21; 1.2 is their median)."""


def job_of(config: TrainConfig, sides: Sequence[Sequence[int]], *, device: str) -> Job:
    """The memory question that a training run asks.

    Args:
        config: resolved.
        sides: for each column of the rows, tokens of a sample of its sentences, truncated as in training.
        device: "cpu" or "cuda".
    """
    lengths = [length for side in sides for length in side]
    mean = sum(lengths) / len(lengths)
    square = sum(length * length for length in lengths) / len(lengths)
    error = max(0.0, square - mean**2) ** 0.5 / (len(sides) * config.batch_size) ** 0.5
    length = min(mean + LONG_BATCH * error, max(lengths))
    return Job(
        method=config.method,
        batch_size=config.batch_size,
        columns=len(sides),
        length=max(1.0, length),
        longer_side=max(sum(side) / len(side) for side in sides) * length / mean if mean else 1.0,
        mean_square=square * (length / mean) ** 2 if mean else 1.0,
        dtype=config.dtype,
        device=device,
        rank=config.lora_rank or 1,
        targets=config.lora_targets,
        frozen_blocks=config.frozen_blocks or 0,
        adapter_dtype=config.adapter_dtype,
        block_size=config.block_size,
        optimizer=config.optimizer,
        checkpointing=config.gradient_checkpointing,
        mini_batch=config.mini_batch_size,
        embedding_device=config.embedding_device,
    )


def checked(
    config: TrainConfig, shape: ModelShape, sides: Sequence[Sequence[int]], *, device: str, available: int | None
) -> TrainConfig:
    """The run as it can be started: as it is, or with `fit` with checkpointing or a cached loss switched on.

    Args:
        config: resolved.
        shape: of the base.
        sides: see `job_of`.
        device: see `job_of`.
        available: bytes that are free there; None where that is not known, and nothing is refused. On a CPU `fit` aims
            at less, see `HELD`.

    Raises:
        UserError: it does not fit, and neither `fit` helps nor `force` was given.
    """
    job = job_of(config, sides, device=device)
    memory = predict(shape, job)
    logger.info(
        "memory: about %s at the peak (weights %s, adapters %s, optimiser %s, gradients %s, activations %s), %s free",
        *map(show_bytes, (memory.peak, memory.weights, memory.adapters, memory.optimizer, memory.gradients)),
        show_bytes(memory.activations),
        "unknown" if available is None else show_bytes(available),
    )
    if available is None:
        return config
    comfortable = available / HELD if device == "cpu" else available
    if memory.peak <= comfortable:
        return config
    option = smaller(shape, job, comfortable) or smaller(shape, job, available)
    if config.fit and option is not None:
        logger.info(
            "memory: gradient_checkpointing %s and mini_batch_size %s, about %s at the peak",
            "on" if option.checkpointing else "off",
            option.mini_batch or "none",
            show_bytes(predict(shape, option).peak),
        )
        return replace(config, gradient_checkpointing=option.checkpointing, mini_batch_size=option.mini_batch)
    if config.force or memory.peak <= available:
        logger.warning(
            "memory is short: about %s are needed, %s are free; --fit may help",
            *map(show_bytes, (memory.peak, available)),
        )
        return config
    options = "; ".join(advice(shape, job, available)) or "a smaller base"
    raise UserError(
        f"this run needs about {show_bytes(memory.peak)} of memory and {show_bytes(available)} are free: choose "
        f"{options}. --fit switches on what does not change the result, --force goes on as it is"
    )
