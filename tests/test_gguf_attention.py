"""What a GGUF file says of its attention: read as it was meant, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from sentence_transformers import SentenceTransformer
from transformers import PreTrainedModel

import lacos_st
from lacos_st.encoders import encoder
from lacos_st.errors import UserError
from lacos_st.gguf_attention import LAYERS_OF_27B
from lacos_st.loading import read_config

pytest.importorskip("gguf", reason="the gguf package is missing: pip install 'lacos_st[gguf]'")

from gguf_files import gemma, write  # noqa: E402

TEXTS = ["a man plays a guitar", "guitar", "the street is long and a man walks", "x"]


def written(model: PreTrainedModel, ours: SentenceTransformer) -> torch.Tensor:
    """Means of a model's last hidden states, a text at a time, of the tokens that ours reads: (len(TEXTS), H)."""
    with torch.no_grad():
        ids = [ours.preprocess([text])["input_ids"].reshape(1, -1) for text in TEXTS]
        return torch.stack([model(row).last_hidden_state[0].mean(0) for row in ids])


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_linear_rope_scaling_is_applied(architecture: str, tmp_path: Path) -> None:
    """Equal to the model that was written; Gemma 3's layers with a window keep their positions."""
    linear = {"rope_type": "linear", "factor": 8.0, "rope_theta": 10000.0}
    if architecture == "gemma3":
        linear = {"sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}, "full_attention": linear}
        model = gemma(layers=7, rope_parameters=linear)
    else:
        model = tiny.model(architecture, rope_parameters=linear)
    keys = {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0}
    file = write(tmp_path / "model.gguf", model, keys=keys)
    ours = encoder(str(file), lora_rank=0, code=None, device="cpu")
    assert ours[0].model.config.rope_parameters == linear
    np.testing.assert_allclose(ours.encode(TEXTS), written(model, ours), atol=2e-5)


@pytest.mark.parametrize(
    ("architecture", "rope"),
    [
        ("starcoder2", {"rope_type": "default", "rope_theta": 100.0}),
        ("phi3", {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5}),
    ],
)
def test_what_transformers_passes_over(architecture: str, rope: dict[str, Any], tmp_path: Path) -> None:
    """The base of the frequencies, the share of a head that turns, and Phi-3's window."""
    model = tiny.model(architecture, rope_parameters=rope)
    file = write(tmp_path / "model.gguf", model, pad=True, keys={"attention.sliding_window": 48})
    ours = encoder(str(file), lora_rank=0, code=None, device="cpu")
    assert ours[0].model.config.rope_parameters == rope
    assert ours[0].model.config.sliding_window == {"phi3": 48}.get(architecture)
    np.testing.assert_allclose(ours.encode(TEXTS), written(model, ours), atol=2e-5)


def test_gemmas_windows_are_where_the_file_has_them(tmp_path: Path) -> None:
    """And the base of RoPE in the layers that have one, which is another than that of the others."""
    base = {"rope_type": "default", "rope_theta": 10000.0}
    rope = {"sliding_attention": {**base, "rope_theta": 300.0}, "full_attention": base}
    kinds = ["sliding_attention", "full_attention"] * 2
    model = gemma(layers=4, layer_types=kinds, rope_parameters=rope)
    keys = {"attention.sliding_window_pattern": 2, "rope.freq_base_swa": 300.0}
    ours = encoder(str(write(tmp_path / "model.gguf", model, keys=keys)), lora_rank=0, code=None, device="cpu")
    assert (ours[0].model.config.layer_types, ours[0].model.config.rope_parameters) == (kinds, rope)
    np.testing.assert_allclose(ours.encode(TEXTS), written(model, ours), atol=2e-5)


@pytest.mark.parametrize(("layers", "scalar"), [(2, 32), (3, 16)])
def test_gemmas_scale_is_that_of_its_size(
    layers: int, scalar: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head's width; of the 27B, hidden size / heads: as llama.cpp has it."""
    monkeypatch.setitem(LAYERS_OF_27B, "gemma3_text", 3)
    model = gemma(layers=layers, hidden=64, query_pre_attn_scalar=scalar)
    ours = encoder(str(write(tmp_path / "model.gguf", model)), lora_rank=0, code=None, device="cpu")
    assert ours[0].model.config.query_pre_attn_scalar == scalar
    np.testing.assert_allclose(ours.encode(TEXTS), written(model, ours), atol=2e-5)


@pytest.mark.parametrize(
    "keys",
    [
        {"rope.scaling.type": "none", "rope.scaling.factor": 8.0},
        {"rope.scaling.type": "linear", "rope.scaling.factor": 0.0},
        {"attention.causal": True, "attention.scale": 0.25},
    ],
)
def test_keys_that_change_nothing(keys: dict[str, Any], tmp_path: Path) -> None:
    plain, named = (write(tmp_path / f"{len(k)}.gguf", tiny.model("llama"), keys=k) for k in ({}, keys))
    assert read_config(str(named)).rope_parameters == read_config(str(plain)).rope_parameters


@pytest.mark.parametrize(
    ("architecture", "keys", "said"),
    [
        ("llama", {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}, r"rope\.scaling\.type=yarn"),
        ("llama", {"rope.scaling.attn_factor": 1.5}, r"rope\.scaling\.attn_factor=1\.5"),
        ("llama", {"rope.scale_linear": -2.0}, r"rope\.scaling\.factor=-2\.0"),
        ("bloom", {"rope.scaling.factor": 4.0}, r"factor=4\.0, which transformers' bloom does not read"),
        ("llama", {"attention.scale": 0.5}, r"attention\.scale=0\.5"),
        ("llama", {"rope.freq_base_swa": 500.0}, r"rope\.freq_base_swa=500\.0"),
        ("starcoder2", {"rope.dimension_count": 8}, r"rope\.dimension_count=8"),
        ("llama", {"attention.sliding_window_pattern": 2}, r"sliding_window_pattern=2"),
        ("llama", {"attention.causal": False}, r"attention\.causal=False"),
    ],
)
def test_an_attention_that_transformers_would_not_read_is_refused(
    architecture: str, keys: dict[str, Any], said: str, tmp_path: Path
) -> None:
    file = write(tmp_path / "model.gguf", tiny.model(architecture), keys=keys)
    with pytest.raises(UserError, match=said):
        lacos_st.LoRA8bit(str(file), block_size=64)
