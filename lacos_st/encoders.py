"""`encoder`: a sentence encoder from a base, with the module that fits it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer

from lacos_st import gguf
from lacos_st.checkpoint import MANIFEST_FILE
from lacos_st.embedded import resolve
from lacos_st.errors import UserError
from lacos_st.folder import read_json
from lacos_st.loading import hub_part, read_config
from lacos_st.pooling import Pooling
from lacos_st.transformer import BloomLoRA8bit, LoRA8bit

SETTINGS_FILE = "config_sentence_transformers.json"
"""In which sentence-transformers keeps a model's prompts."""


def encoder(
    model_name_or_path: str, *, device: str | None = None, pooling_mode: str = "mean", **options: Any
) -> SentenceTransformer:
    """A sentence encoder from a base: `BloomLoRA8bit` for a BLOOM, `LoRA8bit` for others, and pooling.

    Args:
        model_name_or_path: a base model (hub name, folder, embedded name).
        device: where to put it; None chooses.
        pooling_mode: of `Pooling`.
        **options: of the module.

    Raises:
        UserError: see `LoRA8bit`; or what is named is a saved model with another pooling, or more behind it.
    """
    model_kwargs = options.get("model_kwargs") or {}
    path = resolve(gguf.join(model_name_or_path, model_kwargs.get("gguf_file")))
    check_pooling(Path(path), pooling_mode)
    model_type = read_config(path, **hub_part(model_kwargs)).model_type
    module = (BloomLoRA8bit if model_type == "bloom" else LoRA8bit)(model_name_or_path, **options)
    pooling = Pooling(module.get_embedding_dimension(), pooling_mode=pooling_mode)
    return SentenceTransformer(modules=[module, pooling], device=device)


def check_pooling(folder: Path, pooling_mode: str) -> None:
    """That a folder is no saved model of ours with another pooling, or more behind it, which would be left out.

    Raises:
        UserError: it is.
    """
    try:
        (folder / MANIFEST_FILE).read_bytes()
        _, *others = [entry["path"] for entry in json.loads((folder / "modules.json").read_text(encoding="utf-8"))]
        saved = [json.loads((folder / other / "config.json").read_text(encoding="utf-8")) for other in others]
        modes = [module.get("pooling_mode") for module in saved]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return  # a base, or broken: said by who reads it
    if modes and modes != [pooling_mode]:
        raise UserError(
            f"{folder} is a saved model whose pooling is not {pooling_mode} alone, which is asked for: "
            + (f"name its own, {modes[0]}, or " if len(modes) == 1 and isinstance(modes[0], str) else "")
            + f"load it as it is, SentenceTransformer({str(folder)!r})"
        )


def default_prompt(base: str) -> str | None:
    """What a saved model of ours puts before each sentence, where a folder holds one; None or "" for nothing."""
    folder = Path(resolve(base))
    if not (folder / MANIFEST_FILE).is_file() or not (folder / SETTINGS_FILE).is_file():
        return None
    settings = read_json(folder / SETTINGS_FILE)
    prompts = settings.get("prompts") if isinstance(settings, dict) else None
    return prompts.get(settings.get("default_prompt_name")) if isinstance(prompts, dict) else None
