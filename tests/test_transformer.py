"""The modules inside a SentenceTransformer: parity with the stock module, save and load, damage, refusals."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Router
from transformers import T5Config

from lacos_st import BloomLoRA8bit, LoRA8bit, Pooling, UserError, dequantize_, encoder, quantize_
from lacos_st.checkpoint import base_hash
from lacos_st.linear import codes_hash

SENTENCES = tiny.SENTENCES
PLAIN_TEXT = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}


def make(base: str, *, stirred: bool = True, **options: object) -> SentenceTransformer:
    torch.manual_seed(0)
    model = encoder(base, device="cpu", **{"block_size": 64, **options})
    if stirred:
        tiny.stir_(model)
    return model


def reload(folder: Path | str, **options: object) -> SentenceTransformer:
    return SentenceTransformer(str(folder), device="cpu", **options)


@pytest.fixture
def base(tmp_path: Path) -> str:
    return tiny.save(tmp_path / "base")


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_embeddings_are_those_of_the_stock_module(architecture: str, tmp_path: Path) -> None:
    base = tiny.save(tmp_path, architecture)
    stock = Transformer(base, modality_config=PLAIN_TEXT, module_output_name="token_embeddings")
    expected = SentenceTransformer(modules=[stock, Pooling(64)], device="cpu").encode(SENTENCES)
    ours = encoder(base, code=None, lora_rank=0, device="cpu")
    assert ours[0].can_flatten_inputs
    np.testing.assert_allclose(ours.encode(SENTENCES), expected, atol=1e-5)
    ours[0].unpad_inputs = False
    assert not ours[0].can_flatten_inputs
    np.testing.assert_allclose(ours.encode(SENTENCES), expected, atol=1e-5)


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_quantised_embeddings_are_those_of_stock_peft_on_dequantised_weights(architecture: str, tmp_path: Path) -> None:
    base = tiny.save(tmp_path / "base", architecture)
    ours = make(base)
    ours.save_pretrained(str(tmp_path / "saved"))
    plain = tiny.model(architecture)
    quantize_(plain, block_size=64)
    dequantize_(plain)
    stock = PeftModel.from_pretrained(plain, tmp_path / "saved" / "adapter").eval()
    for sentence in SENTENCES:
        ids = ours.tokenizer(sentence, return_tensors="pt")["input_ids"]
        if ids.shape[1]:
            with torch.no_grad():
                expected = stock(input_ids=ids.long()).last_hidden_state.mean(1)
            np.testing.assert_allclose(ours.encode([sentence]), expected, atol=1e-5)


def test_a_sentence_is_the_same_in_any_batch(base: str) -> None:
    model = make(base)
    together = model.encode(SENTENCES)
    for sentence, expected in zip(SENTENCES, together, strict=True):
        np.testing.assert_allclose(model.encode([sentence])[0], expected, atol=1e-5)
    assert np.all(together[SENTENCES.index("")] == 0)
    assert np.all(model.encode(["", ""]) == 0)


def test_plain_text_despite_a_chat_template(tmp_path: Path) -> None:
    with_template = tiny.save(tmp_path / "chat", "llama", chat_template=True)
    without = tiny.save(tmp_path / "plain", "llama")
    np.testing.assert_array_equal(make(with_template).encode(SENTENCES), make(without).encode(SENTENCES))
    make(with_template).save_pretrained(str(tmp_path / "saved"))
    np.testing.assert_array_equal(reload(tmp_path / "saved").encode(SENTENCES), make(without).encode(SENTENCES))


@pytest.mark.parametrize("self_contained", [False, True])
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_round_trip_is_bit_equal(architecture: str, self_contained: bool, tmp_path: Path) -> None:
    base = tiny.save(tmp_path / "base", architecture)
    model = make(base, self_contained=self_contained, lora_rank=2, lora_alpha=3)
    expected = model.encode(SENTENCES)
    model.save_pretrained(str(tmp_path / "saved"))
    assert (tmp_path / "saved" / "model.safetensors").exists() == self_contained
    if self_contained:
        shutil.rmtree(base)
    loaded = reload(tmp_path / "saved")
    np.testing.assert_array_equal(loaded.encode(SENTENCES), expected)
    assert codes_hash(loaded) == codes_hash(model)
    assert {name for name, p in loaded.named_parameters() if p.requires_grad} == {
        name for name, p in model.named_parameters() if p.requires_grad
    }
    loaded.save_pretrained(str(tmp_path / "again"))
    np.testing.assert_array_equal(reload(tmp_path / "again").encode(SENTENCES), expected)


FRESH = """
import sys
import warnings
warnings.simplefilter("ignore")
{imports}
import numpy as np
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu"{flag})
np.save(sys.argv[2], model.encode({sentences!r}))
"""


@pytest.mark.parametrize(("imports", "flag"), [("import lacos_st", ""), ("", ", trust_remote_code=True")])
def test_a_fresh_process_gives_bit_equal_embeddings(base: str, tmp_path: Path, imports: str, flag: str) -> None:
    model = make(base)
    model.save_pretrained(str(tmp_path / "saved"))
    code = FRESH.format(imports=imports, flag=flag, sentences=SENTENCES)
    out = tmp_path / "out.npy"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "saved"), str(out)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(out), model.encode(SENTENCES))


def test_without_import_or_flag_the_stock_library_asks_for_the_flag(base: str, tmp_path: Path) -> None:
    make(base).save_pretrained(str(tmp_path / "saved"))
    code = FRESH.format(imports="", flag="", sentences=SENTENCES)
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "saved"), "x"], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "trust_remote_code" in done.stderr


def test_every_option_is_saved(base: str, tmp_path: Path) -> None:
    options = {
        "lora_rank": 2,
        "lora_alpha": 5.0,
        "lora_dropout": 0.1,
        "lora_targets": ["dense", "word_embeddings"],
        "adapter_dtype": "bfloat16",
        "block_size": 32,
        "code": "linear",
        "skip": ["h.0.mlp.dense_h_to_4h"],
        "alibi": "reference",
        "max_seq_length": 9,
    }
    make(base, **options).save_pretrained(str(tmp_path / "saved"))
    module = reload(tmp_path / "saved")[0]
    assert isinstance(module, BloomLoRA8bit)
    assert {name: getattr(module, name) for name in options} == options
    assert module.model.alibi == "reference"
    assert set(BloomLoRA8bit.config_keys) >= set(options) - {"max_seq_length"}


def test_a_stored_base_keeps_its_storage_and_can_be_dequantised(base: str, tmp_path: Path) -> None:
    model = make(base, code="linear", self_contained=True, lora_rank=0)
    expected = model.encode(SENTENCES)
    model.save_pretrained(str(tmp_path / "stored"))
    again = encoder(str(tmp_path / "stored"), lora_rank=0, device="cpu")
    assert (again[0].code, again[0].block_size) == ("linear", 64)
    np.testing.assert_array_equal(again.encode(SENTENCES), expected)
    fast = encoder(str(tmp_path / "stored"), code=None, lora_rank=0, device="cpu")
    assert type(fast[0].model.word_embeddings) is torch.nn.Embedding
    np.testing.assert_allclose(fast.encode(SENTENCES), expected, atol=1e-6)


def test_an_unquantised_base_is_saved_whole(base: str, tmp_path: Path) -> None:
    model = make(base, code=None, lora_rank=0)  # every weight is trainable, and stirred
    expected = model.encode(SENTENCES)
    model.save_pretrained(str(tmp_path / "saved"))
    shutil.rmtree(base)
    np.testing.assert_array_equal(reload(tmp_path / "saved").encode(SENTENCES), expected)


def test_lower_precision_on_request(base: str, tmp_path: Path) -> None:
    model = make(base)
    model.save_pretrained(str(tmp_path / "saved"))
    half = reload(tmp_path / "saved", model_kwargs={"dtype": torch.bfloat16})
    assert half[0].model.ln_f.weight.dtype == torch.bfloat16
    assert half[0].model.word_embeddings.base_layer.compute_dtype_like.dtype == torch.bfloat16
    assert half[0].model.h[0].mlp.dense_h_to_4h.base_layer.absmax.dtype == torch.float32
    assert base_hash(half[0].model) != ""
    np.testing.assert_allclose(half.encode(SENTENCES), model.encode(SENTENCES), atol=0.1)


def test_training_needs_adapters_and_a_frozen_base(base: str) -> None:
    bare = make(base, lora_rank=0, stirred=False)
    assert not [p for p in bare.parameters() if p.requires_grad]
    bare.train()
    features = bare.preprocess(["a man"])
    with pytest.raises(UserError, match="give it adapters"):
        bare(features)
    model = make(base)
    model.train()
    model(model.preprocess(["a man"]))["sentence_embedding"].sum().backward()
    model[0].model.ln_f.weight.requires_grad_(True)
    with pytest.raises(UserError, match="ln_f.weight"):
        model(model.preprocess(["a man"]))


# What is loaded is what was saved, or an error


@pytest.fixture
def saved(base: str, tmp_path: Path) -> Path:
    make(base).save_pretrained(str(tmp_path / "saved"))
    return tmp_path / "saved"


def flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(bytes(content))


def test_another_base_is_named(saved: Path, base: str) -> None:
    tiny.model("bloom", seed=7).save_pretrained(base)
    with pytest.raises(UserError, match="is not the one this model was saved with: its hash is"):
        reload(saved)


def test_one_flipped_bit_in_the_base(saved: Path, base: str) -> None:
    tensors = load_file(Path(base) / "model.safetensors")
    tensors["h.0.input_layernorm.bias"].view(torch.uint8)[3] ^= 1
    save_file(tensors, Path(base) / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="is not the one this model was saved with"):
        reload(saved)


def test_a_base_that_is_gone_can_be_named_anew(saved: Path, base: str, tmp_path: Path) -> None:
    expected = reload(saved).encode(SENTENCES)
    shutil.move(base, tmp_path / "moved")
    with pytest.raises(UserError, match="adapter on the base .* put it back, or name its new place"):
        reload(saved)
    again = reload(saved, model_kwargs={"base": str(tmp_path / "moved")})
    np.testing.assert_array_equal(again.encode(SENTENCES), expected)
    again.save_pretrained(str(tmp_path / "again"))
    np.testing.assert_array_equal(reload(tmp_path / "again").encode(SENTENCES), expected)


def test_a_truncated_base(saved: Path, base: str) -> None:
    file = Path(base) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot load the weights of"):
        reload(saved)


def test_a_changed_adapter_shows_in_the_probes(saved: Path) -> None:
    file = saved / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    for tensor in tensors.values():
        tensor.mul_(1.5)
    save_file(tensors, file)
    with pytest.raises(UserError, match="does not embed as the saved one did: the probe sentences differ by"):
        reload(saved)


@pytest.mark.parametrize("name", ["lacos_probes.safetensors", "adapter/adapter_model.safetensors"])
def test_missing_parts_are_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(UserError, match=f"{Path(name).name}.* is missing or broken"):
        reload(saved)


def test_a_broken_or_newer_manifest(saved: Path) -> None:
    file = saved / "lacos.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "format_version": 99, "new": 1}))
    with pytest.raises(UserError, match="written by a newer lacos_st: upgrade"):
        reload(saved)
    file.write_text(file.read_text()[:40])
    with pytest.raises(UserError, match=r"lacos\.json is broken"):
        reload(saved)


def test_a_router_comes_back(base: str, tmp_path: Path) -> None:
    """Its modules lie in folders of their own, and another base's name is no trouble."""
    query, document = make(base), make(base, lora_rank=2)
    tiny.stir_(document, seed=9)
    routes = Router.for_query_document(list(query), list(document))
    model = SentenceTransformer(modules=[routes], device="cpu")
    model.save_pretrained(str(tmp_path / "saved"))
    again = reload(tmp_path / "saved")
    np.testing.assert_array_equal(again.encode_query(SENTENCES), query.encode(SENTENCES))
    np.testing.assert_array_equal(again.encode_document(SENTENCES), document.encode(SENTENCES))
    place = next((tmp_path / "saved").glob("query*BloomLoRA8bit"))
    flip_a_byte(place / "lacos_probes.safetensors")
    with pytest.raises(UserError, match="lacos_probes.safetensors is not the file that was saved"):
        reload(tmp_path / "saved")
    with pytest.raises(UserError, match="is read from a folder here only: fetch it with huggingface_hub"):
        BloomLoRA8bit.load("someone/router", subfolder="query_0_BloomLoRA8bit")
    shutil.move(place, tmp_path / "outside")
    place.symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match="outside"):
        reload(tmp_path / "saved")


