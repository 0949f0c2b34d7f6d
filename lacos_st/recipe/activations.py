"""What a batch keeps for its backward, and the temporaries at the worst moment.

Counts are elements per token, each term one tensor, in the order of a block's forward. The letters: h, width of the
hidden states; f, inner width of the feed-forward part; qkv, widths of queries, keys and values together.
"""

from __future__ import annotations

from dataclasses import dataclass

from lacos_st.recipe.job import ITEM_BYTES, Job
from lacos_st.recipe.shapes import ModelShape, lora_targets

FLOAT = 4
SIDES = 2  # of a pair


@dataclass(frozen=True)
class Activations:
    """Bytes that come with a batch.

    Attributes:
        kept: for the backward, when it begins.
        transient: beside them at the worst moment of the forward, or of the backward's first block.
        first_block: in the backward of the first block, which comes last, in place of both.
        embedding: when the last gradients arrive, those of the embeddings, in place of both.
    """

    kept: int
    transient: int
    first_block: int
    embedding: int


@dataclass(frozen=True)
class _Block:
    """Widths of a block in elements, and what of it is trained: by itself, or through an adapter on it."""

    h: int
    f: int
    qkv: int
    scores: float
    largest: int
    gated: bool
    fused: bool
    base_trained: bool
    reads_first_norm: bool
    reads_second_norm: bool
    reads_inner: bool

    @classmethod
    def of(cls, shape: ModelShape, job: Job) -> _Block:
        block = [layer for layer in shape.linears if layer.block == 0]
        attention = [layer for layer in block if layer.part == "attention"]
        feed_forward = [layer for layer in block if layer.part == "feed_forward"]
        adapted = set(lora_targets(shape, job.targets)[0]) if job.adapted else set()
        trained = job.trains_matrices
        return cls(
            h=shape.hidden,
            f=shape.feed_forward,
            qkv=sum(layer.outputs for layer in attention[:-1]),
            scores=shape.heads * job.mean_square / job.length,
            largest=max(layer.weights for layer in block),
            gated=len(feed_forward) == 3,
            fused=len(attention) == 2,
            base_trained=trained,
            reads_first_norm=trained or bool(adapted.intersection(attention[:-1])),
            reads_second_norm=trained or bool(adapted.intersection(feed_forward[:-1])),
            reads_inner=trained or feed_forward[-1] in adapted,
        )


def is_lean(shape: ModelShape, job: Job) -> bool:
    """Whether the blocks run as `lacos_st.bloom_layer`: BLOOM over a frozen base, without dropout."""
    frozen = job.adapted if job.trains else job.stored_in_8bit
    return shape.model_type == "bloom" and frozen and not shape.hidden_dropout


def kept_per_token(shape: ModelShape, job: Job) -> float:
    """Elements that a block keeps for its backward, for each token; one that is frozen from the first on keeps none."""
    block = _Block.of(shape, job)
    h, f = block.h, block.f
    if job.checkpointing:
        return h  # its input
    if is_lean(shape, job):
        # in 32 bits also attention's result with the sums of its softmax, and x after attention
        after_attention = 2 * h + shape.heads if ITEM_BYTES[job.dtype] > 2 else 0
        return h + block.qkv + after_attention + f
    # the input of each norm; a trained RMS norm keeps the normalised values too
    norms = h if shape.parallel else 2 * h
    if block.base_trained and not shape.norm_biases:
        norms += 2 * h
    # what the linear layers read, if their weights or adapters want it
    norms += h * block.reads_first_norm + h * block.reads_second_norm
    attention: float = block.qkv
    if shape.attention_dropout:  # softmax, mask and product; the sequences put together
        attention += 3 * block.scores + h * block.base_trained
    else:  # the result, and the sums of its softmax
        attention += h + shape.heads
    if _rotates(shape) and block.fused:
        attention += 2 * h  # rotated queries and keys beside the fused tensor that the values are a view of
    if shape.qk_norm:
        attention += 2 * h * (1 + block.base_trained)
    masks = 2 * h if shape.hidden_dropout else 0  # a CPU keeps masks as floats
    inner = (3 if block.gated else 1) * f + f * block.reads_inner
    return norms + attention + masks + inner


def _rotates(shape: ModelShape) -> bool:
    """Whether positions are rotations of queries and keys: neither learned nor ALiBi."""
    return not shape.other_embeddings and shape.model_type != "bloom"


def activations(shape: ModelShape, job: Job) -> Activations:
    """Of a run, on any device."""
    block = _Block.of(shape, job)
    item = ITEM_BYTES[job.dtype]
    h, f = block.h, block.f
    # a de-quantised weight, while it is multiplied with; or the gradient of one
    matrix = block.largest if job.stored_in_8bit or block.base_trained else 0
    if not job.trains:
        tokens = job.batch_size * job.length
        # the embeddings, the block's input, x after attention, its norm; the inner values
        forward = 4 * h + f
        if is_lean(shape, job):  # attention's result; the activation is done in place
            forward += h
        else:
            forward += f * (2 if block.gated else 1)
        return Activations(0, round((forward * tokens + matrix) * item), 0, 0)
    rows = min(job.mini_batch or job.batch_size, job.batch_size)
    tokens = rows * (job.longer_side or job.length) if job.mini_batch else job.columns * rows * job.length
    frozen = job.method == "freeze"
    embedding = 0 if frozen or _rotates(shape) else h  # the sum of embeddings, as the norm's input
    blocks = shape.layers - job.frozen_blocks * frozen
    kept = (blocks * kept_per_token(shape, job) + embedding) * tokens
    backward = max(_backward_per_token(shape, job, block) * tokens, (4 * h + f) * tokens + matrix)
    # with checkpointing a block is computed again before its backward
    one_block = kept_per_token(shape, job.without_checkpointing()) * tokens
    again = one_block - h * tokens if job.checkpointing else 0.0
    scores = 4 * FLOAT * rows * job.batch_size  # cosines, scaled, their softmax and its gradient
    return Activations(
        kept=round(kept * item),
        transient=round((backward + again) * item + scores),
        first_block=round((one_block + embedding * tokens + backward) * item),
        embedding=0 if frozen else round(3 * h * tokens * item),
    )


def _backward_per_token(shape: ModelShape, job: Job, block: _Block) -> float:
    """Temporaries of a block's backward at its worst, when the feed-forward part's input gets its gradient."""
    h, f = block.h, block.f
    if is_lean(shape, job):
        # gradient of the block's result, both norms, gradient of the inner values, their activation
        return 3 * h + 2 * f
    # gradient of the block's result; gradients of what the last product read, less what that has freed by now: one from
    # the product, one from an adapter on it, and their sum; or those of both factors of a gated activation
    return h + f * (2 if block.gated or job.adapted else 1)
