"""`OwnThread`: a model that is loaded and called in one thread, which does nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from lacos_st.text_encoder import TextEncoder


class OwnThread:
    """A `TextEncoder` in a thread of its own.

    OpenMP keeps a set of threads for each thread that computes. A model loaded in one and called in another leaves two
    sets, more threads than cores, which then sleep while they wait for each other instead of spinning: on two cores a
    server reached 73 % of plain `encode` so, and 88 % like this (EXPERIMENTS.md, 2026-11-21).

    Args:
        load: makes the encoder; called in the thread, and its errors are raised here.
    """

    def __init__(self, load: Callable[[], TextEncoder]) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="lacos-st model")
        self._encoder = self._thread.submit(load).result()
        self.dimension, self.limit = self._encoder.dimension, self._encoder.limit

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """See `TextEncoder.encode`; waits its turn."""
        return self._thread.submit(self._encoder.encode, texts).result()

    def count(self, texts: Sequence[str]) -> np.ndarray:
        """See `TextEncoder.count`; in the caller's thread, as tokenizers compute nothing by OpenMP."""
        return self._encoder.count(texts)
