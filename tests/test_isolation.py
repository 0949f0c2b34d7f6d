"""Architectures: those that are read in flat batches equal stock, those that would mix texts are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules.transformer import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

from lacos_st.encoders import encoder
from lacos_st.errors import UserError
from lacos_st.isolation import PROVEN

BASE = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = {**BASE, "num_key_value_heads": 2}
GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
EQUAL: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "phi", "phi3", "olmo2", "granite", "cohere", "starcoder2"), GROUPED),
    "qwen3": {**GROUPED, "head_dim": 16},
    "qwen3_moe": {**GROUPED, "head_dim": 16, **EXPERTS},
    "gemma": {**BASE, "num_key_value_heads": 1, "head_dim": 16},
    "gemma3_text": {**BASE, "num_key_value_heads": 1, "head_dim": 16, "query_pre_attn_scalar": 16},
    "smollm3": {**GROUPED, "num_hidden_layers": 4},
    "gpt_neox": BASE,
    "opt": {**BASE, "ffn_dim": 96, "word_embed_proj_dim": 64, "max_position_embeddings": 128},
    **dict.fromkeys(("gpt2", "gpt_bigcode"), GPT2),
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert"), {**BASE, "max_position_embeddings": 128}),
    "electra": {**BASE, "embedding_size": 32},
    "distilbert": {"dim": 64, "hidden_dim": 96, "n_layers": 2, "n_heads": 4},
    "modernbert": {**BASE, "num_hidden_layers": 4, "local_attention": 128, "global_attn_every_n_layers": 2},
}
MIXED: dict[str, dict[str, Any]] = {
    "mpnet": {**BASE, "max_position_embeddings": 128},
    "splinter": BASE,
    "deberta-v2": {**BASE, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "xglm": {"d_model": 64, "ffn_dim": 96, "num_layers": 2, "attention_heads": 4},
    "lfm2": {**GROUPED, "layer_types": ["conv", "full_attention"]},
    "mamba": {"hidden_size": 64, "num_hidden_layers": 2, "state_size": 8},
    "mpt": {"d_model": 64, "n_heads": 4, "n_layers": 2},
    "falcon": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    "codegen": {"n_embd": 64, "n_layer": 2, "n_head": 4, "rotary_dim": 8, "n_positions": 128},
}


def test_each_proven_decoder_is_compared() -> None:
    assert set(EQUAL) >= PROVEN


@pytest.mark.parametrize("kind", EQUAL)
def test_flat_batches_equal_stock(kind: str, tmp_path: Path) -> None:
    folder = tiny.save_kind(kind, EQUAL[kind], tmp_path)
    sentences = [sentence for sentence in tiny.SENTENCES if sentence] + ["the street " * 12]
    stock = Transformer(folder, max_seq_length=60)
    width = stock.get_embedding_dimension()
    alone = SentenceTransformer(modules=[stock, Pooling(width)], device="cpu").encode(sentences, batch_size=1)
    ours = encoder(folder, device="cpu", max_seq_length=60, lora_rank=0, code=None).encode(sentences)
    apart = np.linalg.norm(ours - alone, axis=1) / np.linalg.norm(alone, axis=1)
    assert apart.max() < 1e-4


@pytest.mark.parametrize("kind", MIXED)
def test_a_base_that_would_mix_texts_is_refused(kind: str, tmp_path: Path) -> None:
    folder = tiny.save_kind(kind, MIXED[kind], tmp_path)
    with pytest.raises(UserError, match=f"a base of type '{kind}' does not .*attention interface"):
        encoder(folder, device="cpu", max_seq_length=60, lora_rank=0, code=None)
