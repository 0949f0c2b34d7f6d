"""8-bit storage of bases that are not built of `nn.Linear` and `nn.Embedding` alone, or not initialised as others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from sentence_transformers import SentenceTransformer

from lacos_st import UserError, encoder

BASE = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
ALTERNATING = {**BASE, "num_hidden_layers": 4, "local_attention": 32, "global_attn_every_n_layers": 2}


def make(folder: str, **options: Any) -> SentenceTransformer:
    return encoder(folder, device="cpu", **{"block_size": 16, "lora_rank": 0, "max_seq_length": 60, **options})


@pytest.mark.parametrize("kind", ["modernbert", "modernbert-decoder"])
def test_a_base_that_initialises_its_layers_by_name(kind: str, tmp_path: Path) -> None:
    """Near the float model, and back from its folder as it was."""
    folder = tiny.save_kind(kind, ALTERNATING, tmp_path / "base")
    stored, plain = (make(folder, code=code).encode(tiny.SENTENCES) for code in ("dynamic", None))
    assert np.linalg.norm(stored - plain) < 0.05 * np.linalg.norm(plain)
    for self_contained in (False, True):
        model = make(folder, lora_rank=2, lora_targets="all-linear", self_contained=self_contained)
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
