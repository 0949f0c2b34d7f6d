"""Several callers of one model at once: threads and processes get what one caller gets, bit for bit."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from sentence_transformers import SentenceTransformer

import lacos_st
from lacos_st.encoders import encoder
from lacos_st.linear import Embedding8bit, Linear8bit

THREADS = 8
WORDS = ["a", "man", "plays", "guitar", "the", "street", "is", "long", "walks", "दो", "बच्चे"]
SENTENCES = ["", *(" ".join(WORDS[(i + j) % 11] for j in range(1 + i * 7 % 30)) for i in range(63))]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {name: tiny.save(tmp_path_factory.mktemp(name), name) for name in ("bloom", "llama")}


@pytest.fixture(scope="module", params=["bloom", "llama"])
def model(request: pytest.FixtureRequest, folders: dict[str, str]) -> SentenceTransformer:
    made = encoder(folders[request.param], block_size=64)
    tiny.stir_(made)
    return made.eval()


def at_once(task: Callable[[int], Any], count: int = THREADS) -> list[Any]:
    """`task(0)`, `task(1)`, ... in as many threads, all started together."""
    start = Barrier(count)

    def begin(number: int) -> Any:
        start.wait()
        return task(number)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(begin, range(count)))


def test_eight_threads_get_what_one_caller_gets(model: SentenceTransformer) -> None:
    def task(number: int, times: int = 5) -> list[np.ndarray]:
        mine = SENTENCES[number::2]
        return [model.encode(mine, batch_size=2 + number) for _ in range(times)]

    alone = [task(number, 1)[0] for number in range(THREADS)]
    for expected, found in zip(alone, at_once(task), strict=True):
        for embeddings in found:
            np.testing.assert_array_equal(embeddings, expected)


def test_threads_that_cut_sentences_at_different_lengths(model: SentenceTransformer) -> None:
    def task(number: int, times: int = 30) -> list[np.ndarray]:
        limit: Any = {"text": {"max_length": 2 + number}}
        return [model.encode(SENTENCES[-4:], processing_kwargs=limit) for _ in range(times)]

    alone = [task(number, 1)[0] for number in range(THREADS)]
    assert not np.array_equal(alone[0], alone[-1])
    for expected, found in zip(alone, at_once(task), strict=True):
        for embeddings in found:
            np.testing.assert_array_equal(embeddings, expected)


def test_threads_that_tokenise_with_and_without_padding(model: SentenceTransformer) -> None:
    tokenizer = model.tokenizer

    def task(number: int, times: int = 30) -> list[Any]:
        if number % 2:
            return [model.preprocess(SENTENCES[:9], prompt="guitar: ")["input_ids"].tolist() for _ in range(times)]
        return [model.encode(SENTENCES[:9], prompt="the ").tolist() for _ in range(times)]

    alone = [task(number, 1)[0] for number in range(THREADS)]
    assert tokenizer is model.tokenizer
    for expected, found in zip(alone, at_once(task), strict=True):
        assert all(one == expected for one in found)


def test_a_model_that_is_moved_while_it_encodes(model: SentenceTransformer) -> None:
    expected = model.encode(SENTENCES)

    def task(number: int) -> list[np.ndarray]:
        if number % 2:
            for _ in range(100):
                model.to("cpu")
            return []
        return [model.encode(SENTENCES) for _ in range(5)]

    for found in at_once(task):
        for embeddings in found:
            np.testing.assert_array_equal(embeddings, expected)


def test_a_stored_weight_is_there_while_it_moves() -> None:
    module = torch.nn.Sequential(torch.nn.Embedding(8, 64), torch.nn.Linear(64, 64))
    lacos_st.quantize_(module, block_size=64)
    for layer in module:
        assert isinstance(layer, Linear8bit | Embedding8bit)
        there = []

        def look(tensor: torch.Tensor, layer: Any = layer, there: list[bool] = there) -> torch.Tensor:
            there.append({"codes", "absmax"} <= set(layer._buffers))
            return tensor

        layer._apply(look)
        assert there and all(there)


def test_the_module_with_its_lock_is_copied_and_pickled(folders: dict[str, str]) -> None:
    model = encoder(folders["bloom"], block_size=64)
    expected = model.encode(SENTENCES)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(twin.encode(SENTENCES), expected)


@pytest.mark.slow
def test_four_processes_get_what_one_caller_gets(model: SentenceTransformer) -> None:
    expected = model.encode(SENTENCES, batch_size=8)
    pool = model.start_multi_process_pool(["cpu"] * 4)
    try:
        chunks = [model.encode(SENTENCES, batch_size=8, pool=pool, chunk_size=size) for size in (1, 5, 64)]
        threads = at_once(lambda number: model.encode(SENTENCES, batch_size=8), 2)
    finally:
        model.stop_multi_process_pool(pool)
    for embeddings in (*chunks[:2], *threads):
        np.testing.assert_allclose(embeddings, expected, rtol=0, atol=2e-6)  # other batches, other sums
    np.testing.assert_array_equal(chunks[2], expected)  # the same batches
