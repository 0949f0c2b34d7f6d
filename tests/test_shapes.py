"""Shapes of models whose embedding is narrower than their blocks, or whose last layers are registered first."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, PreTrainedModel

from lacos_st.adapters import adapter_parameters, add_lora_, lora_layers
from lacos_st.errors import UserError
from lacos_st.freezing import freeze_blocks_
from lacos_st.recipe.cost import parameters
from lacos_st.recipe.shapes import lora_targets, shape_of

SIZES = {"vocab_size": 400, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
OPT = {"ffn_dim": 96, "max_position_embeddings": 128}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "electra": ("electra", {"embedding_size": 32, "intermediate_size": 96}),
    "opt": ("opt", {**OPT, "word_embed_proj_dim": 64}),
    "opt, norms last": ("opt", {**OPT, "word_embed_proj_dim": 64, "do_layer_norm_before": False}),
    "opt, narrow": ("opt", {**OPT, "word_embed_proj_dim": 32}),
    "opt-350m": ("opt", {**OPT, "word_embed_proj_dim": 32, "do_layer_norm_before": False}),
}


def build(name: str) -> PreTrainedModel:
    kind, options = MODELS[name]
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModel.from_config(AutoConfig.for_model(kind, **SIZES, **options))
    return model


@pytest.mark.parametrize("name", MODELS)
def test_sizes(name: str) -> None:
    model = build(name)
    shape = shape_of(model.config)
    table: Any = model.get_input_embeddings()
    assert (shape.hidden, shape.head_dim, shape.heads) == (64, 16, 4)
    assert shape.embedding_width == table.embedding_dim
    assert shape.token_embedding == table.weight.numel()
    assert shape.parameters == sum(weight.numel() for weight in model.parameters())
    assert shape.post_norm == (name not in ("opt", "opt, narrow"))


@pytest.mark.parametrize("targets", ["paper", "recipe", "all-linear"])
@pytest.mark.parametrize("name", MODELS)
def test_lora_goes_where_the_adapters_go(name: str, targets: str) -> None:
    model = build(name)
    shape = shape_of(model.config)
    layers, on_embedding = lora_targets(shape, targets)
    names = [layer.name for layer in layers] + [shape.embedding_name] * on_embedding
    assert sorted(names) == sorted(lora_layers(model, targets))
    add_lora_(model, rank=2, targets=targets)
    trained = sum(weight.numel() for weight in adapter_parameters(model).values())
    looked_up = 2 * shape.vocabulary * on_embedding  # counted in no product
    assert parameters(shape, "lacos", rank=2, targets=targets).updated == trained - looked_up


@pytest.mark.parametrize("frozen", [0, 1, 2])
@pytest.mark.parametrize("name", MODELS)
def test_freezing_trains_the_later_blocks_and_what_follows_them(name: str, frozen: int) -> None:
    """What an input runs through: the names outside the blocks are OPT's own."""
    model = build(name)
    after = {
        "opt": ["final_layer_norm"],
        "opt, narrow": ["final_layer_norm", "project_out"],
        "opt-350m": ["project_out"],
    }
    if frozen == 2 and name not in after:
        pytest.skip("nothing is left to train")
    freeze_blocks_(model, frozen)
    trained = {key for key, weight in model.named_parameters() if weight.requires_grad}
    later = [f".{block}." for block in range(frozen, 2)] + [f".{part}." for part in after.get(name, [])]
    in_blocks = [f".{block}." for block in range(frozen)]  # OPT's blocks have a final_layer_norm each, too
    assert trained == {
        key
        for key, _ in model.named_parameters()
        if any(part in key for part in later) and not any(part in key for part in in_blocks)
    }
    count = parameters(shape_of(model.config), "freeze", frozen_blocks=frozen).updated
    assert count == sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


def test_shared_blocks_are_refused() -> None:
    """ALBERT's were counted once, and its pooler among the layers that are trained."""
    config = AutoConfig.for_model("albert", **SIZES, embedding_size=32, intermediate_size=96)
    with pytest.raises(UserError, match="has 2 blocks and the weights of 1"):
        shape_of(config)
