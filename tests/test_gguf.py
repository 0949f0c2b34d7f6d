"""Bases in GGUF files: equal to transformers' own loading, in little memory, and saved models that remember them."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer, PreTrainedModel

import lacos_st
from lacos_st import gguf
from lacos_st.embedded import resolve
from lacos_st.encoders import encoder
from lacos_st.errors import UserError
from lacos_st.gguf_header import read_header
from lacos_st.linear import Embedding8bit
from lacos_st.loading import read_config, read_tokenizer
from lacos_st.models import describe, load_model
from lacos_st.stored import Stored8bit

gguf_package = pytest.importorskip("gguf", reason="the gguf package is missing: pip install 'lacos_st[gguf]'")

from gguf_files import gemma, write  # noqa: E402

KINDS = gguf_package.GGMLQuantizationType
TEXTS = ["a man plays a guitar", "guitar", "the street is long and a man walks", "x", "a man"]
TEMPLATE = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}"


def model_of(architecture: str) -> PreTrainedModel:
    return gemma() if architecture == "gemma3" else tiny.model(architecture)


@pytest.fixture(scope="session")
def llama_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quantised tiny Llama with a chat template and no padding token, to be read only."""
    file = tmp_path_factory.mktemp("gguf") / "tiny-llama.gguf"
    return write(file, tiny.model("llama"), kind=KINDS.Q8_0, chat_template=TEMPLATE)


def stock_means(file: Path, texts: list[str]) -> np.ndarray[Any, Any]:
    """Mean of the stock model's last hidden states over each text's tokens, a text at a time: no padding at all."""
    model = AutoModel.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    for layer in model.layers if model.config.model_type == "gemma3_text" else ():
        layer.self_attn.scaling = layer.self_attn.head_dim**-0.5  # stock has 256 for each: see `gguf_attention`
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    with torch.no_grad():
        rows = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0) for text in texts]
    return torch.stack(rows).numpy()


@pytest.mark.parametrize("architecture", ["llama", "bloom", "gemma3"])
def test_a_float_file_gives_the_model_that_was_written(architecture: str, tmp_path: Path) -> None:
    """Names and layouts: what llama.cpp's converter turned is turned back, bit for bit."""
    model = model_of(architecture)
    file = write(tmp_path / "model.gguf", model)
    loaded = encoder(str(file), lora_rank=0, code=None, device="cpu")[0].model
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.allclose(loaded.state_dict()[name], tensor, rtol=0, atol=1e-6), name


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
@pytest.mark.parametrize("kind", [KINDS.Q8_0, KINDS.Q4_1, KINDS.F16])
def test_text_embeds_as_the_stock_model_does(architecture: str, kind: Any, tmp_path: Path) -> None:
    """Plain text, though the file has a chat template; mean pooling."""
    file = write(tmp_path / "model.gguf", model_of(architecture), kind=kind, chat_template=TEMPLATE)
    ours = encoder(str(file), lora_rank=0, code=None, device="cpu").encode(TEXTS, batch_size=3)
    np.testing.assert_allclose(ours, stock_means(file, TEXTS), atol=2e-5)


def test_bloom_embeds_as_the_stock_model_does(tmp_path: Path) -> None:
    file = write(tmp_path / "model.gguf", tiny.model("bloom"), kind=KINDS.Q8_0)
    ours = encoder(str(file), lora_rank=0, code=None, device="cpu").encode(TEXTS, batch_size=3)
    np.testing.assert_allclose(ours, stock_means(file, TEXTS), atol=2e-5)


def test_a_chat_template_is_used_when_asked_for_and_kept(llama_file: Path, tmp_path: Path) -> None:
    plain = encoder(str(llama_file), block_size=64, lora_rank=2, device="cpu")
    asked = encoder(str(llama_file), block_size=64, lora_rank=2, chat_template=True, device="cpu")
    lengths = [int(model.preprocess(["a man"])["cu_seq_lens_q"][-1]) for model in (plain, asked)]
    assert lengths[1] > lengths[0]
    wrapped = asked.encode(["a man"])
    assert not np.allclose(plain.encode(["a man"]), wrapped)
    np.testing.assert_allclose(plain.encode(["<|user|>a man"]), wrapped, atol=1e-6)
    for name, model in (("plain", plain), ("asked", asked)):
        model.save_pretrained(str(tmp_path / name))
        again = SentenceTransformer(str(tmp_path / name), device="cpu")
        assert np.array_equal(again.encode(TEXTS), model.encode(TEXTS)), name