# Refusals


def test_a_save_that_is_refused_leaves_the_model_in_the_folder(saved: Path, base: str) -> None:
    expected = reload(saved).encode(SENTENCES)
    broken = make(base)
    next(parameter for parameter in broken.parameters() if parameter.requires_grad).data.fill_(float("nan"))
    with pytest.raises(UserError, match="embeds a probe sentence as inf or nan.* nothing was written"):
        broken.save_pretrained(str(saved))
    del broken[0].model.word_embeddings
    with pytest.raises(AttributeError):
        broken.save_pretrained(str(saved))
    np.testing.assert_array_equal(reload(saved).encode(SENTENCES), expected)


def test_an_adapter_of_another_scale_or_base_is_not_restored(base: str, tmp_path: Path) -> None:
    module = make(base)[0]
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    make(base, lora_alpha=16).save_pretrained(str(tmp_path / "scaled"))
    with pytest.raises(UserError, match="saved with an adapter of rank 4, alpha 16 .* asked for with rank 4, alpha 4"):
        module.restore_adapter(tmp_path / "scaled")
    make(tiny.save(tmp_path / "other", seed=7)).save_pretrained(str(tmp_path / "elsewhere"))
    with pytest.raises(UserError, match="is not the one this model was saved with: its hash is"):
        module.restore_adapter(tmp_path / "elsewhere")
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])
    half = make(base, self_contained=True, model_kwargs={"dtype": torch.bfloat16})
    half.save_pretrained(str(tmp_path / "half"))
    half[0].restore_adapter(tmp_path / "half")  # its base was cast since it was read
    other = make(base, stirred=False)
    make(base).save_pretrained(str(tmp_path / "same"))
    other[0].restore_adapter(tmp_path / "same")
    np.testing.assert_array_equal(other.encode(SENTENCES), make(base).encode(SENTENCES))


