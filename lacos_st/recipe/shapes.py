"""What a model is made of, from its configuration alone: linear layers, embeddings, norms and biases, counted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lacos_st.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

POST_NORM = ("bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta")
"""Types whose norms follow the residual sums."""

OPT_LAST = re.compile(r"(^|\.)(final_layer_norm|project_out)\.")
"""OPT registers what follows its blocks before them."""


@dataclass(frozen=True)
class LinearShape:
    """One linear layer.

    Attributes:
        name: full name of the layer.
        inputs: width of its input.
        outputs: width of its output.
        block: number of the transformer block it belongs to; None outside the blocks.
        part: "attention" or "feed_forward"; outside the blocks "before" or "after" them, in projections to and from the
            width of the token embedding.
        biased: whether it adds a bias.
    """

    name: str
    inputs: int
    outputs: int
    block: int | None
    part: Literal["attention", "feed_forward", "before", "after"]
    biased: bool

    @property
    def weights(self) -> int:
        """Elements of the matrix."""
        return self.inputs * self.outputs


@dataclass(frozen=True)
class ModelShape:
    """The sizes that cost and memory follow from; counts are of parameters.

    Attributes:
        model_type: of the configuration.
        hidden: width of the blocks' inputs.
        layers: transformer blocks.
        heads: query heads of a block.
        head_dim: width of a head.
        feed_forward: inner width of a block's feed-forward part.
        causal: whether a token sees only itself and earlier ones.
        vocabulary: rows of the token embedding.
        embedding_name: full name of the token embedding.
        embedding_width: its columns; fewer than `hidden` in some ELECTRAs and OPTs, which project them.
        other_embeddings: positions and token types.
        linears: every linear layer, in the model's order.
        norms: weights and biases of all norms.
        block_norms: those of them in each block.
        last_norms: those of them after the last block.
        norm_biases: those of `norms` that are biases.
        qk_norm: queries and keys are normalised head by head (Qwen3).
        parallel: attention and feed-forward part read the block's same input (GPT-NeoX).
        post_norm: norms come after the residual sums (BERT).
        attention_dropout: probability with which attention weights are dropped in training.
        hidden_dropout: probability with which the blocks' outputs are dropped in training.
        checkpoint_item: bytes of a weight in the checkpoint: as the configuration says, 4 if it does not; 0 for one
            that is stored in 8 bits already.
    """

    model_type: str
    hidden: int
    layers: int
    heads: int
    head_dim: int
    feed_forward: int
    causal: bool
    vocabulary: int
    embedding_name: str
    embedding_width: int
    other_embeddings: int
    linears: tuple[LinearShape, ...]
    norms: int
    block_norms: int
    last_norms: int
    norm_biases: int
    qk_norm: bool
    parallel: bool
    post_norm: bool
    attention_dropout: float
    hidden_dropout: float
    checkpoint_item: int

    @property
    def token_embedding(self) -> int:
        """Parameters of the token embedding."""
        return self.vocabulary * self.embedding_width

    @property
    def linear_weights(self) -> int:
        """Parameters in matrix products."""
        return sum(layer.weights for layer in self.linears)

    @property
    def linear_biases(self) -> int:
        """Parameters added after matrix products."""
        return sum(layer.outputs for layer in self.linears if layer.biased)

    @property
    def biases(self) -> int:
        """All biases, those of norms included."""
        return self.linear_biases + self.norm_biases

    @property
    def without_embedding(self) -> int:
        """The papers' N: all parameters but those of the token embedding."""
        return self.linear_weights + self.linear_biases + self.norms + self.other_embeddings

    @property
    def parameters(self) -> int:
        """All parameters of the encoder, without a language-modelling head or a pooler."""
        return self.token_embedding + self.without_embedding


