"""LoRA on 8-bit layers: targets, frozen base, gradients against stock peft, files."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import tiny
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense
from transformers import PreTrainedModel

from lacos_st import BloomEncoder, LoRA8bit, Pooling, UserError, dequantize_, quantize_
from lacos_st.adapters import adapter_parameters, add_lora_, check_frozen, load_adapter_, lora_layers, save_adapter

IDS = torch.arange(24).view(2, 12)


def stored(seed: int = 0) -> BloomEncoder:
    source = tiny.model("bloom", seed=seed)
    lean = BloomEncoder(source.config).eval()
    lean.load_state_dict(source.state_dict())
    quantize_(lean, block_size=64)
    return lean


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("bloom", {"word_embeddings", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"}),
        ("gpt_neox", {"embed_in", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"}),
        ("llama", {"embed_tokens", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}),
        ("phi3", {"embed_tokens", "mlp.gate_up_proj", "mlp.down_proj"}),
        ("starcoder2", {"embed_tokens", "mlp.c_fc", "mlp.c_proj"}),
        ("bert", {"embeddings.word_embeddings", "intermediate.dense", "output.dense"}),
    ],
)
def test_paper_targets(architecture: str, expected: set[str]) -> None:
    model = tiny.model(architecture)
    names = lora_layers(model)
    assert len(names) == 1 + 2 * (len(expected) - 1)  # one embedding, the others once in each of two layers
    assert all(any(name.endswith(end) for end in expected) for name in names)
    assert not [name for name in names if "attention" in name]


def test_half_known_feed_forward_layers_are_unknown() -> None:
    """LoRA on the down_proj alone, of which no name told, would have been another method."""
    model = tiny.model("phi3")
    model.config.model_type = "unheard-of"
    with pytest.raises(UserError, match="are not known"):
        lora_layers(model)


def test_targets_by_name() -> None:
    model = tiny.model("bloom")
    assert len(lora_layers(model, "all-linear")) == 2 * 4
    assert lora_layers(model, ["query_key_value"]) == [f"h.{i}.self_attention.query_key_value" for i in (0, 1)]
    with pytest.raises(UserError, match="'q_proj' is no linear layer"):
        lora_layers(model, ["q_proj"])
    model.config.model_type = "unheard-of"
    with pytest.raises(UserError, match="all-linear"):
        lora_layers(model)


def test_gradients_are_stock_pefts_on_the_dequantised_weights() -> None:
    ours = stored()
    plain = copy.deepcopy(ours)
    dequantize_(plain)
    stock = get_peft_model(plain, LoraConfig(r=4, lora_alpha=8, target_modules=lora_layers(plain)))
    add_lora_(ours, rank=4, alpha=8)
    tiny.stir_(ours)
    stock.load_state_dict({f"base_model.model.{k}": v for k, v in adapter_parameters(ours).items()}, strict=False)
    for model in (ours, stock):
        model.train()
        model(input_ids=IDS).last_hidden_state.square().mean().backward()
    theirs = adapter_parameters(stock)
    assert len(adapter_parameters(ours)) == len(theirs) == 10
    for name, parameter in adapter_parameters(ours).items():
        reference = theirs[f"base_model.model.{name}"].grad
        assert torch.allclose(parameter.grad, reference, rtol=0, atol=1e-5 * max(1.0, float(reference.abs().max())))
        assert parameter.grad.abs().max() > 0, name


def test_a_layer_with_lora_saves_its_input_once() -> None:
    model = stored()
    add_lora_(model, rank=4)
    layer = model.h[0].mlp.dense_h_to_4h
    saved: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.data_ptr()] = tensor.numel()
        return tensor

    inputs = torch.randn(50, 64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(inputs)
    weights = {p.data_ptr() for p in layer.parameters()} | {b.data_ptr() for b in layer.buffers()}
    activations = sum(numel for pointer, numel in saved.items() if pointer not in weights)
    assert activations <= 50 * (64 + 4)  # the input, and the input of lora_B


def test_only_adapters_train() -> None:
    model = stored()
    with pytest.raises(UserError, match="give it adapters"):
        check_frozen(model)
    add_lora_(model, rank=2)
    check_frozen(model)
    model.ln_f.weight.requires_grad_(True)
    with pytest.raises(UserError, match=r"1 tensors of the frozen base are trainable, the first is ln_f\.weight"):
        check_frozen(model)


def test_options() -> None:
    model = stored()
    add_lora_(model, rank=2, alpha=6, dropout=0.25, dtype=torch.bfloat16)
    layer = model.h[0].mlp.dense_4h_to_h
    assert layer.scaling["default"] == 3.0
    assert layer.lora_dropout["default"].p == 0.25
    assert {p.dtype for p in adapter_parameters(model).values()} == {torch.bfloat16}
    with pytest.raises(UserError, match="lora_rank=0: expected at least 1"):
        add_lora_(stored(), rank=0)


@pytest.mark.parametrize("layer", ["word_embeddings", "h.0.mlp.dense_h_to_4h"])
@pytest.mark.parametrize("safe", [True, False])
def test_merging_into_8_bits_is_refused(layer: str, safe: bool) -> None:
    model = stored()
    add_lora_(model)
    with pytest.raises(UserError, match="16-bit base"):
        model.get_submodule(layer).merge(safe_merge=safe)


def adapted(folder: Path, **options: object) -> PreTrainedModel:
    model = stored()
    add_lora_(model, **{"rank": 4, **options})
    tiny.stir_(model)
    save_adapter(model, folder, base_name="some/base", revision="abc")
    return model.eval()


def test_files_are_stock_pefts(tmp_path: Path) -> None:
    model = adapted(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"], config["r"]) == ("some/base", "abc", 4)
    plain = stored()
    dequantize_(plain)
    stock = PeftModel.from_pretrained(plain, tmp_path).eval()
    with torch.no_grad():
        assert torch.allclose(stock(input_ids=IDS).last_hidden_state, model(input_ids=IDS).last_hidden_state, atol=1e-5)


def test_adapter_round_trip_and_misfits(tmp_path: Path) -> None:
    model = adapted(tmp_path / "a")
    fresh = stored()
    add_lora_(fresh)
    load_adapter_(fresh, tmp_path / "a")
    for name, parameter in adapter_parameters(fresh).items():
        assert torch.equal(parameter, adapter_parameters(model)[name])
    adapted(tmp_path / "rank", rank=2)
    with pytest.raises(UserError, match="10 tensors .* of another shape"):
        load_adapter_(fresh, tmp_path / "rank")
    adapted(tmp_path / "layers", targets="all-linear")
    with pytest.raises(UserError, match="2 tensors .* missing, 8 tensors .* unknown"):
        load_adapter_(fresh, tmp_path / "layers")
    file = tmp_path / "a" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(UserError, match="missing or broken"):
        load_adapter_(fresh, tmp_path / "a")
    with pytest.raises(UserError, match="missing or broken"):
        load_adapter_(fresh, tmp_path / "nowhere")


@pytest.mark.parametrize(("base", "adapter"), [("bfloat16", "float32"), ("float32", "bfloat16")])
def test_a_module_behind_computes_in_the_dtype_of_the_base(
    base: str, adapter: str, tiny_bloom_dir: str, tmp_path: Path
) -> None:
    module = LoRA8bit(tiny_bloom_dir, block_size=32, adapter_dtype=adapter, model_kwargs={"dtype": base})
    width = module.get_embedding_dimension()
    model = SentenceTransformer(modules=[module, Pooling(width), Dense(width, 8)], device="cpu")
    assert {parameter.dtype for parameter in model[2].parameters()} == {getattr(torch, base)}
    assert model.encode(tiny.SENTENCES).shape == (len(tiny.SENTENCES), 8)
    assert {*module.parameters()} == {parameter for _, parameter in module.named_parameters()}
    model.save_pretrained(str(tmp_path))
    loaded = SentenceTransformer(str(tmp_path), device="cpu", model_kwargs={"dtype": base})
    torch.testing.assert_close(loaded.encode(tiny.SENTENCES), model.encode(tiny.SENTENCES))