def test_unknown_base() -> None:
    with pytest.raises(UserError, match="cannot load 'no/such-model': it is no folder with a config.json"):
        encoder("no/such-model")
    with pytest.raises(UserError, match="cannot load 'no/such-model'"):
        LoRA8bit("no/such-model")


def test_a_changed_configuration_is_one_that_comes_back(tmp_path: Path) -> None:
    base = str(tiny.save(tmp_path / "base", "llama"))
    changed = {"num_hidden_layers": 1, "attention_dropout": 0.1}
    with pytest.raises(UserError, match="config_kwargs changes num_hidden_layers of"):
        make(base, config_kwargs=changed)
    for name, options in {"whole": {"self_contained": True}, "float": {"code": None, "lora_rank": 0}}.items():
        model = make(base, config_kwargs=changed, **options)
        assert len(model[0].model.base_model.layers if options.get("lora_rank", 2) else model[0].model.layers) == 1
        model.save_pretrained(str(tmp_path / name))
        np.testing.assert_array_equal(reload(tmp_path / name).encode(SENTENCES), model.encode(SENTENCES))
    make(base, config_kwargs={"attention_dropout": 0.1}).save_pretrained(str(tmp_path / "dropout"))
    with pytest.raises(UserError, match="config_kwargs changes num_hidden_layers of"):
        SentenceTransformer(str(tmp_path / "dropout"), device="cpu", config_kwargs=changed)


