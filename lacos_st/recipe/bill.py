"""The bill of a run: every term of its cost, for each method, as `lacos-st cost` prints it.

>>> from lacos_st.recipe.published import published_shape
>>> bill = bill_of(published_shape("pythia-70m"), Job(method="full", length=75), tokens=153_600)
>>> bill.flops.paper == 6 * 18_915_328 * 153_600
True
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from lacos_st.errors import UserError
from lacos_st.recipe.activations import is_lean
from lacos_st.recipe.cost import Flops, Parameters, Workload, parameters, training_flops
from lacos_st.recipe.job import ITEM_BYTES, Job, Method
from lacos_st.recipe.shapes import ModelShape
from lacos_st.recipe.units import show_flops

TERMS = (
    ("forward", "2·N_F·D"),
    ("backward", "2·N_B·D"),
    ("update", "2·N_U·D"),
    ("attention", "its two products and their gradients"),
    ("recomputation", "of checkpointing, a cached loss, or the lean BLOOM layer in 16 bits"),
    ("dequantization", "a multiplication for each weight and each time that it is read from 8 bits"),
    ("serving", "2·N_F·T and attention, of sentences embedded afterwards"),
)
"""The terms of `Flops` and what they count; the first three are the paper's."""
PAPER_TERMS = 3


@dataclass(frozen=True)
class Bill:
    """What one method costs.

    Attributes:
        job: the run.
        tokens: D, of both sides of the pairs.
        steps: of the optimiser.
        parameters: N_F, N_B, N_U.
        flops: by term.
    """

    job: Job
    tokens: float
    steps: int
    parameters: Parameters
    flops: Flops

    @property
    def label(self) -> str:
        """The method with its setting."""
        if self.job.adapted:
            return f"{self.job.method}, rank {self.job.rank}"
        return f"freeze, first {self.job.frozen_blocks} blocks" if self.job.method == "freeze" else self.job.method


def bill_of(shape: ModelShape, job: Job, *, tokens: float, serve_tokens: float = 0.0) -> Bill:
    """What training on so many tokens costs, with the trainer of this package.

    Args:
        shape: of the base.
        job: the run: method, batch, length of the sentences and what is recomputed.
        tokens: D, of both sides of the pairs.
        serve_tokens: of sentences of the same lengths that are embedded after training.

    Raises:
        UserError: the job does not train, or has nothing to train.
    """
    if not job.trains:
        raise UserError("method encode trains nothing: its cost is the serving term of the others (serve_tokens)")
    steps = math.ceil(tokens / (job.columns * job.length * job.batch_size))
    # the trainer embeds both columns in one pass, a cached loss each by itself and in parts
    passes = 1 if job.mini_batch is None else job.columns * math.ceil(job.batch_size / job.mini_batch)
    squares = job.mean_square / job.length  # of the lengths, per token
    method = job.method
    assert method != "encode"
    flops = training_flops(
        shape,
        Workload(tokens, tokens * squares),
        method=method,
        rank=job.rank,
        targets=job.targets,
        frozen_blocks=job.frozen_blocks,
        checkpointing=job.checkpointing,
        cached=job.mini_batch is not None,
        lean=is_lean(shape, job),
        half=ITEM_BYTES[job.dtype] == 2,
        passes=steps * passes,
        serve=Workload(serve_tokens, serve_tokens * squares),
    )
    count = parameters(shape, method, rank=job.rank, targets=job.targets, frozen_blocks=job.frozen_blocks)
    return Bill(job, tokens, steps, count, flops)


def bills(
    shape: ModelShape, job: Job, *, tokens: float, serve_tokens: float = 0.0, methods: Sequence[Method]
) -> list[Bill]:
    """One for each method; raises as `bill_of`, and for a method that is not known."""
    found = []
    for method in methods:
        mini_batch = None if method == "sbert" else job.mini_batch  # the softmax loss is not cached
        run = replace(job, method=method, mini_batch=mini_batch)
        found.append(bill_of(shape, run, tokens=tokens, serve_tokens=serve_tokens))
    return found


def lines(shape: ModelShape, found: Sequence[Bill]) -> list[str]:
    """The text of `lacos-st cost`: the base, the workload, and term by term each bill."""
    first = found[0]
    pairs = first.tokens / first.job.columns / first.job.length
    text = [
        f"N = {shape.without_embedding:,} parameters without the token embedding ({shape.parameters:,} with it), "
        f"{shape.layers} blocks",
        f"D = {first.tokens:,.0f} tokens: {pairs:,.0f} pairs of {first.job.length:g} tokens a side, {first.steps:,} "
        f"steps of {first.job.batch_size}",
    ]
    for bill in found:
        count = bill.parameters
        text.append(f"{bill.label}: N_F {count.forward:,}, N_B {count.backward:,}, N_U {count.updated:,}")
        rows = [(name, show_flops(getattr(bill.flops, name)), note) for name, note in TERMS]
        rows.insert(PAPER_TERMS, ("the paper's C", show_flops(bill.flops.paper), "the three above"))
        rows.append(("total", show_flops(bill.flops.total), "the paper's C and the four below it"))
        text.extend(f"  {name:<15}{amount:<28}{note}" for name, amount, note in rows)
    return text


def as_json(base: str, shape: ModelShape, found: Sequence[Bill]) -> dict[str, Any]:
    """The same as plain numbers: FLOP and parameters."""
    first = found[0]
    return {
        "base": base,
        "parameters": shape.parameters,
        "without_embedding": shape.without_embedding,
        "tokens": first.tokens,
        "pairs": first.tokens / first.job.columns / first.job.length,
        "length": first.job.length,
        "batch_size": first.job.batch_size,
        "steps": first.steps,
        "methods": {
            bill.job.method: {
                "setting": bill.label,
                "parameters": asdict(bill.parameters),
                "flops": asdict(bill.flops),
                "paper_flops": bill.flops.paper,
                "total_flops": bill.flops.total,
            }
            for bill in found
        },
    }
