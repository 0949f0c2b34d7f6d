"""8-bit storage of bases that are not built of `nn.Linear` and `nn.Embedding` alone, or not initialised as others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from sentence_transformers import SentenceTransformer

from lacos_st import UserError, encoder
from lacos_st.export.options import ExportOptions
from lacos_st.export.run import export_model
from lacos_st.stored import Stored8bit

BASE = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128}
MIXTRAL = {**BASE, "num_key_value_heads": 2, "num_local_experts": 4}
EXPERTS = {**BASE, "num_key_value_heads": 2, "head_dim": 16, "num_experts": 8, "moe_intermediate_size": 64}
ALTERNATING = {**BASE, "num_hidden_layers": 4, "local_attention": 32, "global_attn_every_n_layers": 2}


def make(folder: str, **options: Any) -> SentenceTransformer:
    return encoder(folder, device="cpu", **{"block_size": 16, "lora_rank": 0, "max_seq_length": 60, **options})


@pytest.mark.parametrize(
    ("kind", "options"), [("modernbert", ALTERNATING), ("modernbert-decoder", ALTERNATING), ("biogpt", BASE)]
)
def test_a_base_with_layers_of_its_own(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    """ModernBERT initialises layers by name, BioGPT scales its embedding: near the float model, and back as it was."""
    folder = tiny.save_kind(kind, options, tmp_path / "base")
    stored, plain = (make(folder, code=code).encode(tiny.SENTENCES) for code in ("dynamic", None))
    assert np.linalg.norm(stored - plain) < 0.05 * np.linalg.norm(plain)
    for self_contained in (False, True):
        model = make(folder, lora_rank=2, lora_targets="recipe", self_contained=self_contained)
        tiny.stir_(model)
        model.eval().save_pretrained(str(tmp_path / f"{self_contained}"))
        loaded = SentenceTransformer(str(tmp_path / f"{self_contained}"), device="cpu")
        assert np.array_equal(loaded.encode(tiny.SENTENCES), model.encode(tiny.SENTENCES))


@pytest.mark.parametrize("rank", [0, 2])
def test_a_base_of_which_no_float_weight_would_be_left(rank: int, tmp_path: Path) -> None:
    folder = tiny.save_kind("olmo", BASE, tmp_path / "base")
    with pytest.raises(UserError, match=r"no float weight .* skip=\['layers\.0\.self_attn\.q_proj'\]"):
        make(folder, lora_rank=rank)
    model = make(folder, lora_rank=rank, skip=["layers.0.self_attn.q_proj"])
    model.save_pretrained(str(tmp_path / "saved"))
    loaded = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert np.array_equal(loaded.encode(tiny.SENTENCES), model.encode(tiny.SENTENCES))


@pytest.mark.parametrize(
    ("kind", "options", "named"),
    [
        ("gpt2", GPT2, "Conv1D 98,304, Embedding 8,192"),
        ("mixtral", MIXTRAL, "MixtralExperts 147,456"),
        ("qwen3_moe", EXPERTS, "Qwen3MoeExperts 196,608"),
        ("llama", BASE, None),
    ],
)
def test_a_base_that_stays_mostly_float_says_so(
    kind: str, options: dict[str, Any], named: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Once a load, with counts; not for float weights, which nobody wanted stored."""
    folder = tiny.save_kind(kind, options, tmp_path / "base")
    make(folder, code=None)
    assert not caplog.records
    model = make(folder)[0].model
    said = [record.getMessage() for record in caplog.records if record.name == "lacos_st.loading"]
    assert len(said) == (named is not None)
    if named is not None:
        stored = sum(layer.codes.numel() for layer in model.modules() if isinstance(layer, Stored8bit))
        left = sum(weight.numel() for weight in model.parameters() if weight.ndim > 1)
        assert f"of the {stored + left:,} values" in said[0] and f"only {stored:,} are stored" in said[0]
        assert named in said[0]


@pytest.mark.parametrize("targets", ["paper", "recipe", "all-linear"])
def test_lora_on_the_linear_layers_of_a_base_without(targets: str, tmp_path: Path) -> None:
    folder = tiny.save_kind("gpt2", GPT2, tmp_path / "base")
    with pytest.raises(UserError, match="has no linear layers"):
        make(folder, lora_rank=2, lora_targets=targets)
    assert make(folder, lora_rank=2, lora_targets=["wte"]).encode(["a man"]).shape == (1, 64)


def test_texts_are_no_longer_than_a_chunk_of_attention(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Llama 4's tokens see those of their chunk alone, in most layers."""
    sizes = {"num_hidden_layers": 4, "num_key_value_heads": 2, "head_dim": 16, "intermediate_size_mlp": 96}
    options = {**BASE, **sizes, "moe_layers": [], "attention_chunk_size": 8}
    model = make(tiny.save_kind("llama4_text", options, tmp_path), code=None)
    assert model.max_seq_length == 8
    assert "texts are cut after 8 tokens" in caplog.text
    model.max_seq_length = 20
    with pytest.raises(UserError, match="window of 8 tokens"):
        model.encode(["the street is long and a man walks " * 2])


OPT = {**BASE, "ffn_dim": 96, "word_embed_proj_dim": 64, "max_position_embeddings": 128}


@pytest.mark.parametrize("format", ["merged", "adapter"])
@pytest.mark.parametrize(("kind", "options"), [("opt", OPT), ("biogpt", BASE), ("roberta", BASE)])
def test_a_base_whose_positions_begin_later_is_exported(
    kind: str, options: dict[str, Any], format: Any, tmp_path: Path
) -> None:
    """OPT's and BioGPT's table of positions adds 2 by itself, RoBERTa's model does."""
    model = make(tiny.save_kind(kind, options, tmp_path / "base"), lora_rank=2, lora_targets="recipe")
    tiny.stir_(model)
    model.eval().save_pretrained(str(tmp_path / "saved"))
    done = export_model(ExportOptions(str(tmp_path / "saved"), str(tmp_path / "out"), format=format, dtype="float32"))
    assert done.fidelity.float32 > (0.9999 if done.weights == "trained" else 0.99)
    if format == "merged":
        found = SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(["a man", "guitar"], batch_size=1)
        np.testing.assert_allclose(found, model.encode(["a man", "guitar"]), atol=1e-4)
