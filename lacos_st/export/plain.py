"""A plain sentence-transformers folder: everything but the weights of a saved model, in stock modules."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.base.modules.transformer import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import AutoTokenizer, PreTrainedConfig

from lacos_st.export.saved import OPTIONS_FILE, POOLING, SavedModel
from lacos_st.folder import read_json
from lacos_st.unfinished import MODULES_FILE

SETTINGS_FILE = "config_sentence_transformers.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
TOKENIZER_FILES = (
    "tokenizer.json", TOKENIZER_CONFIG, "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "vocab.txt", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model", "chat_template.jinja",
    "processor_config.json", "preprocessor_config.json",
)  # fmt: skip
OLD_OPTIONS = ("max_seq_length", "do_lower_case")
"""Options of a module that sentence-transformers reads beside `config_keys`."""

TOKENIZER_CLASSES = {"TokenizersBackend": "PreTrainedTokenizerFast"}
"""transformers 5's name of the class, and the one by which transformers 4 knows it too."""

OURS_IN_CONFIG = ("quantization_config", "alibi")


def write_modules(saved: SavedModel, folder: Path) -> None:
    """Write modules.json, the modules' settings and the tokenizer: sentence-transformers' own classes and no other."""
    entries = [{**entry, "type": _stock(entry["type"], first=not place)} for place, entry in enumerate(saved.modules)]
    for entry in entries[1:]:
        if (source := saved.folder / entry["path"]).is_dir():
            shutil.copytree(source, folder / entry["path"])
    options: dict[str, Any] = read_json(saved.folder / OPTIONS_FILE)
    known = (*Transformer.config_keys, *OLD_OPTIONS)
    _write_json(folder / OPTIONS_FILE, {name: value for name, value in options.items() if name in known})
    if (saved.folder / SETTINGS_FILE).is_file():
        shutil.copy(saved.folder / SETTINGS_FILE, folder / SETTINGS_FILE)
    write_tokenizer(saved, folder)
    _write_json(folder / MODULES_FILE, entries)


def write_tokenizer(saved: SavedModel, folder: Path) -> None:
    """Copy the tokenizer's files; class and inputs are named so that transformers 4 reads the same tokenizer."""
    for name in TOKENIZER_FILES:
        if (saved.folder / name).is_file():
            shutil.copy(saved.folder / name, folder / name)
    if (file := folder / TOKENIZER_CONFIG).is_file():
        content = read_json(file)
        if (kind := content.get("tokenizer_class")) in TOKENIZER_CLASSES:
            content["tokenizer_class"] = TOKENIZER_CLASSES[kind]
        # by default transformers 4 adds token_type_ids, which a decoder does not take
        content.setdefault("model_input_names", AutoTokenizer.from_pretrained(folder).model_input_names)
        _write_json(file, content)


def write_config(config: PreTrainedConfig, folder: Path, *, architecture: str, dtype: torch.dtype) -> None:
    """Write config.json: the base's own, without our settings.

    Args:
        config: of the base.
        folder: to write into.
        architecture: name of transformers' class.
        dtype: of the weights.
    """
    plain = copy.deepcopy(config)
    for name in OURS_IN_CONFIG:
        if hasattr(plain, name):
            delattr(plain, name)
    plain.architectures, plain.dtype = [architecture], dtype
    plain.save_pretrained(folder)


def _stock(kind: str, *, first: bool) -> str:
    stock = Transformer if first else Pooling if kind == POOLING else None
    return kind if stock is None else f"{stock.__module__}.{stock.__qualname__}"


def _write_json(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
