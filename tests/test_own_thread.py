"""A model that lives in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from lacos_st.errors import UserError
from lacos_st.serve.own_thread import OwnThread
from lacos_st.text_encoder import TextEncoder

TEXTS = ["A man plays the guitar.", "Un hombre toca la guitarra.", "Il pleut.", "x"]


def test_a_model_is_loaded_and_called_in_one_thread_of_its_own() -> None:
    seen: list[str] = []

    class Watched(TextEncoder):
        def encode(self, texts: Sequence[str], *, pool: Any = None) -> np.ndarray:
            seen.append(threading.current_thread().name)
            return super().encode(texts, pool=pool)

    def load() -> TextEncoder:
        seen.append(threading.current_thread().name)
        return Watched.load("bloom-nano", device="cpu")

    own = OwnThread(load)
    expected = TextEncoder.load("bloom-nano", device="cpu").encode(TEXTS)
    with ThreadPoolExecutor(3) as callers:
        found = list(callers.map(lambda _: own.encode(TEXTS), range(3)))
    assert all((one == expected).all() for one in found)
    assert len(seen) == 4
    assert len(set(seen)) == 1
    assert seen[0].startswith("lacos-st model")
    assert (own.count(TEXTS) > 0).all()
    assert own.dimension == expected.shape[1]


def test_what_loading_raises_is_raised() -> None:
    with pytest.raises(UserError, match="no-such-model"):
        OwnThread(lambda: TextEncoder.load("no-such-model"))
