"""Texts of several callers are encoded together, and each has its own answer or error."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future

import numpy as np
import pytest

from lacos_st.serve.batching import Batcher, Busy


def test_waiting_texts_are_encoded_together_and_in_order() -> None:
    go, batches = threading.Event(), []

    def encode(texts: list[str]) -> np.ndarray:
        go.wait(30)
        batches.append(len(texts))
        return np.array([[float(text)] for text in texts], dtype=np.float32)

    batcher = Batcher(encode, most=5, room=100)
    asked = [batcher.submit([str(10 * n + k) for k in range(n % 3 + 1)]) for n in range(8)]
    large = batcher.submit([str(n) for n in range(100, 109)])  # more than a batch: alone
    go.set()
    for n, one in enumerate(asked):
        assert one.result(30)[:, 0].tolist() == [10 * n + k for k in range(n % 3 + 1)]
    assert large.result(30)[:, 0].tolist() == list(range(100, 109))
    assert batches[-1] == 9 and max(batches[:-1]) <= 5 and len(batches) < 9
    batcher.close()
    assert batcher.waiting == 0
    with pytest.raises(Busy, match="stopping"):
        batcher.submit(["1"])


def test_whoever_has_an_answer_finds_it_counted() -> None:
    counted: list[int] = []
    waiting: list[int] = []

    def slow(texts: int, _: float) -> None:
        time.sleep(0.05)
        counted.append(texts)

    batcher = Batcher(lambda texts: np.zeros((len(texts), 1)), most=5, room=10, on_batch=slow)
    result = batcher.submit(["a", "b"])
    result.add_done_callback(lambda _: waiting.append(batcher.waiting))
    result.result(30)
    assert counted == [2]
    batcher.close()
    assert waiting == [0]


def test_one_error_ends_its_batch_and_not_the_server() -> None:
    def encode(texts: list[str]) -> np.ndarray:
        if "bad" in texts:
            raise ValueError("bad")
        return np.zeros((len(texts), 1))

    batcher = Batcher(encode, most=1, room=10)
    bad, good = batcher.submit(["bad"]), batcher.submit(["good"])
    with pytest.raises(ValueError, match="bad"):
        bad.result(30)
    assert good.result(30).shape == (1, 1)
    batcher.close()


def test_only_the_request_at_fault_gets_the_error() -> None:
    go, batches = threading.Event(), []

    def encode(texts: list[str]) -> np.ndarray:
        go.wait(30)
        batches.append(len(texts))
        if "bad" in texts:
            raise TypeError("bad")
        return np.array([[float(text)] for text in texts])

    encoded: list[int] = []
    batcher = Batcher(encode, most=20, room=20, on_batch=lambda texts, _: encoded.append(texts))
    first = batcher.submit(["0"])  # holds the thread while the others come
    time.sleep(0.05)
    asked = [batcher.submit(texts) for texts in (["1", "2"], ["3", "bad"], ["4"])]
    go.set()
    assert [one.result(30).tolist() for one in (first, asked[0], asked[2])] == [[[0]], [[1], [2]], [[4]]]
    with pytest.raises(TypeError, match="bad"):
        asked[1].result(30)
    batcher.close()
    assert batches == [1, 5, 2, 2, 1] and encoded == [1, 2, 1]
    assert batcher.waiting == 0


def test_a_client_that_left_is_not_served() -> None:
    go, seen = threading.Event(), []

    def encode(texts: list[str]) -> np.ndarray:
        go.wait(30)
        seen.extend(texts)
        return np.zeros((len(texts), 1))

    batcher = Batcher(encode, most=1, room=10)
    batcher.submit(["first"])
    time.sleep(0.05)
    left: Future[np.ndarray] = batcher.submit(["left"])
    assert left.cancel()
    go.set()
    batcher.close()
    assert seen == ["first"] and batcher.waiting == 0
