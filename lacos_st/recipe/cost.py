"""What a run costs in floating-point operations, term by term.

C = 2·N_F·D + 2·N_B·D + 2·N_U·D (Ziarko et al. 2024, arXiv 2406.04165, section 3): of the parameters besides the token
embedding, N_F take part in the forward pass, N_B are those a gradient flows back through, N_U are updated; D counts the
tokens of both sides of the pairs. Beside it, each as a term of its own, what the paper leaves out: the products of
attention, which grow with the square of a sentence's length; recomputation; de-quantisation; serving.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

from lacos_st.recipe.shapes import ModelShape, check_trainable, lora_targets, shape_of, trained_after

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Method = Literal["full", "sbert", "freeze", "bias", "lora", "lacos"]
ADAPTED = ("lora", "lacos")
MULTIPLY_ADD = 2  # FLOP of one multiplication and one addition
BACKWARD_OF_ATTENTION = 2  # each of its two products has two gradients


@dataclass(frozen=True)
class Workload:
    """The sentences that are computed on.

    Attributes:
        tokens: real tokens of all sentences, D.
        token_pairs: sum of the squares of the sentences' lengths: scores of attention per head.
    """

    tokens: float
    token_pairs: float

    @classmethod
    def of(cls, lengths: Sequence[int]) -> Workload:
        """That of sentences of these lengths, in tokens."""
        return cls(sum(lengths), sum(length * length for length in lengths))


@dataclass(frozen=True)
class Parameters:
    """The three counts of the paper's formula, without token embeddings."""

    forward: int
    backward: int
    updated: int


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of a run, by term; `total` is their sum.

    Attributes:
        forward: 2·N_F·D.
        backward: 2·N_B·D, gradients of the layers' inputs.
        update: 2·N_U·D, gradients of the weights.
        attention: the two products of attention and their gradients.
        recomputation: what is computed a second time: by gradient checkpointing, a cached loss, the lean layer.
        dequantization: one multiplication for each weight, each time it is de-quantised.
        serving: 2·N_F·T and attention for the tokens that are embedded after training.
    """

    forward: float = 0.0
    backward: float = 0.0
    update: float = 0.0
    attention: float = 0.0
    recomputation: float = 0.0
    dequantization: float = 0.0
    serving: float = 0.0

    @property
    def total(self) -> float:
        """All terms."""
        return sum(getattr(self, field.name) for field in fields(self))

    @property
    def paper(self) -> float:
        """The three terms that the paper counts."""
        return self.forward + self.backward + self.update


def parameters(
    shape: ModelShape,
    method: Method,
    *,
    rank: int = 4,
    targets: str | Sequence[str] = "paper",
    frozen_blocks: int = 0,
    products_only: bool = False,
) -> Parameters:
    """N_F, N_B and N_U of a method.

    Args:
        shape: of the base.
        method: full and sbert: all weights; freeze: all but the first blocks and the embeddings; bias: biases only;
            lora and lacos: adapters only.
        rank: of the adapters.
        targets: where adapters go, see `lora_targets`.
        frozen_blocks: first blocks that are frozen (freeze).
        products_only: leave out what is in no matrix product (norms, biases, positions): what a FLOP counter sees.
            An adapter's table on the token embedding counts in neither case: it is looked up, as that is.

    Raises:
        UserError: see `check_trainable` and `lora_targets`.
    """
    check_trainable(shape, method, frozen_blocks=frozen_blocks)
    others = 0 if products_only else shape.without_embedding - shape.linear_weights
    base = shape.linear_weights + others
    if method in ("full", "sbert"):
        return Parameters(base, base, base)
    if method == "freeze":
        trained = _after(shape, frozen_blocks, products_only=products_only)
        return Parameters(base, trained, trained)
    if method == "bias":
        return Parameters(base, base, 0 if products_only else shape.biases)
    layers, on_embedding = lora_targets(shape, targets)
    adapters = (
        rank * sum(layer.inputs + layer.outputs for layer in layers) + rank * shape.embedding_width * on_embedding
    )
    return Parameters(base + adapters, base + adapters, adapters)


def _after(shape: ModelShape, blocks: int, *, products_only: bool) -> int:
    """Parameters of all but the first blocks and what comes before them: embeddings, and a norm of theirs."""
    later = [layer for layer in shape.linears if trained_after(layer, blocks)]
    weights = sum(layer.weights for layer in later)
    if products_only:
        return weights
    biases = sum(layer.outputs for layer in later if layer.biased)
    return weights + biases + shape.block_norms * (shape.layers - blocks) + shape.last_norms


def flops_per_token(method: Method, size: float, trainable: float) -> float:
    """The paper's 2·N_F + 2·N_B + 2·N_U where a size alone is known: for laws, whose sizes are continuous.

    full: 6·N; freeze: (2 + 4·S)·N; bias: (4 + 2·S)·N; lora and lacos: (4 + 2·S)·N_F with N_F = N / (1 - S), as the
    adapters count among N_F. `parameters` has the counts of a model that exists.

    Args:
        method: of training.
        size: N of the base, without the token embedding; a number or an array.
        trainable: S = N_U / N_F, below 1 for adapters; a number or an array.
    """
    if method in ("full", "sbert"):
        return 6.0 * size
    if method == "freeze":
        return (2.0 + 4.0 * trainable) * size
    forward = size / (1.0 - trainable) if method in ADAPTED else size
    return (4.0 + 2.0 * trainable) * forward


def attention_flops(shape: ModelShape, token_pairs: float, *, causal_half: float | None = None) -> float:
    """The two products of attention, forward: 2 · 2 · pairs · heads · head_dim per block.

    Args:
        shape: of the model.
        token_pairs: sum of the squares of the sentences' lengths.
        causal_half: tokens of the sentences: count only the pairs that a causal model does not mask, (L² + L) / 2;
            None counts all L², which is what a kernel that takes a bias computes.
    """
    pairs = token_pairs if causal_half is None or not shape.causal else (token_pairs + causal_half) / 2
    return 2 * MULTIPLY_ADD * pairs * shape.heads * shape.head_dim * shape.layers


def training_flops(
    shape: ModelShape,
    workload: Workload,
    *,
    method: Method,
    rank: int = 4,
    targets: str | Sequence[str] = "paper",
    frozen_blocks: int = 0,
    checkpointing: bool = False,
    cached: bool = False,
    lean: bool = False,
    half: bool = False,
    passes: int = 0,
    serve: Workload | None = None,
) -> Flops:
    """What training costs.

    Gradients of the first block's input are counted where nothing below it is trained, as the paper does: one block
    in as many as there are.

    Args:
        shape: of the base.
        workload: all sentences trained on.
        method: see `parameters`.
        rank: see `parameters`.
        targets: see `parameters`.
        frozen_blocks: see `parameters`.
        checkpointing: each block's forward is computed again in the backward, but for what nothing after it needs.
        cached: a cached loss (GradCache) embeds every sentence once more, without gradients.
        lean: BLOOM over a frozen base, whose layers compute all but the last product again with `checkpointing`.
        half: activations of 16 bits: the lean layer then computes attention and the product after it again anyway.
        passes: encoder calls, each of which de-quantises the base (lacos): two a step, or one where both columns
            travel together; one for every mini-batch of a cached loss.
        serve: sentences to be embedded later.
    """
    count = parameters(shape, method, rank=rank, targets=targets, frozen_blocks=frozen_blocks)
    tokens = workload.tokens
    attention = attention_flops(shape, workload.token_pairs)
    through = (shape.layers - frozen_blocks) / shape.layers if method == "freeze" else 1.0
    forward = MULTIPLY_ADD * count.forward * tokens
    if lean:
        twice = _recomputed_lean(shape, checkpointing=checkpointing, half=half)
    else:
        twice = _recomputed(shape, count, method, targets, frozen_blocks) if checkpointing else 0
    again = MULTIPLY_ADD * twice * tokens + (attention * through if checkpointing or (lean and half) else 0.0)
    if cached:
        again += forward + attention
    stored = shape.linear_weights if method == "lacos" else 0
    dequantized = (2 + cached) * stored + min(twice, stored)
    return Flops(
        forward=forward,
        backward=MULTIPLY_ADD * count.backward * tokens,
        update=MULTIPLY_ADD * count.updated * tokens,
        attention=attention * (1 + BACKWARD_OF_ATTENTION * through),
        recomputation=again,
        dequantization=float(passes * dequantized),
        serving=0.0 if serve is None else serving_flops(shape, serve),
    )


def _recomputed(
    shape: ModelShape, count: Parameters, method: Method, targets: str | Sequence[str], frozen_blocks: int
) -> int:
    """Parameters that gradient checkpointing multiplies with a second time.

    torch computes a block again as far as its last saved tensor. A block's last product is left out, unless a norm
    follows it, or an adapter is on it, which saves its input when the product is done. Frozen first blocks have no
    backward, and so nothing is computed again.
    """
    first = frozen_blocks if method == "freeze" else 0
    blocks = count.backward if method == "freeze" else count.forward
    last = {layer.block: layer for layer in shape.linears if layer.block is not None and layer.block >= first}
    adapted = set(lora_targets(shape, targets)[0]) if method in ADAPTED else set()
    return blocks - (0 if shape.post_norm else sum(layer.weights for layer in last.values() if layer not in adapted))


def _recomputed_lean(shape: ModelShape, *, checkpointing: bool, half: bool) -> int:
    """Weights that the lean layer multiplies with a second time: see `lacos_st.bloom_layer`."""
    last = {(layer.block, layer.part): layer.weights for layer in shape.linears}
    after_attention = sum(weights for (_, part), weights in last.items() if part == "attention")
    if checkpointing:
        return shape.linear_weights - (sum(last.values()) - after_attention)
    return after_attention if half else 0


def serving_flops(shape: ModelShape, workload: Workload) -> float:
    """Embedding sentences, adapters merged or negligible: 2·N·T and attention."""
    return MULTIPLY_ADD * shape.without_embedding * workload.tokens + attention_flops(shape, workload.token_pairs)


def useful_flops(
    model: ModelShape | PreTrainedConfig,
    lengths: Sequence[int] | Workload,
    *,
    training: bool = False,
    method: Method = "lacos",
    rank: int = 4,
    targets: str | Sequence[str] = "paper",
    frozen_blocks: int = 0,
) -> float:
    """FLOP of the matrix products that a perfect implementation could not leave out: what a benchmark divides by time.

    Real tokens only, so that padding earns nothing; only the scores that a causal model does not mask; no
    recomputation, no de-quantisation.

    Args:
        model: configuration, or shape, of the base.
        lengths: tokens of each sentence, both sides of the pairs; or a `Workload`.
        training: forward and backward instead of the forward alone.
        method: see `parameters`; without `training` it says whether there are adapters.
        rank: see `parameters`.
        targets: see `parameters`.
        frozen_blocks: see `parameters`.
    """
    shape = model if isinstance(model, ModelShape) else shape_of(model)
    workload = lengths if isinstance(lengths, Workload) else Workload.of(lengths)
    count = parameters(shape, method, rank=rank, targets=targets, frozen_blocks=frozen_blocks, products_only=True)
    attention = attention_flops(shape, workload.token_pairs, causal_half=workload.tokens)
    if not training:
        return MULTIPLY_ADD * count.forward * workload.tokens + attention
    through = (shape.layers - frozen_blocks) / shape.layers if method == "freeze" else 1.0
    products = count.forward + count.backward + count.updated
    return MULTIPLY_ADD * products * workload.tokens + attention * (1 + BACKWARD_OF_ATTENTION * through)
