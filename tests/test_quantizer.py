"""The format as a transformers quantiser: load, save, load again, and damaged files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder
from transformers import AutoModel, AutoModelForSequenceClassification, BertModel, BloomConfig, BloomForCausalLM
from transformers.utils import logging

from lacos_st import Blockwise8bitConfig, BloomEncoder, UserError, quantize_
from lacos_st.linear import codes_hash
from lacos_st.stored import Stored8bit

IDS = torch.arange(12).view(2, 6)


def load(folder: Path | str, **kwargs: object) -> BloomEncoder:
    return BloomEncoder.from_pretrained(folder, **kwargs).eval()


@pytest.fixture
def base(tmp_path: Path) -> str:
    return tiny.save(tmp_path / "base")


@pytest.mark.parametrize("code", ["dynamic", "linear"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_round_trip_is_bit_equal(base: str, tmp_path: Path, code: str, dtype: torch.dtype) -> None:
    config = Blockwise8bitConfig(block_size=64, code=code)
    first = load(base, quantization_config=config, dtype=dtype)
    first.save_pretrained(tmp_path / "stored")
    second = load(tmp_path / "stored")
    assert second.dtype == dtype
    assert codes_hash(first) == codes_hash(second)
    assert torch.equal(first(IDS).last_hidden_state, second(IDS).last_hidden_state)
    stock = AutoModel.from_pretrained(tmp_path / "stored")  # transformers' own BloomModel on our layers
    if dtype == torch.float32:
        assert torch.allclose(stock(IDS).last_hidden_state, first(IDS).last_hidden_state, atol=1e-5)


def test_loading_equals_quantising_in_place(base: str) -> None:
    loaded = load(base, quantization_config=Blockwise8bitConfig(block_size=64))
    in_place = load(base)
    quantize_(in_place, block_size=64)
    assert codes_hash(loaded) == codes_hash(in_place)
    assert torch.equal(loaded(IDS).last_hidden_state, in_place(IDS).last_hidden_state)


def test_a_weight_of_many_slabs_is_stored_as_a_whole(
    base: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = codes_hash(load(base, quantization_config=Blockwise8bitConfig(block_size=64)))
    monkeypatch.setattr("lacos_st.quantizer.SLAB_BYTES", 7 * 64 * 4)  # seven rows of the tiny base, the last slab less
    assert codes_hash(load(base, quantization_config=Blockwise8bitConfig(block_size=64))) == whole


def test_a_bar_shows_how_far_loading_is_unless_bars_are_off(base: str, capfd: pytest.CaptureFixture[str]) -> None:
    was_on = logging.is_progress_bar_enabled()
    try:
        logging.enable_progress_bar()
        loaded = load(base, quantization_config=Blockwise8bitConfig(block_size=64))
        shown = capfd.readouterr().err
        logging.disable_progress_bar()
        load(base, quantization_config=Blockwise8bitConfig(block_size=64))
        assert capfd.readouterr().err == ""
    finally:
        (logging.enable_progress_bar if was_on else logging.disable_progress_bar)()
    stored = sum(isinstance(layer, Stored8bit) for layer in loaded.modules())
    tensors = stored + len(list(loaded.parameters()))  # of the checkpoint, each counted once it is quantised
    assert f"100%|██████████| {tensors}/{tensors}" in shown


def test_files_hold_codes_and_absmax_and_little_else(base: str, tmp_path: Path) -> None:
    load(base, quantization_config=Blockwise8bitConfig(block_size=64)).save_pretrained(tmp_path / "stored")
    tensors = load_file(tmp_path / "stored" / "model.safetensors")
    assert tensors["word_embeddings.codes"].dtype == torch.uint8
    assert tensors["word_embeddings.absmax"].dtype == torch.float32
    assert not [name for name, t in tensors.items() if t.ndim == 2 and t.is_floating_point() and "absmax" not in name]
    config = json.loads((tmp_path / "stored" / "config.json").read_text())
    assert config["quantization_config"] == {
        "quant_method": "lacos_blockwise8bit",
        "block_size": 64,
        "code": "dynamic",
        "skip": [],
    }


def test_a_sharded_causal_checkpoint_in_bf16(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = BloomConfig(vocab_size=400, hidden_size=256, n_layer=2, n_head=4)
    causal = BloomForCausalLM(config).to(torch.bfloat16)
    causal.save_pretrained(tmp_path, max_shard_size="300KB")
    assert len([name for name in os.listdir(tmp_path) if name.endswith(".safetensors")]) > 3
    loaded = load(tmp_path, quantization_config=Blockwise8bitConfig())
    reference = BloomEncoder(config).to(torch.bfloat16)
    reference.load_state_dict(causal.transformer.state_dict())
    quantize_(reference)
    assert codes_hash(loaded) == codes_hash(reference)


def test_bytes_per_weight_on_disk(tmp_path: Path) -> None:
    config = BloomConfig(vocab_size=4000, hidden_size=512, n_layer=2, n_head=4)
    BloomEncoder(config).save_pretrained(tmp_path / "float")
    stored = load(tmp_path / "float", quantization_config=Blockwise8bitConfig())
    stored.save_pretrained(tmp_path / "stored")
    weights = sum(layer.codes.numel() for layer in stored.modules() if isinstance(layer, Stored8bit))
    others = sum(parameter.nbytes for parameter in stored.parameters())  # layer norms and biases
    assert ((tmp_path / "stored" / "model.safetensors").stat().st_size - others) / weights <= 1.02


def test_dequantize_undoes_it(base: str, tmp_path: Path) -> None:
    stored = load(base, quantization_config=Blockwise8bitConfig(block_size=64))
    expected = stored(IDS).last_hidden_state
    stored.dequantize()
    assert not [layer for layer in stored.modules() if isinstance(layer, Stored8bit)]
    assert torch.equal(stored(IDS).last_hidden_state, expected)
    stored.save_pretrained(tmp_path / "float")
    assert torch.equal(load(tmp_path / "float")(IDS).last_hidden_state, expected)


@pytest.mark.parametrize("part", ["codes", "absmax"])
def test_a_missing_part_is_an_error(base: str, tmp_path: Path, part: str) -> None:
    load(base, quantization_config=Blockwise8bitConfig(block_size=64)).save_pretrained(tmp_path / "stored")
    file = tmp_path / "stored" / "model.safetensors"
    tensors = load_file(file)
    del tensors[f"h.1.mlp.dense_h_to_4h.{part}"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"no {part} for h.1.mlp.dense_h_to_4h"):
        load(tmp_path / "stored")


def test_bad_configurations() -> None:
    with pytest.raises(ValueError, match="choose one of dynamic, linear"):
        Blockwise8bitConfig(code="nf4")
    with pytest.raises(ValueError, match="expected a whole number"):
        Blockwise8bitConfig(block_size=0)
    with pytest.raises(ValueError, match="unknown options of the 8-bit format: blok_size"):
        Blockwise8bitConfig(blok_size=64)


def test_a_base_that_no_block_fits(tmp_path: Path) -> None:
    BloomEncoder(BloomConfig(vocab_size=100, hidden_size=48, n_layer=1, n_head=2)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="width 48 of .* is not a multiple of block size 256: choose a divisor of 48"):
        load(tmp_path, quantization_config=Blockwise8bitConfig())


def test_a_language_modelling_head_is_refused(tmp_path: Path) -> None:
    BloomForCausalLM(BloomConfig(vocab_size=100, hidden_size=64, n_layer=1, n_head=2)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="load the bare encoder"):
        BloomForCausalLM.from_pretrained(tmp_path, quantization_config=Blockwise8bitConfig(block_size=64))


@pytest.mark.parametrize("architecture", ["llama", "bert", "bloom"])
def test_a_head_that_the_checkpoint_lacks_is_refused(architecture: str, tmp_path: Path) -> None:
    """Not called a broken checkpoint; one that was saved with its head comes back with it."""
    config = Blockwise8bitConfig(block_size=64)
    float_folder, folder, headed = (str(tmp_path / name) for name in ("float", "stored", "headed"))
    tiny.save(Path(float_folder), architecture)
    AutoModel.from_pretrained(float_folder, quantization_config=config).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    for load_headed in (AutoModelForSequenceClassification.from_pretrained, CrossEncoder):
        with pytest.raises(UserError, match=r"has a head \((score|classifier)\) .*load it with SentenceTransformer"):
            load_headed(folder)
    AutoModelForSequenceClassification.from_pretrained(float_folder).save_pretrained(headed)
    stored = AutoModelForSequenceClassification.from_pretrained(headed, quantization_config=config).eval()
    stored.save_pretrained(folder)
    loaded = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert torch.equal(loaded(IDS[:1]).logits, stored(IDS[:1]).logits)


def test_an_encoder_that_was_stored_without_its_pooler(tmp_path: Path) -> None:
    """transformers leaves a pooler that a checkpoint lacks at random, with a warning; nobody here calls it."""
    bare = BertModel(tiny.model("bert").config, add_pooling_layer=False)
    bare.save_pretrained(tmp_path / "float")
    config = Blockwise8bitConfig(block_size=64)
    stored = BertModel.from_pretrained(tmp_path / "float", quantization_config=config, add_pooling_layer=False)
    stored.save_pretrained(tmp_path / "stored")
    loaded = AutoModel.from_pretrained(tmp_path / "stored")
    assert type(loaded.pooler.dense) is torch.nn.Linear
    assert torch.equal(loaded.eval()(IDS).last_hidden_state, stored.eval()(IDS).last_hidden_state)
