"""The formulas of cost against published sizes, hand arithmetic and a profiler's count."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from lacos_st.adapters import lora_layers
from lacos_st.errors import UserError
from lacos_st.methods import _checkpoint_activations_
from lacos_st.recipe.cost import Method, Workload, attention_flops, parameters, training_flops, useful_flops
from lacos_st.recipe.published import PUBLISHED, published, published_shape
from lacos_st.recipe.shapes import lora_targets, shape_of

TOLERANCE = 0.02
ARCHITECTURES = ("bloom", "gpt_neox", "llama", "bert", "qwen3", "gemma", "distilbert")
ROWS, LENGTH = 3, 24


def configuration(architecture: str, **changes: Any) -> PreTrainedConfig:
    """Two layers; wide enough that the products count, with fewer key heads where the model knows them."""
    sizes: dict[str, Any] = {"vocab_size": 512, "hidden_size": 128, "num_attention_heads": 4, "num_hidden_layers": 2}
    if architecture == "distilbert":
        sizes = {"vocab_size": 512, "dim": 128, "hidden_dim": 256, "n_heads": 4, "n_layers": 2}
    elif architecture != "bloom":
        sizes |= {"intermediate_size": 320}
    if architecture in ("llama", "qwen3", "gemma"):
        sizes |= {"num_key_value_heads": 2, "head_dim": 32}
    return AutoConfig.for_model(architecture, **{**sizes, **changes})


def counted(
    config: PreTrainedConfig,
    method: Method,
    *,
    training: bool,
    frozen_blocks: int = 0,
    checkpointing: bool = False,
    cached: bool = False,
) -> int:
    """FLOP that torch counts for ROWS sentences of LENGTH tokens in transformers' own model, without any arithmetic."""
    config._attn_implementation = "eager"  # the products of a fused kernel are not all counted
    model: PreTrainedModel = AutoModel.from_config(config).train()
    if hasattr(model, "pooler"):
        model.pooler = None
    prepare(model, method, frozen_blocks)
    if checkpointing:
        _checkpoint_activations_(model)
    ids = torch.zeros(ROWS, LENGTH, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        if cached:  # as GradCache does, before it embeds each mini-batch once more with gradients
            with torch.no_grad():
                model(input_ids=ids)
        hidden = model(input_ids=ids).last_hidden_state
        if training:
            hidden.sum().backward()
    return int(counter.get_total_flops())


def prepare(model: PreTrainedModel, method: Method, frozen_blocks: int) -> None:
    if method in ("lora", "lacos"):
        layers, on_embedding = lora_targets(shape_of(model.config))
        names = [layer.name for layer in layers] + [shape_of(model.config).embedding_name] * on_embedding
        # peft's own layers: a fused one computes the same products where no counter sees them
        model.add_adapter(LoraConfig(r=8, target_modules=names, task_type="FEATURE_EXTRACTION"))
    for name, parameter in model.named_parameters():
        if method == "freeze":
            number = [int(part) for part in name.split(".") if part.isdigit()]
            parameter.requires_grad_(bool(number) and number[0] >= frozen_blocks)
        elif method == "bias":
            parameter.requires_grad_(name.endswith("bias"))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_forward_is_what_a_profiler_counts(architecture: str) -> None:
    config = configuration(architecture)
    shape = shape_of(config)
    workload = Workload.of([LENGTH] * ROWS)
    products = 2 * parameters(shape, "full", products_only=True).forward * workload.tokens
    expected = products + attention_flops(shape, workload.token_pairs)
    assert counted(config, "full", training=False) == pytest.approx(expected, rel=TOLERANCE)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("method", ["full", "lora", "bias", "freeze"])
def test_training_is_what_a_profiler_counts(architecture: str, method: Method) -> None:
    config = configuration(architecture)
    if method == "bias" and not shape_of(config).biases:
        pytest.skip(f"{architecture} has no biases")
    frozen = 1 if method == "freeze" else 0
    shape = shape_of(config)
    workload = Workload.of([LENGTH] * ROWS)
    count = parameters(shape, method, rank=8, frozen_blocks=frozen, products_only=True)
    attention = training_flops(shape, workload, method=method, rank=8, frozen_blocks=frozen).attention
    expected = 2 * (count.forward + count.backward + count.updated) * workload.tokens + attention
    if method == "freeze" and architecture in ("bert", "distilbert"):
        # no norm stands before the first trained block's projections: their input needs no gradient, which the paper's
        # formula counts all the same
        expected -= 2 * 3 * 128 * 128 * workload.tokens
    measured = counted(config, method, training=True, frozen_blocks=frozen)
    assert measured == pytest.approx(expected, rel=TOLERANCE)


@pytest.mark.parametrize("architecture", ["bloom", "gpt_neox", "llama", "bert"])
@pytest.mark.parametrize("method", ["full", "lora", "bias", "freeze"])
def test_recomputation_is_what_a_profiler_counts(architecture: str, method: Method) -> None:
    """Of checkpointing and of a cached loss, one upon the other."""
    config = configuration(architecture, num_hidden_layers=4)
    shape = shape_of(config)
    if method == "bias" and not shape.biases:
        pytest.skip(f"{architecture} has no biases")
    frozen = 2 if method == "freeze" else 0
    workload = Workload.of([LENGTH] * ROWS)
    plain = counted(config, method, training=True, frozen_blocks=frozen)
    again = counted(config, method, training=True, frozen_blocks=frozen, checkpointing=True, cached=True)
    whole = parameters(shape, method, rank=8, frozen_blocks=frozen)
    products = parameters(shape, method, rank=8, frozen_blocks=frozen, products_only=True)
    others = whole.forward - products.forward  # norms, biases and positions, which the paper counts as if in products
    others += whole.backward - products.backward
    cost = training_flops(shape, workload, method=method, rank=8, frozen_blocks=frozen, checkpointing=True, cached=True)
    assert again - plain == pytest.approx(cost.recomputation - 2 * others * workload.tokens, rel=TOLERANCE)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_lora_goes_where_the_adapters_go(architecture: str) -> None:
    config = configuration(architecture)
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    shape = shape_of(config)
    if architecture == "bert":
        model.pooler = None
    for targets in (
        "paper",
        "recipe",
        "all-linear",
        [shape.linears[0].name.rpartition(".")[2]],
        [shape.embedding_name],
    ):
        layers, on_embedding = lora_targets(shape, targets)
        names = [layer.name for layer in layers] + [shape.embedding_name] * on_embedding
        assert sorted(names) == sorted(lora_layers(model, targets)), targets


# papers.md, section 2: from the published configurations
BLOOM_SIZES = {
    "560m": (559_214_592, 302_313_472),
    "1b1": (1_065_314_304, 679_962_624),
    "1b7": (1_722_408_960, 1_208_606_720),
    "3b": (3_002_557_440, 2_360_304_640),
    "7b1": (7_069_016_064, 6_041_411_584),
}
# EleutherAI's table of Pythia models: with both embeddings (the head is not tied), and without either
PYTHIA_SIZES = {
    "70m": (70_426_624, 18_915_328),
    "160m": (162_322_944, 85_056_000),
    "410m": (405_334_016, 302_311_424),
    "1b": (1_011_781_632, 805_736_448),
    "1.4b": (1_414_647_808, 1_208_602_624),
    "2.8b": (2_775_208_960, 2_517_652_480),
    "6.9b": (6_857_302_016, 6_444_163_072),
    "12b": (11_846_072_320, 11_327_027_200),
}


@pytest.mark.parametrize("size", BLOOM_SIZES)
def test_sizes_of_bloom(size: str) -> None:
    shape = published_shape(f"bloom-{size}")
    assert (shape.parameters, shape.without_embedding) == BLOOM_SIZES[size]


@pytest.mark.parametrize("size", PYTHIA_SIZES)
def test_sizes_of_pythia(size: str) -> None:
    shape = published_shape(f"pythia-{size}")
    assert (shape.parameters + shape.token_embedding, shape.without_embedding) == PYTHIA_SIZES[size]


def test_hand_arithmetic_for_pythia_70m() -> None:
    """h = 512, 6 layers: per layer 12·h² weights, 9·h biases and 4·h in norms; 2·h in the last norm."""
    shape = published_shape("pythia-70m")
    n = 6 * (12 * 512**2 + 13 * 512) + 2 * 512
    assert shape.without_embedding == n
    tokens = 1024 * 75 * 2  # the recipe paper's batch: 1,024 pairs of 75 tokens a side
    workload = Workload.of([75] * 2048)
    assert training_flops(shape, workload, method="full").paper == 6 * n * tokens
    biases = 6 * (9 * 512 + 2 * 512) + 512
    assert training_flops(shape, workload, method="bias").paper == (4 * n + 2 * biases) * tokens
    trained = 3 * (12 * 512**2 + 13 * 512) + 2 * 512
    frozen = training_flops(shape, workload, method="freeze", frozen_blocks=3).paper
    assert frozen == (2 * n + 4 * trained) * tokens
    adapters = 6 * 8 * (3 * 512 + 512 + 512 + 512 + 5 * 512 + 5 * 512)  # qkv, dense, both of the feed-forward part
    lora = training_flops(shape, workload, method="lora", rank=8, targets="all-linear").paper
    assert lora == (4 * (n + adapters) + 2 * adapters) * tokens


def test_hand_arithmetic_for_what_the_paper_leaves_out() -> None:
    """BLOOM-560m: h = 1024, 24 layers, 16 heads of 64; sentences of 10 and 20 tokens."""
    shape = published_shape("bloom-560m")
    workload = Workload.of([10, 20])
    attention = 24 * 4 * (100 + 400) * 1024
    plain = training_flops(shape, workload, method="lacos", passes=2)
    assert plain.attention == 3 * attention
    assert plain.recomputation == 0
    assert plain.dequantization == 2 * 2 * 24 * 12 * 1024**2
    twice = training_flops(shape, workload, method="lacos", checkpointing=True, cached=True, passes=2)
    assert twice.recomputation == 2 * (plain.forward + attention)
    assert twice.dequantization == 2 * plain.dequantization  # twice in the forwards and twice in the backward
    lean = training_flops(shape, workload, method="lacos", lean=True, passes=1)
    assert lean.recomputation == 0
    assert lean.dequantization == 2 * 24 * 12 * 1024**2
    half = training_flops(shape, workload, method="lacos", lean=True, half=True)
    assert half.recomputation == 24 * 2 * 1024**2 * 30 + attention
    least = training_flops(shape, workload, method="lacos", lean=True, checkpointing=True)
    assert least.recomputation == 24 * 2 * (12 - 4) * 1024**2 * 30 + attention
    served = training_flops(shape, workload, method="lacos", serve=Workload.of([10, 20])).serving
    assert served == 2 * shape.without_embedding * 30 + attention
    assert plain.total == plain.paper + plain.attention + plain.dequantization


def test_useful_flops_earn_nothing_for_padding_or_masked_scores() -> None:
    config = published("bloom-560m")
    assert config is not None
    weights, adapters = 24 * 12 * 1024**2, 24 * 4 * 2 * 5 * 1024 + 4 * 1024  # rank 4 on the feed-forward part
    scores = 24 * 4 * 1024 * (55 + 210)  # 10·11/2 and 20·21/2 pairs that are not masked
    assert useful_flops(config, [10, 20]) == 2 * (weights + adapters) * 30 + scores
    training = useful_flops(config, [10, 20], training=True)
    assert training == (4 * (weights + adapters) + 2 * adapters) * 30 + 3 * scores
    assert useful_flops(config, [10, 20], training=True, method="full") == 6 * weights * 30 + 3 * scores


def test_an_encoder_masks_nothing() -> None:
    shape = shape_of(configuration("bert"))
    assert not shape.causal
    pairs = Workload.of([10]).token_pairs
    assert attention_flops(shape, pairs, causal_half=10) == attention_flops(shape, pairs)


def test_what_cannot_be_counted() -> None:
    shape = shape_of(configuration("llama"))
    with pytest.raises(UserError, match="has no biases to train"):
        parameters(shape, "bias")
    with pytest.raises(UserError, match="frozen_blocks is 3: the model has 2 blocks"):
        parameters(shape, "freeze", frozen_blocks=3)
    with pytest.raises(UserError, match="'no_layer' is no linear layer"):
        lora_targets(shape, ["no_layer"])
    with pytest.raises(UserError, match="known here: expected one of bloom-560m"):
        published_shape("bloom-9b")
    experts = AutoConfig.for_model(
        "mixtral", vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4
    )
    with pytest.raises(UserError, match="experts"):
        shape_of(experts)


def test_published_names_with_and_without_owner() -> None:
    assert published("bigscience/bloom-560m") is not None
    assert published("EleutherAI/pythia-1.4b") is not None
    assert published("somebody/bloom-560m") is None
    assert published("bloom-nano") is None
    assert len(PUBLISHED) == 15