def test_query_expansion_needs_attention(base: str) -> None:
    module = make(base)[0]
    with pytest.raises(UserError, match='"attend": True'):
        module.query_expansion = {"strategy": "fixed", "length": 16, "token": "</s>"}
    assert module.query_expansion is None
    module.query_expansion = {"strategy": "fixed", "length": 16, "token": "</s>", "attend": True}
    assert module.query_expansion["length"] == 16
    module.query_expansion = None
    with pytest.raises(UserError, match='"attend": True'):
        make(base, query_expansion={"strategy": "fixed", "length": 16, "token": "</s>"})


def test_an_encoder_decoder(tmp_path: Path) -> None:
    T5Config().save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="is an encoder-decoder: choose a decoder such as BLOOM"):
        encoder(str(tmp_path))


def test_wrong_options(base: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="width 64 of .* is not a multiple of block size 256"):
        encoder(base)
    with pytest.raises(UserError, match='choose "exact" or "reference"'):
        BloomLoRA8bit(base, alibi="rotary", block_size=64)
    with pytest.raises(UserError, match="takes a BLOOM, got 'llama'"):
        BloomLoRA8bit(tiny.save(tmp_path / "llama", "llama"), block_size=64)
    with pytest.raises(UserError, match="saved as safetensors only"):
        make(base).save_pretrained(str(tmp_path / "x"), safe_serialization=False)
    with pytest.raises(UserError, match="8-bit blocks need torch"):
        BloomLoRA8bit(base, block_size=64, backend="onnx")


