"""Numbers do not depend on luck: not on the batch, its padding, worker processes, or the day of the run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from lacos_st import encoder
from lacos_st.settings import TrainConfig
from lacos_st.training import train

BOUND = 1e-5
"""Largest relative L2 difference of a sentence's float32 embedding between two batches; measured: below 1e-6. It comes
from products that sum in another order where they have more rows, and from nothing else: not from padding."""

TEXTS = [*tiny.SENTENCES, *(f"a man walks the street {i} " * (1 + i % 7) for i in range(16))]


@pytest.fixture(scope="module", params=["bloom", "bert", "llama"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SentenceTransformer:
    base = tiny.save(tmp_path_factory.mktemp(request.param) / "base", request.param)
    made = encoder(base, device="cpu", block_size=64, lora_rank=2, max_seq_length=60)
    tiny.stir_(made)
    return made.eval()


def difference(one: np.ndarray, two: np.ndarray) -> float:
    norm = np.maximum(np.linalg.norm(two, axis=1), 1e-6)
    return float((np.linalg.norm(one - two, axis=1) / norm).max())


def test_batch_size_and_company_do_not_matter(model: SentenceTransformer) -> None:
    alone = np.stack([model.encode(text) for text in TEXTS])
    assert np.linalg.norm(alone - alone[0], axis=1).max() > 0.1  # the sentences do differ
    for size in (1, 2, 7, len(TEXTS)):
        assert difference(model.encode(TEXTS, batch_size=size), alone) < BOUND
    backwards = model.encode(TEXTS[::-1], batch_size=5)[::-1]
    assert difference(backwards, alone) < BOUND
    long = "guitar " * 50
    assert difference(model.encode([long, *TEXTS], batch_size=64)[1:], alone) < BOUND


def test_padding_does_not_matter(model: SentenceTransformer) -> None:
    texts = [text for text in TEXTS if text][:8]
    rows = [model.tokenizer(text, truncation=True, max_length=60).input_ids for text in texts]
    alone = np.stack([model.encode(text) for text in texts])
    for left in (False, True):
        for width in (60, 64):
            ids = torch.zeros(len(rows), width, dtype=torch.int64)
            mask = torch.zeros_like(ids)
            for row, tokens in enumerate(rows):
                place = slice(width - len(tokens), width) if left else slice(0, len(tokens))
                ids[row, place] = torch.tensor(tokens)
                mask[row, place] = 1
            with torch.no_grad():
                embedded = model({"input_ids": ids, "attention_mask": mask})["sentence_embedding"].numpy()
            assert difference(embedded, alone) < BOUND


def test_the_same_call_gives_the_same_bits(model: SentenceTransformer) -> None:
    first = model.encode(TEXTS, batch_size=7)
    np.testing.assert_array_equal(model.encode(TEXTS, batch_size=7), first)


@pytest.mark.thorough
@pytest.mark.slow
def test_worker_processes_do_not_matter(tiny_bloom_dir: str) -> None:
    model = encoder(tiny_bloom_dir, device="cpu", block_size=64, lora_rank=2)
    tiny.stir_(model)
    expected = model.encode(TEXTS, batch_size=8)
    for workers in (1, 2):
        pool = model.start_multi_process_pool(["cpu"] * workers)
        try:
            found = model.encode(TEXTS, batch_size=8, pool=pool, chunk_size=11)
        finally:
            model.stop_multi_process_pool(pool)
        assert found.shape == expected.shape
        assert difference(found, expected) < BOUND


METHODS = ("lora", "full", "freeze", "bias", "sbert")
SLOW = [pytest.param(method, marks=[pytest.mark.slow, pytest.mark.thorough]) for method in METHODS]


@pytest.mark.parametrize("method", ["lacos", *SLOW])
def test_the_same_seed_gives_the_same_bits(tiny_bloom_dir: str, tmp_path: Path, method: str) -> None:
    labels = [f"{('entailment', 'neutral', 'contradiction')[i % 3]}\t" * (method == "sbert") for i in range(30)]
    pairs = "".join(f"{label}a man walks {i}\ta man {i}\n" for i, label in enumerate(labels))
    (tmp_path / "pairs.tsv").write_text(pairs, encoding="utf-8")
    logs, weights, vectors = [], [], []
    for name, seed in (("one", 3), ("two", 3), ("other", 4)):
        torch.manual_seed(len(name))  # what was drawn before does not matter
        options = {"base": tiny_bloom_dir, "data": str(tmp_path / "pairs.tsv"), "output": str(tmp_path / name)}
        options |= {"method": method, "batch_size": 8, "eval_rows": 3, "log_steps": 1, "seed": seed, "lr": 1e-3}
        adapters = method in ("lacos", "lora")
        options |= {"block_size": 64} if method == "lacos" else {}
        options |= {"lora_dropout": 0.1} if adapters else {"max_steps": 1, "warmup": 0}
        options |= {"frozen_blocks": 1} if method == "freeze" else {}
        result = train(TrainConfig.from_mapping({**options, "cpu": True, "progress": False}))
        lines = [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        logs.append([{k: v for k, v in line.items() if "runtime" not in k and "per_second" not in k} for line in lines])
        file = "adapter/adapter_model.safetensors" if adapters else "model.safetensors"
        weights.append(load_file(result.model_path / file))
        vectors.append(result.model.encode(TEXTS))
    assert logs[0] == logs[1] != logs[2]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert any(not torch.equal(weights[0][name], weights[2][name]) for name in weights[0])
    np.testing.assert_array_equal(vectors[0], vectors[1])
