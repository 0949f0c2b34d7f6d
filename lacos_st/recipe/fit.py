"""What to switch on where a run does not fit; and the table of `lacos-st memory`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from lacos_st.recipe.job import METHODS, Job, Method
from lacos_st.recipe.memory import Memory, largest_batch, predict
from lacos_st.recipe.shapes import ModelShape
from lacos_st.recipe.tables import align
from lacos_st.recipe.units import show_bytes

SHORTEST = 8  # tokens: below that there is not much of a sentence


def smaller(shape: ModelShape, job: Job, budget_bytes: float) -> Job | None:
    """The same training with what makes it fit and does not change its result: checkpointing, or a cached loss.

    Checkpointing comes first, then the largest mini-batch (a power of two), then both; each of them costs about one
    forward pass more. The batch and its negatives stay as they are.

    Returns:
        The job as it is where it fits, and None where nothing of this helps.
    """
    tries = [job]
    if job.trains:
        tries.append(replace(job, checkpointing=True))
        for checkpointing in (job.checkpointing, True):
            tries.extend(replace(job, checkpointing=checkpointing, mini_batch=size) for size in _mini_batches(job))
    return next((option for option in tries if predict(shape, option).peak <= budget_bytes), None)


def _mini_batches(job: Job) -> Iterator[int]:
    """Powers of two below what is embedded at a time now, largest first; none for sbert, which has no cached loss."""
    most = job.mini_batch or job.batch_size
    if job.method != "sbert":
        yield from (2**power for power in reversed(range(20)) if 2**power < most)


def advice(shape: ModelShape, job: Job, budget_bytes: float) -> list[str]:
    """What would make a run fit that does not, each by itself; the least intrusive first.

    Args:
        shape: of the base.
        job: a run whose predicted peak is above the budget.
        budget_bytes: what there is.
    """
    found = []
    option = smaller(shape, job, budget_bytes)
    if option is not None:
        found.append(_switches(job, option, predict(shape, option)))
    if job.device != "cpu" and job.embedding_device is None:
        moved = replace(job, embedding_device="cpu")
        found.extend(_if_it_fits(shape, moved, budget_bytes, 'embedding_device="cpu"'))
    size = largest_batch(shape, job, budget_bytes, most=job.batch_size)
    if size >= 2:
        found.append(f"a batch of {size} (fewer negatives)" if job.trains else f"a batch of {size}")
    length = job.length
    while length / 2 >= SHORTEST:
        length /= 2
        shorter = replace(job, length=length, mean_square=length**2)
        if fitting := list(_if_it_fits(shape, shorter, budget_bytes, f"sentences of {length:.0f} tokens on average")):
            found.extend(f"{text}: a smaller max_seq_length" for text in fitting)
            break
    if job.method in ("lora", "full", "freeze", "bias"):
        stored = smaller(shape, replace(job, method="lacos"), budget_bytes)
        if stored is not None:
            found.append(_switches(job, stored, predict(shape, stored)))
    return found


def _if_it_fits(shape: ModelShape, job: Job, budget_bytes: float, what: str) -> Iterator[str]:
    if (peak := predict(shape, job).peak) <= budget_bytes:
        yield f"{what} ({show_bytes(peak)})"


def _switches(job: Job, option: Job, memory: Memory) -> str:
    changed = []
    if option.method != job.method:
        changed.append(f"method {option.method}")
    if option.checkpointing and not job.checkpointing:
        changed.append("gradient_checkpointing")
    if option.mini_batch != job.mini_batch:
        changed.append(f"mini_batch_size={option.mini_batch}")
    return f"{' and '.join(changed)} ({show_bytes(memory.peak)})"


def variants(job: Job, methods: Sequence[Method] = METHODS) -> Iterator[tuple[str, Job]]:
    """The rows of a table: each method by its label, and training also with checkpointing."""
    for method in methods:
        chosen = replace(job, method=method)
        if not chosen.trains:
            yield "encode, 8-bit", replace(chosen, quantized=True, mini_batch=None)
            yield f"encode, {job.dtype}", replace(chosen, quantized=False, mini_batch=None)
            continue
        chosen = replace(chosen, mini_batch=None if method == "sbert" else job.mini_batch)
        label = f"freeze, {job.frozen_blocks} blocks" if method == "freeze" else method
        if not job.checkpointing:
            yield label, chosen
        yield f"{label}, checkpointing", replace(chosen, checkpointing=True)


def table(
    shape: ModelShape, job: Job, *, methods: Sequence[Method] | None = None, budget_bytes: int | None = None
) -> list[str]:
    """Lines of a table: bytes by part for each method, and the largest batch within a budget.

    Args:
        shape: of the base.
        job: the run; its method is replaced by each of `methods`.
        methods: one row or two each; None for all that have something to train.
        budget_bytes: adds the largest batch that fits, and a line of advice where not even this job's does.
    """
    head = ["", "weights", "adapters", "optimiser", "gradients", "activations", "peak", "reached at"]
    rows = [head + ["largest batch"] * (budget_bytes is not None)]
    notes = []
    for label, variant in variants(job, methods or _possible(shape)):
        memory = predict(shape, variant)
        parts = (memory.weights, memory.adapters, memory.optimizer, memory.gradients, memory.activations)
        row = [label, *(show_bytes(part) if part else "-" for part in parts), show_bytes(memory.peak), memory.worst]
        if budget_bytes is not None:
            row.append(str(largest_batch(shape, variant, budget_bytes) or "none"))
            if memory.peak > budget_bytes:
                options = "; ".join(advice(shape, variant, budget_bytes)) or "nothing here helps: choose a smaller base"
                notes.append(f"{label} at batch {job.batch_size} needs {show_bytes(memory.peak)}: {options}")
        rows.append(row)
    return align(rows) + notes


def figures(
    shape: ModelShape, job: Job, *, methods: Sequence[Method] | None = None, budget_bytes: int | None = None
) -> list[dict[str, Any]]:
    """The rows of `table` as numbers: bytes by part, the peak's moment, the largest batch within a budget (0: none)."""
    rows = []
    for label, variant in variants(job, methods or _possible(shape)):
        memory = predict(shape, variant)
        names = ("weights", "adapters", "optimizer", "gradients", "activations", "peak")
        row = {"what": label, **{f"{name}_bytes": getattr(memory, name) for name in names}, "reached_at": memory.worst}
        if budget_bytes is not None:
            row |= {
                "fits": memory.peak <= budget_bytes,
                "largest_batch": largest_batch(shape, variant, budget_bytes) or 0,
            }
        rows.append(row)
    return rows


def _possible(shape: ModelShape) -> list[Method]:
    return [method for method in METHODS if method != "bias" or shape.biases]