@pytest.mark.parametrize("architecture", ["llama", "bloom", "gemma3"])
def test_8_bit_layers_hold_the_codes_of_the_float_weights(architecture: str, tmp_path: Path) -> None:
    from lacos_st.blockwise import quantize

    file = write(tmp_path / "model.gguf", model_of(architecture), kind=KINDS.Q8_0)
    floats = encoder(str(file), lora_rank=0, code=None, device="cpu")[0].model
    stored = encoder(str(file), lora_rank=0, block_size=32, device="cpu")[0].model
    layers = {name: layer for name, layer in stored.named_modules() if isinstance(layer, Stored8bit)}
    assert any(isinstance(layer, Embedding8bit) for layer in layers.values())
    assert len(layers) == sum(parameter.ndim == 2 for parameter in floats.parameters())
    for name, layer in layers.items():
        codes, absmax = quantize(floats.get_submodule(name).weight.detach(), block_size=32, code="dynamic", name=name)
        assert torch.equal(layer.codes, codes), name
        assert torch.equal(layer.absmax, absmax), name


def test_gemma_scales_its_embedding_in_8_bits_too(tmp_path: Path) -> None:
    file = write(tmp_path / "model.gguf", gemma(), kind=KINDS.Q8_0)
    model = encoder(str(file), lora_rank=2, block_size=32, device="cpu")
    tiny.stir_(model[0])
    floats = encoder(str(file), lora_rank=0, code=None, device="cpu").encode(TEXTS)
    bare = encoder(str(file), lora_rank=0, block_size=32, device="cpu").encode(TEXTS)
    assert np.abs(bare - floats).max() < 0.05 * np.abs(floats).max()
    model.save_pretrained(str(tmp_path / "saved"))
    again = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert np.array_equal(again.encode(TEXTS), model.encode(TEXTS))


@pytest.mark.parametrize("self_contained", [False, True])
def test_a_saved_model_remembers_its_file(self_contained: bool, llama_file: Path, tmp_path: Path) -> None:
    model = encoder(str(llama_file), block_size=64, lora_rank=2, self_contained=self_contained, device="cpu")
    tiny.stir_(model[0])
    wanted = model.encode(TEXTS)
    model.save_pretrained(str(tmp_path / "saved"))
    manifest = json.loads((tmp_path / "saved/lacos.json").read_text())
    assert manifest["base"] == describe(model)["base"] == str(llama_file)
    assert manifest["self_contained"] is self_contained
    assert (tmp_path / "saved/model.safetensors").exists() is self_contained
    assert str(gguf.tokenizer_folder(str(llama_file))) not in (tmp_path / "saved/README.md").read_text()
    again = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert np.array_equal(again.encode(TEXTS), wanted)
    assert describe(again)["base"] == str(llama_file)


def test_another_file_in_the_place_of_the_base_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "base.gguf", tiny.model("llama"))
    encoder(str(file), block_size=64, lora_rank=2, device="cpu").save_pretrained(str(tmp_path / "saved"))
    moved = file.rename(tmp_path / "elsewhere.gguf")
    with pytest.raises(UserError, match="no such GGUF file.*"):
        SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    SentenceTransformer(str(tmp_path / "saved"), device="cpu", model_kwargs={"base": str(moved)})
    write(file, tiny.model("llama"), chat_template=TEMPLATE)  # the same weights, other metadata
    with pytest.raises(UserError, match="hash"):
        SentenceTransformer(str(tmp_path / "saved"), device="cpu")


def test_a_trained_float_model_is_saved_whole(llama_file: Path, tmp_path: Path) -> None:
    model = encoder(str(llama_file), lora_rank=0, code=None, device="cpu")
    tiny.stir_(model[0])
    model.save_pretrained(str(tmp_path / "saved"))
    again = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert np.array_equal(again.encode(TEXTS), model.encode(TEXTS))