@pytest.mark.parametrize(("given", "expected"), [
    ("bfloat16", torch.bfloat16), ("torch.float16", torch.float16), ("auto", torch.float32),
    (torch.bfloat16, torch.bfloat16), (None, torch.float32),
])  # fmt: skip
def test_a_dtype_may_be_named(base: str, given: object, expected: torch.dtype) -> None:
    assert LoRA8bit(base, block_size=64, model_kwargs={"dtype": given}).model.ln_f.weight.dtype == expected


@pytest.mark.parametrize("given", ["bfloat17", "int8", torch.int8, "nn", 16])
def test_a_dtype_that_is_none(base: str, given: object) -> None:
    with pytest.raises(UserError, match='is no dtype to compute in: choose "float32"'):
        LoRA8bit(base, block_size=64, model_kwargs={"dtype": given})


def test_an_adapter_on_a_dequantised_base_comes_back_dequantised(base: str, tmp_path: Path) -> None:
    make(base, self_contained=True, lora_rank=0).save_pretrained(str(tmp_path / "stored"))
    model = make(str(tmp_path / "stored"), code=None)
    model.save_pretrained(str(tmp_path / "saved"))
    loaded = reload(tmp_path / "saved")
    assert type(loaded[0].model.h[0].self_attention.dense) is torch.nn.Linear
    np.testing.assert_array_equal(loaded.encode(SENTENCES), model.encode(SENTENCES))


@pytest.mark.parametrize(("rank", "self_contained"), [(0, False), (4, False), (4, True)])
def test_saving_after_dequantize(base: str, tmp_path: Path, rank: int, self_contained: bool) -> None:
    model = make(base, lora_rank=rank, self_contained=self_contained)
    expected = model.encode(SENTENCES)
    dequantize_(model)
    np.testing.assert_allclose(model.encode(SENTENCES), expected, atol=1e-6)
    model.save_pretrained(str(tmp_path / "saved"))
    np.testing.assert_allclose(reload(tmp_path / "saved").encode(SENTENCES), expected, atol=1e-6)


def test_a_pooler_is_left_out(tmp_path: Path) -> None:
    """Token embeddings do not pass through it: with it, sbert would hold and save weights that nothing trains."""
    with_pooler = encoder(tiny.save(tmp_path / "with", "bert"), code=None, lora_rank=0, device="cpu")
    assert not [name for name, _ in with_pooler.named_parameters() if "pooler" in name]
    stored = encoder(str(tmp_path / "with"), block_size=64, lora_rank=0, self_contained=True, device="cpu")
    stored.save_pretrained(str(tmp_path / "stored"))
    again = encoder(str(tmp_path / "stored"), code=None, lora_rank=0, device="cpu")
    np.testing.assert_allclose(again.encode(SENTENCES), stored.encode(SENTENCES), atol=1e-6)
