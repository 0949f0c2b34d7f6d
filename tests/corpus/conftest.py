"""A saved model, its embeddings, and `encode_corpus` in a folder of its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from sentence_transformers import SentenceTransformer
from written import LIMIT, SENTENCES

from lacos_st.corpus.options import EncodeOptions
from lacos_st.corpus.run import EncodeResult, encode_corpus
from lacos_st.encoders import encoder
from lacos_st.models import load_model


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    made = encoder(tiny.save(folder / "base"), block_size=64)
    tiny.stir_(made)
    made.max_seq_length = LIMIT
    made.prompts = {"query": "the "}
    made.save_pretrained(str(folder / "saved"))
    return str(folder / "saved")


@pytest.fixture(scope="module")
def expected(model_dir: str) -> np.ndarray:
    return SentenceTransformer(model_dir, trust_remote_code=True).encode(SENTENCES)


loaded = cache(load_model)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_dir: str) -> Callable[..., EncodeResult]:
    """A folder to work in, the sentences in `in.txt`, and `encode_corpus` with defaults and each model loaded once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lacos_st.text_encoder.load_model", loaded)
    Path("in.txt").write_text("".join(text + "\n" for text in SENTENCES), encoding="utf-8")

    def encode(**options: Any) -> EncodeResult:
        given = {"model": model_dir, "source": "in.txt", "output": "out", "shard_rows": 20, "batch_size": 4}
        return encode_corpus(EncodeOptions(**{**given, **options}))

    return encode
