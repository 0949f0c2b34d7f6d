"""A trained model to export, and how what was exported embeds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tiny
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules.normalize import Normalize

from lacos_st.encoders import encoder
from lacos_st.export import run

SENTENCES = [text for text in tiny.SENTENCES if text]


Export = Callable[..., run.ExportReport]


def save(folder: Path, architecture: str = "bloom", **options: Any) -> str:
    """A model with a stirred adapter, a prompt and a Normalize behind its pooling."""
    given = {"block_size": 64, "lora_alpha": 6.0, "lora_targets": "recipe", **options}
    model = encoder(tiny.save(folder / "base", architecture), device="cpu", **given)
    tiny.stir_(model)
    model.append(Normalize())
    model.prompts = {"query": "the "}
    model.save_pretrained(str(folder / "saved"))
    return str(folder / "saved")


def embed(model: str, **options: Any) -> np.ndarray:
    vectors: np.ndarray = SentenceTransformer(model, device="cpu", **options).encode(SENTENCES)
    return vectors


def kinds(folder: Path) -> list[str]:
    return [entry["type"] for entry in json.loads((folder / "modules.json").read_text())]
