"""Tiny random models and a tokenizer, made in memory: what every test of the modules starts from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    BertConfig,
    BertModel,
    BloomConfig,
    BloomModel,
    GPTNeoXConfig,
    GPTNeoXModel,
    LlamaConfig,
    LlamaModel,
    Phi3Config,
    Phi3Model,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Starcoder2Config,
    Starcoder2Model,
)

from lacos_st.seal import SEAL_FILE, add_to_seal, write_seal

VOCABULARY = 400
SENTENCES = ["a man plays a guitar", "guitar", "", "the street is long and a man walks", "x", "दो बच्चे"]

ARCHITECTURES: dict[str, tuple[type[PreTrainedConfig], type[PreTrainedModel], dict[str, int]]] = {
    "bloom": (BloomConfig, BloomModel, {"n_layer": 2, "n_head": 4}),
    "bert": (BertConfig, BertModel, {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}),
    "llama": (
        LlamaConfig,
        LlamaModel,
        {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128},
    ),
    "gpt_neox": (
        GPTNeoXConfig,
        GPTNeoXModel,
        {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128},
    ),
    "starcoder2": (
        Starcoder2Config,
        Starcoder2Model,
        {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128},
    ),
    "phi3": (
        Phi3Config,
        Phi3Model,
        {
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 128,
            "pad_token_id": 0,
        },
    ),
}


def tokenizer(*, chat_template: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most VOCABULARY entries, with <pad> and </s>."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(SENTENCES * 3, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="</s>")
    if chat_template:
        fast.chat_template = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}"
    return fast


def model(
    architecture: str = "bloom", *, hidden: int = 64, seed: int = 0, std: float = 0.1, **more: Any
) -> PreTrainedModel:
    """A random float32 model of two layers, its weights large enough that attention matters; `more` of its config."""
    config_class, model_class, sizes = ARCHITECTURES[architecture]
    options = {**sizes, **more}
    if architecture != "bloom":
        options["max_position_embeddings"] = 64
    torch.manual_seed(seed)
    made = model_class(config_class(vocab_size=VOCABULARY, hidden_size=hidden, **options))
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, 0.0 if parameter.ndim > 1 else 0.5, std)
    return made.eval()


def save(folder: Path, architecture: str = "bloom", *, chat_template: bool = False, seed: int = 0) -> str:
    """Write `model` and `tokenizer` as a base in transformers' layout, and return the folder's name."""
    model(architecture, seed=seed).save_pretrained(folder)
    tokenizer(chat_template=chat_template).save_pretrained(folder)
    return str(folder)


def save_kind(kind: str, options: dict[str, Any], folder: Path) -> str:
    """Write a random base of a `model_type` of transformers and the tokenizer, and return the folder's name."""
    fast = tokenizer()
    fast.model_max_length = 100
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    ids = {"pad_token_id": 0, **dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 1)}
    made = AutoModel.from_config(AutoConfig.for_model(kind, **{"vocab_size": len(fast), **ids, **options}))
    for weight in made.parameters():
        weight.data.add_(0.1 * torch.randn_like(weight))
    made.save_pretrained(folder)
    return str(folder)


def stir_(module: torch.nn.Module, *, seed: int = 1) -> None:
    """Give trainable weights random values, so that a fresh LoRA (which adds zero) does something."""
    torch.manual_seed(seed)
    for parameter in module.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, 0.0, 0.05)


def reseal(folder: Path) -> Path:
    """Make the seal of a damaged model fit again, so that what lies behind it has to notice the damage."""
    first, *others = json.loads((folder / SEAL_FILE).read_text())["modules"].items()
    write_seal(folder, module=first[1])
    for name, module in others:
        add_to_seal(folder / name, module=module)
    return folder