def shape_of(config: PreTrainedConfig) -> ModelShape:
    """The shape of the encoder that a configuration describes; no weight is read or allocated.

    Args:
        config: of a decoder or encoder that transformers' `AutoModel` knows.

    Raises:
        UserError: `AutoModel` cannot build it, or it has weights in places that are not counted here (experts,
            convolutions), no attention heads, or fewer blocks of weights than blocks (ALBERT).
    """
    import torch
    from torch import nn
    from transformers import AutoModel

    from lacos_st.upstream import no_init_weights

    try:
        with torch.device("meta"), no_init_weights():
            model = AutoModel.from_config(config)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"no model can be built from this configuration ({config.model_type}): {error}") from error
    heads = getattr(config, "num_attention_heads", None)
    embedding = model.get_input_embeddings()
    if not heads or not isinstance(embedding, nn.Embedding):
        raise UserError(f"{type(model).__name__} has no attention heads or no token embedding: no model of text")
    linears: list[LinearShape] = []
    norms = block_norms = last_norms = norm_biases = others = counted = 0
    embedding_name, reached = "", False
    for name, module in model.named_modules():
        number = block_number(name)
        reached |= number is not None
        own = {key: parameter.numel() for key, parameter in module.named_parameters(recurse=False)}
        if name.startswith("pooler."):
            counted += sum(own.values())  # over one token, not used for sentence embeddings
            continue
        if module is embedding:
            embedding_name = name
        elif isinstance(module, nn.Linear):
            linears.append(_linear(name, module, after=follows_blocks(name, reached=reached)))
        elif isinstance(module, nn.Embedding):
            others += own["weight"]
        elif "norm" in type(module).__name__.lower():
            norms += sum(own.values())
            norm_biases += own.get("bias", 0)
            if number == 0:
                block_norms += sum(own.values())
            elif number is None and follows_blocks(name, reached=reached):
                last_norms += sum(own.values())
        else:
            continue
        counted += sum(own.values())
    missed = sum(parameter.numel() for parameter in model.parameters()) - counted
    if missed:
        raise UserError(
            f"{type(model).__name__} keeps {missed:,} parameters outside linear layers, embeddings and norms "
            "(experts, convolutions, ...), which this formula does not count: choose a dense transformer"
        )
    blocks = {layer.block for layer in linears if layer.block is not None}
    if len(blocks) < config.num_hidden_layers:
        raise UserError(
            f"{type(model).__name__} has {config.num_hidden_layers} blocks and the weights of {len(blocks)}: shared "
            "ones are not counted by this formula, choose a model without"
        )
    hidden = int(getattr(config, "hidden_size", None) or embedding.embedding_dim)
    return ModelShape(
        model_type=config.model_type,
        hidden=hidden,
        layers=int(config.num_hidden_layers),
        heads=int(heads),
        head_dim=int(getattr(config, "head_dim", None) or hidden // heads),
        feed_forward=max(max(layer.inputs, layer.outputs) for layer in linears if layer.part == "feed_forward"),
        causal=config.model_type == "bloom" or any(getattr(part, "is_causal", False) for part in model.modules()),
        vocabulary=int(embedding.num_embeddings),
        embedding_name=embedding_name,
        embedding_width=int(embedding.embedding_dim),
        other_embeddings=others,
        linears=tuple(linears),
        norms=norms,
        block_norms=block_norms,
        last_norms=last_norms,
        norm_biases=norm_biases,
        qk_norm=any(name.endswith(".q_norm") for name, _ in model.named_modules()),
        parallel=bool(getattr(config, "use_parallel_residual", False)),
        post_norm=config.model_type in POST_NORM or not getattr(config, "do_layer_norm_before", True),
        attention_dropout=_first(config, "attention_probs_dropout_prob", "attention_dropout"),
        checkpoint_item=0 if hasattr(config, "quantization_config") else _item_bytes(config),
        hidden_dropout=_first(config, "hidden_dropout_prob", "hidden_dropout", "dropout"),
    )


def _item_bytes(config: PreTrainedConfig) -> int:
    import torch

    dtype = getattr(config, "dtype", None) or torch.float32
    return int((getattr(torch, dtype) if isinstance(dtype, str) else dtype).itemsize)


def _first(config: PreTrainedConfig, *names: str) -> float:
    """The first of these attributes that the configuration has, 0 if none."""
    return float(next((value for name in names if (value := getattr(config, name, None)) is not None), 0.0))


def check_trainable(shape: ModelShape, method: str, *, frozen_blocks: int = 0) -> None:
    """That a method has something to train.

    Raises:
        UserError: more blocks to freeze than there are, or all that there is (freeze); no biases (bias).
    """
    if method == "bias" and not shape.biases:
        raise UserError(f"a {shape.model_type} has no biases to train: choose lora, freeze or full")
    if method == "freeze" and not 0 <= frozen_blocks <= shape.layers:
        raise UserError(f"frozen_blocks is {frozen_blocks}: the model has {shape.layers} blocks")
    last = shape.last_norms + sum(layer.weights for layer in shape.linears if layer.part == "after")
    if method == "freeze" and frozen_blocks == shape.layers and not last:
        raise UserError(
            f"frozen_blocks is {frozen_blocks}: that is all of a {shape.model_type}, nothing is left to train: freeze "
            "fewer"
        )


def block_number(name: str) -> int | None:
    """The number of the transformer block that a module or parameter of this full name is in; None for none."""
    number = re.search(r"\.(\d+)\.", name)
    return int(number[1]) if number else None


def follows_blocks(name: str, *, reached: bool) -> bool:
    """Whether a module or parameter outside the blocks comes after them.

    Args:
        name: its full name.
        reached: whether a block stands before it in the model's order.
    """
    return reached or bool(OPT_LAST.search(f"{name}."))


def trained_after(layer: LinearShape, blocks: int) -> bool:
    """Whether a linear layer is trained where the first blocks, and what comes before them, are frozen."""
    return layer.part == "after" if layer.block is None else layer.block >= blocks


def _linear(name: str, layer: Any, *, after: bool) -> LinearShape:
    block = block_number(name)
    part: Any = "attention" if re.search(r"attn|attention", name) else "feed_forward"
    return LinearShape(
        name=name,
        inputs=int(layer.in_features),
        outputs=int(layer.out_features),
        block=block,
        part=part if block is not None else "after" if after else "before",
        biased=layer.bias is not None,
    )


def lora_targets(shape: ModelShape, targets: str | Sequence[str] = "paper") -> tuple[tuple[LinearShape, ...], bool]:
    """The linear layers that LoRA goes on, and whether it goes on the token embedding.

    Args:
        shape: of the base.
        targets: "paper" (feed-forward layers and token embedding; LACoS-BLOOM, section 3), "recipe" (every linear layer
            and the token embedding), "all-linear", or names, or ends of names, of layers.

    Raises:
        UserError: a name fits no layer.
    """
    wanted = (targets,) if isinstance(targets, str) else tuple(targets)
    if wanted == ("paper",):
        return tuple(layer for layer in shape.linears if layer.part == "feed_forward"), True
    if wanted in (("all-linear",), ("recipe",)):
        return shape.linears, wanted == ("recipe",)
    chosen: dict[str, LinearShape] = {}
    embedding = False
    for target in wanted:
        fitting = {layer.name: layer for layer in shape.linears if _ends(layer.name, target)}
        on_embedding = _ends(shape.embedding_name, target)
        if not fitting and not on_embedding:
            raise UserError(f"lora_targets: {target!r} is no linear layer and no token embedding of the model")
        chosen |= fitting
        embedding |= on_embedding
    return tuple(chosen.values()), embedding


def _ends(name: str, end: str) -> bool:
    return name == end or name.endswith("." + end)
