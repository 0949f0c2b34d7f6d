"""`encoder`: a sentence encoder from a base, with the module that fits it."""

from __future__ import annotations

from typing import Any

from sentence_transformers import SentenceTransformer

from lacos_st import gguf
from lacos_st.embedded import resolve
from lacos_st.loading import hub_part, read_config
from lacos_st.pooling import Pooling
from lacos_st.transformer import BloomLoRA8bit, LoRA8bit


def encoder(model_name_or_path: str, *, device: str | None = None, **options: Any) -> SentenceTransformer:
    """A sentence encoder from a base: `BloomLoRA8bit` for a BLOOM, `LoRA8bit` for others, and mean pooling.

    Args:
        model_name_or_path: a base model (hub name, folder, embedded name).
        device: where to put it; None chooses.
        **options: of the module.

    Raises:
        UserError: see `LoRA8bit`.
    """
    model_kwargs = options.get("model_kwargs") or {}
    path = resolve(gguf.join(model_name_or_path, model_kwargs.get("gguf_file")))
    model_type = read_config(path, **hub_part(model_kwargs)).model_type
    module = (BloomLoRA8bit if model_type == "bloom" else LoRA8bit)(model_name_or_path, **options)
    return SentenceTransformer(modules=[module, Pooling(module.get_embedding_dimension())], device=device)
