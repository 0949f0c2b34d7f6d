"""What a run takes in memory, before anything is loaded: weights, adapters, optimiser, activations, and their peak.

All in bytes, from a configuration and a batch. Not counted: Python and its libraries (on a GPU the context), and what
the allocator keeps to itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from lacos_st.errors import UserError
from lacos_st.recipe.activations import FLOAT, activations
from lacos_st.recipe.job import ITEM_BYTES, Job
from lacos_st.recipe.shapes import ModelShape, check_trainable, lora_targets, trained_after

SMALLEST_8BIT = 4096
"""bitsandbytes keeps 8-bit state for tensors of at least this many elements (`min_8bit_size`), 32-bit for others."""
STATE_BLOCK = 256
"""Elements that share an absmax in bitsandbytes' 8-bit state."""
LOADING_SLAB_BYTES = 64 * 2**20
"""What the quantiser holds of a float tensor at a time; `lacos_st.quantizer.SLAB_BYTES`."""

STATES = 2  # of Adam: means of the gradient and of its square
CPU_STEP_BYTES = {"8bit": 20, "32bit": 12, "adamw": 8}
"""Temporaries of one tensor's step on a CPU, bytes per element. bitsandbytes 0.50, backends/cpu/ops.py: in 8 bits both
states de-quantised, the scaled gradient, the root and its multiple, 5 floats; in 32 bits the scaled gradient, the root
and its sum, 3. torch's AdamW: the root and its multiple, 2."""
PARTS = ("weights", "adapters", "optimizer", "gradients", "activations")
"""Of a `Memory`; gradients and activations are not all there at once."""


@dataclass(frozen=True)
class Memory:
    """Bytes of a run.

    Attributes:
        weights: the base's: codes and absmax, and what stays float.
        adapters: LoRA's weights.
        optimizer: its state.
        gradients: of all that is trained.
        activations: kept for the backward, as it begins.
        moments: what there is beside weights, adapters and optimiser, by the moments that can be the worst.
    """

    weights: int
    adapters: int
    optimizer: int
    gradients: int
    activations: int
    moments: Mapping[str, int]

    @property
    def worst(self) -> str:
        """The moment of the peak."""
        return max(self.moments, key=lambda name: self.moments[name])

    @property
    def peak(self) -> int:
        """The most at any time."""
        return self.weights + self.adapters + self.optimizer + self.moments[self.worst]

    def figures(self) -> dict[str, int | str]:
        """For a log: bytes by part and of the peak, and the moment of it."""
        parts = {f"predicted_{name}_bytes": getattr(self, name) for name in PARTS}
        return {**parts, "predicted_peak_bytes": self.peak, "predicted_at": self.worst}


@dataclass(frozen=True)
class _Tensor:
    """A trained tensor; an embedding's table has 32-bit state whatever the optimiser (transformers' trainer)."""

    elements: int
    table: bool = False


def predict(shape: ModelShape, job: Job) -> Memory:
    """The memory of a run.

    Args:
        shape: of the base, see `shape_of`.
        job: the run.

    Raises:
        UserError: a block size that does not divide a width, a layer that does not exist, or nothing to train.
    """
    check_trainable(shape, job.method, frozen_blocks=job.frozen_blocks)
    adapters = list(_adapters(shape, job))
    trained = adapters if job.adapted else list(_base(shape, job)) if job.trains else []
    adapter_item = ITEM_BYTES[job.adapter_dtype]
    item = adapter_item if job.adapted else ITEM_BYTES[job.dtype]
    live = activations(shape, job)
    gradients = sum(tensor.elements for tensor in trained) * item
    table = sum(tensor.elements for tensor in trained if tensor.table) * item
    adapter_bytes = sum(tensor.elements for tensor in adapters) * adapter_item
    optimizer = sum(_state(job, tensor) for tensor in trained)
    moments = {"loading": max(0, _loading(shape, job) - adapter_bytes - optimizer)}
    if job.trains:
        # a cached loss computes every mini-batch but the first beside the gradients of those before it
        before = gradients if job.mini_batch else 0
        moments |= {
            "backward begins": before + live.kept + live.transient,
            "first block's backward": max(before, gradients - table) + live.first_block,
            # the table's gradient is added to that of the mini-batches before
            "embedding's gradient": gradients + live.embedding + (table if job.mini_batch else 0),
            "optimiser step": gradients + max(_step(job, tensor) for tensor in trained),
        }
    else:
        moments["forward"] = live.transient
    return Memory(
        weights=_weights(shape, job),
        adapters=adapter_bytes,
        optimizer=optimizer,
        gradients=gradients,
        activations=live.kept,
        moments=moments,
    )


