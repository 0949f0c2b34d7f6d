"""`embedding_device="cpu"`: the 8-bit token table stays in host memory, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from sentence_transformers import SentenceTransformer
from torch._subclasses.fake_tensor import FakeTensorMode

from lacos_st import UserError, dequantize_, encoder
from lacos_st.linear import Embedding8bit, Linear8bit, codes_hash, empty_8bit

SENTENCES = tiny.SENTENCES


def make(base: str, **options: object) -> SentenceTransformer:
    torch.manual_seed(0)
    model = encoder(base, device="cpu", block_size=64, **options)
    tiny.stir_(model)
    return model


def table(model: SentenceTransformer) -> Embedding8bit:
    (found,) = [layer for layer in model.modules() if isinstance(layer, Embedding8bit)]
    return found


def gradients(model: SentenceTransformer) -> list[torch.Tensor]:
    features = model[0].preprocess([sentence for sentence in SENTENCES if sentence])
    model.train()(features)["sentence_embedding"].square().sum().backward()
    return [parameter.grad for parameter in model.parameters() if parameter.requires_grad]


@pytest.mark.parametrize("architecture", ["bloom", "llama"])
def test_the_table_is_not_moved_and_all_else_is(architecture: str, tmp_path: Path) -> None:
    model = make(tiny.save(tmp_path, architecture), embedding_device="cpu")
    stays = {table(model).codes.data_ptr(), table(model).absmax.data_ptr()}
    asked: list[torch.Tensor] = []

    def move(tensor: torch.Tensor) -> torch.Tensor:
        asked.append(tensor)
        return tensor.clone()

    expected = model.encode(SENTENCES)
    tensors = [*model.parameters(), *model.buffers()]
    model._apply(move)
    assert {table(model).codes.data_ptr(), table(model).absmax.data_ptr()} == stays
    assert {id(tensor) for tensor in tensors} - {id(tensor) for tensor in asked} == {
        id(tensor) for tensor in tensors if tensor.numel() and tensor.data_ptr() in stays
    }
    assert any(".lora_embedding_A" in name for name, _ in model.named_parameters())
    np.testing.assert_array_equal(model.encode(SENTENCES), expected)


def test_codes_of_other_layers_and_of_a_table_without_the_option_move(tiny_bloom_dir: str) -> None:
    model = make(tiny_bloom_dir)
    model._apply(lambda tensor: tensor.to("meta"))
    assert table(model).codes.device.type == "meta"
    model = make(tiny_bloom_dir, embedding_device="cpu")
    model._apply(lambda tensor: tensor.to("meta"))
    assert table(model).codes.device.type == table(model).absmax.device.type == "cpu"
    layers = [layer for layer in model.modules() if isinstance(layer, Linear8bit)]
    assert layers
    assert {layer.codes.device.type for layer in layers} == {"meta"}
    assert table(model).compute_dtype_like.device.type == "meta"


def test_rows_arrive_where_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table on the CPU and tokens on a GPU that is not there: devices and dtypes, without values."""
    plain_empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, pin_memory=False, **k: plain_empty(*a, **k))  # no CUDA, no pinning
    monkeypatch.setattr("lacos_st.blockwise.code_table", lambda code, device: torch.zeros(256, device=device))
    with FakeTensorMode():
        stored = empty_8bit(torch.nn.Embedding(50, 64), block_size=32, code="dynamic", name="table")
        stored.on_host = True
        tokens = torch.zeros(2, 7, dtype=torch.int64, device="cuda")
        stored.half()
        values = stored(tokens)
    assert (values.device.type, values.dtype, tuple(values.shape)) == ("cuda", torch.float16, (2, 7, 64))


def test_embeddings_gradients_and_the_hash_are_the_same(tiny_bloom_dir: str) -> None:
    plain, kept = make(tiny_bloom_dir), make(tiny_bloom_dir, embedding_device="cpu")
    np.testing.assert_array_equal(kept.encode(SENTENCES), plain.encode(SENTENCES))
    assert codes_hash(kept) == codes_hash(plain)
    assert kept.state_dict().keys() == plain.state_dict().keys()
    ours, theirs = gradients(kept), gradients(plain)
    assert len(ours) == len(theirs)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    trained = dict(kept.named_parameters())
    (adapter,) = [trained[name] for name in trained if ".lora_embedding_B" in name]
    assert adapter.grad is not None and adapter.grad.abs().max() > 0


@pytest.mark.parametrize("self_contained", [False, True])
def test_round_trip(tiny_bloom_dir: str, tmp_path: Path, self_contained: bool) -> None:
    model = make(tiny_bloom_dir, embedding_device="cpu", self_contained=self_contained)
    model.save_pretrained(str(tmp_path))
    again = SentenceTransformer(str(tmp_path), device="cpu")
    assert again[0].embedding_device == "cpu"
    assert table(again).on_host
    np.testing.assert_array_equal(again.encode(SENTENCES), model.encode(SENTENCES))


def test_a_dequantised_model_is_saved_without_the_option(tiny_bloom_dir: str, tmp_path: Path) -> None:
    model = make(tiny_bloom_dir, embedding_device="cpu", self_contained=True)
    dequantize_(model)
    model.save_pretrained(str(tmp_path))
    again = SentenceTransformer(str(tmp_path), device="cpu")
    assert (again[0].embedding_device, again[0].code) == (None, None)
    np.testing.assert_allclose(again.encode(SENTENCES), model.encode(SENTENCES), atol=1e-6)


def test_what_cannot_stay_is_refused(tiny_bloom_dir: str) -> None:
    with pytest.raises(UserError, match="embedding_device='cuda': expected \"cpu\""):
        make(tiny_bloom_dir, embedding_device="cuda")
    with pytest.raises(UserError, match="stored in 8 bits, this one is a Embedding"):
        make(tiny_bloom_dir, embedding_device="cpu", code=None, lora_rank=0)
    with pytest.raises(UserError, match="do not skip it"):
        make(tiny_bloom_dir, embedding_device="cpu", skip=["word_embeddings"])