@pytest.mark.parametrize("pad", [False, True])
def test_padding(pad: bool, tmp_path: Path) -> None:
    """Whoever pads does it on the right, with a token that is there."""
    file = write(tmp_path / "model.gguf", tiny.model("llama"), pad=pad)
    tokenizer = read_tokenizer(str(file))
    assert tokenizer.padding_side == "right"
    assert tokenizer.pad_token == ("<pad>" if pad else "</s>")
    module = lacos_st.LoRA8bit(str(file), block_size=64)
    batch = module.tokenizer(TEXTS[:2], padding=True, return_tensors="pt")
    padded = module({**batch})["token_embeddings"]
    alone = module({**module.tokenizer(TEXTS[1:2], return_tensors="pt")})["token_embeddings"]
    assert batch["attention_mask"][1].tolist() == sorted(batch["attention_mask"][1].tolist(), reverse=True)
    torch.testing.assert_close(padded[1, : alone.shape[1]], alone[0])


def test_ways_to_name_a_file(llama_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, name = str(llama_file.parent), llama_file.name
    monkeypatch.chdir(llama_file.parent)
    for base, options in ((folder, {}), (name, {}), (folder, {"model_kwargs": {"gguf_file": name}}), (".", {})):
        module = lacos_st.LoRA8bit(base, block_size=64, **options)
        assert module.model.config.model_type == "llama"
        assert Path(resolve(module.base_name)) == llama_file
    assert load_model(folder, device="cpu").encode("x").shape == (64,)


def test_a_folder_with_a_model_is_no_gguf_folder(tmp_path: Path) -> None:
    tiny.save(tmp_path)
    write(tmp_path / "other.gguf", tiny.model("llama"))
    assert resolve(str(tmp_path)) == str(tmp_path)
    assert read_config(str(tmp_path)).model_type == "bloom"


def test_several_files_in_a_folder(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.GGUF"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"holds 2 GGUF files \(a.gguf, b.GGUF\): name one of them"):
        lacos_st.LoRA8bit(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere.gguf", "no such GGUF file"),
        ("owner/../x.gguf", "no such GGUF file"),
        ("/nowhere/at/all.gguf", "no such GGUF file"),
        ("owner/name/file.gguf", "none of the hub that can be reached"),
    ],
)
def test_a_file_that_is_not_there(name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        lacos_st.LoRA8bit(name)


@pytest.mark.parametrize("part", [0, 4, 100, 3000, -5000])
def test_a_damaged_file(part: int, llama_file: Path, tmp_path: Path) -> None:
    """Empty, cut after so many bytes (from the end, where negative)."""
    (tmp_path / "cut.gguf").write_bytes(llama_file.read_bytes()[:part])
    with pytest.raises(UserError, match=r"cut\.gguf"):
        lacos_st.LoRA8bit(str(tmp_path / "cut.gguf"), block_size=64)


def test_the_header_is_that_of_the_gguf_package(llama_file: Path) -> None:
    reader = gguf_package.GGUFReader(llama_file)
    header = read_header(llama_file)
    assert header.architecture == "llama"
    scalars = {
        key: field.contents()
        for key, field in reader.fields.items()
        if gguf_package.GGUFValueType.ARRAY != field.types[0]
    }
    assert {key: value for key, value in header.fields.items() if value is not None}.items() <= scalars.items()
    assert header.fields["llama.rope.freq_base"] == 10000.0
    wanted = [
        (each.name, tuple(reversed(each.shape.tolist())), each.tensor_type, each.data_offset) for each in reader.tensors
    ]
    assert [(each.name, each.shape, each.kind, each.start) for each in header.tensors] == wanted


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 3000), value=st.integers(0, 255))
def test_a_changed_byte_is_an_error_or_another_file(place: int, value: int, llama_file: Path, tmp_path: Path) -> None:
    """Never anything else, however large the number that it makes."""
    content = bytearray(llama_file.read_bytes())
    content[place] = value
    (tmp_path / "changed.gguf").write_bytes(content)
    with suppress(ValueError):
        assert all(tensor.values >= 0 for tensor in read_header(tmp_path / "changed.gguf").tensors)


def test_text_in_the_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("no model at all\n" * 100)
    with pytest.raises(UserError, match=r"text\.gguf cannot be read"):
        lacos_st.LoRA8bit(str(tmp_path / "text.gguf"))