def _loading(shape: ModelShape, job: Job) -> int:
    """Rows of a float checkpoint's largest tensor, beside the codes that are made of them, in the machine's memory."""
    if not job.stored_in_8bit or job.device != "cpu":
        return 0
    largest = max(shape.token_embedding, *(layer.weights for layer in shape.linears))
    return min(largest * shape.checkpoint_item, LOADING_SLAB_BYTES)


def _weights(shape: ModelShape, job: Job) -> int:
    item = ITEM_BYTES[job.dtype]
    table = 0 if (job.embedding_device or job.device) != job.device else shape.token_embedding
    if not job.stored_in_8bit:
        return (table + shape.without_embedding) * item
    widths = [(layer.name, layer.inputs) for layer in shape.linears] + [(shape.embedding_name, shape.embedding_width)]
    for name, width in widths:
        if width % job.block_size:
            common = math.gcd(*(width for _, width in widths))
            raise UserError(
                f"the width {width} of {name} is not a multiple of block size {job.block_size}: choose a divisor of "
                f"{common}, which divides every width"
            )
    stored = table + shape.linear_weights
    return stored + stored // job.block_size * FLOAT + (shape.without_embedding - shape.linear_weights) * item


def _adapters(shape: ModelShape, job: Job) -> Iterator[_Tensor]:
    if not job.adapted:
        return
    layers, on_embedding = lora_targets(shape, job.targets)
    sizes = [size for layer in layers for size in (layer.inputs, layer.outputs)]
    for size in sizes + [shape.vocabulary, shape.embedding_width] * on_embedding:
        yield _Tensor(size * job.rank)


def _base(shape: ModelShape, job: Job) -> Iterator[_Tensor]:
    """The tensors of the base that are trained; norms as if each were as wide as the hidden states."""
    frozen, norms = 0, shape.norms
    if job.method == "freeze":
        frozen = job.frozen_blocks
        norms = shape.block_norms * (shape.layers - frozen) + shape.last_norms
    elif job.method == "bias":
        norms = shape.norm_biases
    else:
        yield _Tensor(shape.token_embedding, table=True)
        if shape.other_embeddings:
            yield _Tensor(shape.other_embeddings, table=True)
    for layer in shape.linears:
        if job.method == "freeze" and not trained_after(layer, frozen):
            continue
        if job.trains_matrices:
            yield _Tensor(layer.weights)
        if layer.biased:
            yield _Tensor(layer.outputs)
    for _ in range(norms // shape.hidden):
        yield _Tensor(shape.hidden)


def _in_8bit(job: Job, tensor: _Tensor) -> bool:
    return job.optimizer == "adam8bit" and not tensor.table and tensor.elements >= SMALLEST_8BIT


def _state(job: Job, tensor: _Tensor) -> int:
    if _in_8bit(job, tensor):
        return STATES * (tensor.elements + -(-tensor.elements // STATE_BLOCK) * FLOAT)
    # torch's AdamW keeps its state in the dtype of the weight, bitsandbytes in 32 bits
    dtype = job.adapter_dtype if job.adapted else job.dtype
    return STATES * tensor.elements * (ITEM_BYTES[dtype] if job.optimizer == "adamw" else FLOAT)


def _step(job: Job, tensor: _Tensor) -> int:
    if job.device != "cpu":
        return 0  # one kernel
    kind = "adamw" if job.optimizer == "adamw" else "8bit" if _in_8bit(job, tensor) else "32bit"
    return CPU_STEP_BYTES[kind] * tensor.elements


def largest_batch(shape: ModelShape, job: Job, budget_bytes: float, *, most: int = 2**20) -> int:
    """The largest batch size whose peak stays within a budget.

    Args:
        shape: of the base.
        job: the run; its batch size is ignored, and a mini-batch is at most the batch.
        budget_bytes: what the peak may take.
        most: no more are tried.

    Returns:
        Pairs (sentences for encode); 0 where not even one fits.
    """

    def fits(size: int) -> bool:
        return predict(shape, replace(job, batch_size=size)).peak <= budget_bytes

    low, high = 0, 1
    while high < most and fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
