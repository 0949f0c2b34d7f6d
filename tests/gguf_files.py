"""Tiny GGUF files, written with the gguf package as llama.cpp's converter writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import tiny
import torch
from transformers import Gemma3TextConfig, Gemma3TextModel, PreTrainedModel

BLOCK_NAMES = {
    "llama": {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    },
    "bloom": {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attention.query_key_value": "attn_qkv",
        "self_attention.dense": "attn_output",
        "mlp.dense_h_to_4h": "ffn_up",
        "mlp.dense_4h_to_h": "ffn_down",
    },
}
BLOCK_NAMES["starcoder2"] = BLOCK_NAMES["llama"] | {"mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}
BLOCK_NAMES["phi3"] = BLOCK_NAMES["llama"] | {"self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up"}
BLOCK_NAMES["gemma3"] = BLOCK_NAMES["llama"] | {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
}
OUTER_NAMES = {
    "embed_tokens": "token_embd",
    "word_embeddings": "token_embd",
    "word_embeddings_layernorm": "token_embd_norm",
    "norm": "output_norm",
    "ln_f": "output_norm",
}
"""llama.cpp's names of transformers' layers; `gguf.get_tensor_name_map` is the same the other way round."""


def gemma(
    *, hidden: int = 64, layers: int = 2, feed_forward: int = 128, vocabulary: int = tiny.VOCABULARY, **more: Any
) -> PreTrainedModel:
    """A random Gemma 3 whose heads are wider than hidden / heads, as the real 270M's are."""
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=32,
        intermediate_size=feed_forward,
        max_position_embeddings=64,
        sliding_window=64,
        **{"query_pre_attn_scalar": 32, **more},
    )
    made = Gemma3TextModel(config)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.1)
    return made.eval()


def write(
    file: Path,
    model: PreTrainedModel,
    *,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    chat_template: str | None = None,
    pad: bool = False,
    extra: dict[str, np.ndarray[Any, Any]] | None = None,
    keys: dict[str, Any] | None = None,
) -> Path:
    """Write `model` and the tiny tokenizer.

    Args:
        file: to be written.
        model: a tiny Llama, BLOOM, Gemma 3, StarCoder2 or Phi-3.
        kind: of its matrices, where a width lets it; other tensors are float32, as with llama.cpp.
        chat_template: of the tokenizer.
        pad: whether the file names a padding token.
        extra: more tensors.
        keys: more values (text, bool, float or int), without the architecture's name before them.
    """
    config: Any = model.config
    architecture = {"gemma3_text": "gemma3"}.get(config.model_type, config.model_type)
    writer = gguf.GGUFWriter(str(file), architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_head_count(config.num_attention_heads)
    if architecture == "bloom":
        writer.add_context_length(64)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
    else:
        writer.add_context_length(config.max_position_embeddings)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count_kv(config.num_key_value_heads)
        if architecture == "starcoder2":
            writer.add_layer_norm_eps(config.norm_epsilon)
        else:
            writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_freq_base(_rope(config).get("rope_theta", 10000.0))
    if architecture == "llama":
        writer.add_rope_dimension_count(config.head_dim)
        writer.add_vocab_size(config.vocab_size)
    if architecture == "phi3":
        head_dim = config.hidden_size // config.num_attention_heads
        writer.add_rope_dimension_count(int(head_dim * _rope(config)["partial_rotary_factor"]))
    if architecture == "gemma3":
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
        writer.add_sliding_window(config.sliding_window)
    for key, value in (keys or {}).items():
        add = {str: writer.add_string, bool: writer.add_bool, float: writer.add_float32, int: writer.add_uint32}[
            type(value)
        ]
        add(f"{architecture}.{key}", value)
    _add_tokenizer(writer, chat_template=chat_template, pad=pad, entries=config.vocab_size)
    for name, tensor in model.state_dict().items():
        values = _as_llama_cpp(name, tensor.float().numpy(), config, architecture)
        fits = values.ndim == 2 and values.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] == 0
        stored = kind if fits else gguf.GGMLQuantizationType.F32
        data = np.ascontiguousarray(gguf.quantize(np.ascontiguousarray(values), stored))
        writer.add_tensor(_name(name, architecture), data, raw_dtype=stored)
    for name, values in (extra or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _rope(config: Any) -> dict[str, Any]:
    """The parameters of RoPE, where they are the same in all layers."""
    return {} if config.model_type == "gemma3_text" else config.rope_parameters


def _name(name: str, architecture: str) -> str:
    stem, _, ending = name.rpartition(".")
    parts = stem.split(".")
    if parts[0] in ("layers", "h"):
        return f"blk.{parts[1]}.{BLOCK_NAMES[architecture]['.'.join(parts[2:])]}.{ending}"
    return f"{OUTER_NAMES[stem]}.{ending}"


def _as_llama_cpp(name: str, values: np.ndarray[Any, Any], config: Any, architecture: str) -> np.ndarray[Any, Any]:
    """The changes that llama.cpp's convert_hf_to_gguf.py makes to a tensor's layout."""
    if architecture == "llama" and (".q_proj." in name or ".k_proj." in name):
        heads = config.num_attention_heads if ".q_proj." in name else config.num_key_value_heads
        return (
            values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
            .swapaxes(1, 2)
            .reshape(values.shape)
        )
    if architecture == "gemma3" and name.endswith("norm.weight"):
        return values + 1
    if architecture == "bloom" and "query_key_value" in name:
        parts = values.reshape(config.n_head, 3, -1, *values.shape[1:])
        return np.concatenate([parts[:, place].reshape(-1, *values.shape[1:]) for place in range(3)])
    return values


def _add_tokenizer(writer: Any, *, chat_template: str | None, pad: bool, entries: int) -> None:
    """The byte-level tokenizer of `tiny`; Gemma's is a sentencepiece vocabulary of single characters."""
    if writer.arch == "gemma3":
        special = ["<pad>", "</s>", "<bos>", "<unk>"]
        vocabulary = [*special, *"\u2581abcdefghijklmnopqrstuvwxyz<>|"]
        writer.add_tokenizer_model("llama")
        writer.add_token_scores([-float(place) for place in range(entries)])
        writer.add_unk_token_id(3)
    else:
        fast = json.loads(tiny.tokenizer().backend_tokenizer.to_str())
        special = ["<pad>", "</s>"]
        vocabulary = sorted(fast["model"]["vocab"], key=fast["model"]["vocab"].__getitem__)
        merges = [" ".join(merge) if isinstance(merge, list) else merge for merge in fast["model"]["merges"]]
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_merges(merges)
    vocabulary += [f"<unused{place}>" for place in range(entries - len(vocabulary))]
    is_text = [entry not in special and not entry.startswith("<unused") for entry in vocabulary]
    writer.add_token_list(vocabulary)
    writer.add_token_types([gguf.TokenType.NORMAL if text else gguf.TokenType.CONTROL for text in is_text])
    writer.add_bos_token_id(2 if writer.arch == "gemma3" else 1)
    writer.add_eos_token_id(1)
    if pad:
        writer.add_pad_token_id(0)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