def test_tensors_without_a_place_are_refused(tmp_path: Path) -> None:
    extra = {"rope_freqs.weight": np.ones(8, dtype=np.float32)}
    file = write(tmp_path / "model.gguf", tiny.model("llama"), extra=extra)
    with pytest.raises(UserError, match=r"rope_freqs\.weight, which transformers' llama has no place for"):
        lacos_st.LoRA8bit(str(file), block_size=64)


def test_a_head_is_left_out(tmp_path: Path) -> None:
    head = np.zeros((tiny.VOCABULARY, 64), dtype=np.float32)
    file = write(tmp_path / "model.gguf", tiny.model("llama"), extra={"output.weight": head})
    assert lacos_st.LoRA8bit(str(file), block_size=64).get_embedding_dimension() == 64


def test_a_block_size_that_does_not_fit(llama_file: Path) -> None:
    with pytest.raises(UserError, match="not a multiple of block size 48"):
        lacos_st.LoRA8bit(str(llama_file), block_size=48)


def test_without_the_package(llama_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    gguf._config.cache_clear()
    with pytest.raises(UserError, match=r"pip install 'lacos_st\[gguf\]'"):
        read_config(str(llama_file))


def test_train_and_evaluate(llama_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A run on a GGUF base, resumable, and its model."""
    from lacos_st.settings import TrainConfig
    from lacos_st.training import train

    rows = [f"{TEXTS[place % 3]} {place}\t{TEXTS[place % 3 + 1]} {place}" for place in range(24)]
    (tmp_path / "pairs.tsv").write_text("\n".join(rows) + "\n")
    options: dict[str, Any] = {"base": str(llama_file.parent), "data": [str(tmp_path / "pairs.tsv")]}
    options |= {"output": str(tmp_path / "run"), "block_size": 64, "max_steps": 2, "batch_size": 4, "cpu": True}
    with caplog.at_level(logging.INFO):
        result = train(TrainConfig.from_mapping({**options, "eval_rows": 0, "progress": False, "eval_steps": 1}))
    model = load_model(str(result.model_path), device="cpu")
    assert np.isfinite(model.encode(TEXTS)).all()
    assert Path(resolve(json.loads((Path(result.model_path) / "lacos.json").read_text())["base"])) == llama_file


CHILD = """
import sys
import numpy, torch
torch.set_num_threads(1)
from sentence_transformers import SentenceTransformer
import lacos_st
from lacos_st.loading import load_base, read_config
from lacos_st.quantizer import Blockwise8bitConfig
large, saved, texts, embeddings = sys.argv[1:]
numpy.save(embeddings, SentenceTransformer(saved, device="cpu").encode(texts.split("|")))
config = read_config(large)
def status(name):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024
with open("/proc/self/clear_refs", "w") as reset:
    reset.write("5")
before = status("VmRSS")
model = load_base(large, config, quantization=Blockwise8bitConfig(block_size=32), dtype=torch.float32).model
print(status("VmHWM") - before, sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers())))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux's /proc")
def test_a_process_of_its_own(tmp_path: Path) -> None:
    """A saved adapter embeds there as it did here; and a load holds the codes, one layer as floats and a little more.

    Never the floats of the whole model. Both in one process, for it takes seconds to start.
    """
    small = encoder(str(write(tmp_path / "small.gguf", gemma())), block_size=32, lora_rank=2, device="cpu")
    tiny.stir_(small[0])
    small.save_pretrained(str(tmp_path / "saved"))
    model = gemma(hidden=512, layers=6, feed_forward=2048, vocabulary=8000)
    floats = 4 * sum(parameter.numel() for parameter in model.parameters())
    large = write(tmp_path / "large.gguf", model, kind=KINDS.F16)
    with large.open("rb") as written:
        os.fsync(written.fileno())  # only clean pages can be given back
    given = [str(large), str(tmp_path / "saved"), "|".join(TEXTS), str(tmp_path / "embeddings.npy")]
    done = subprocess.run([sys.executable, "-c", CHILD, *given], capture_output=True, text=True, check=True)
    assert np.array_equal(np.load(tmp_path / "embeddings.npy"), small.encode(TEXTS))
    peak, held = map(int, done.stdout.split()[-2:])
    assert held < 0.3 * floats
    assert peak < held + 24 * 2**20 < 0.6 * floats, (peak, held, floats)
