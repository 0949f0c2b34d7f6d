"""Pooling against the stock class, flat against padded, and empty texts."""

from __future__ import annotations

import pytest
import torch
from sentence_transformers.sentence_transformer.modules import Pooling as StockPooling

from lacos_st import Pooling

LENGTHS = [3, 1, 5]


def features(dtype: torch.dtype = torch.float32) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The same three texts, padded and flat."""
    torch.manual_seed(0)
    flat = torch.randn(sum(LENGTHS), 8).to(dtype)
    mask = torch.tensor([[1] * n + [0] * (max(LENGTHS) - n) for n in LENGTHS])
    padded = torch.full((3, max(LENGTHS), 8), 9.0, dtype=dtype)
    padded[mask.bool()] = flat
    cu_seq_lens = torch.tensor([0, *LENGTHS], dtype=torch.int32).cumsum(0)
    return (
        {"token_embeddings": padded, "attention_mask": mask},
        {"token_embeddings": flat[None], "cu_seq_lens_q": cu_seq_lens},
    )


@pytest.mark.parametrize("mode", StockPooling.POOLING_MODES)
def test_stock_results_on_padded_and_flat_batches(mode: str) -> None:
    padded, flat = features()
    stock = StockPooling(8, mode)(dict(padded))["sentence_embedding"]
    for batch in (padded, flat):
        assert torch.allclose(Pooling(8, mode)(dict(batch))["sentence_embedding"], stock, atol=1e-6)


@pytest.mark.parametrize("kind", [0, 1])
def test_means_accumulate_in_float32(kind: int) -> None:
    batch = features(torch.bfloat16)[kind]
    exact = torch.stack(
        [part.mean(0) for part in features(torch.bfloat16)[1]["token_embeddings"][0].double().split(LENGTHS)]
    )
    pooled = Pooling(8)(dict(batch))["sentence_embedding"]
    assert torch.equal(pooled, exact.to(torch.bfloat16))
    many = {"token_embeddings": torch.full((1, 3000, 8), 1.0078125, dtype=torch.bfloat16)}
    many["cu_seq_lens_q"] = torch.tensor([0, 3000], dtype=torch.int32)
    if kind:
        many = {"token_embeddings": many["token_embeddings"], "attention_mask": torch.ones(1, 3000)}
    assert torch.all(Pooling(8)(many)["sentence_embedding"] == 1.0078125)


@pytest.mark.parametrize("mode", [*StockPooling.POOLING_MODES, ("mean", "lasttoken")])
@pytest.mark.parametrize("lengths", [[0, 2], [2, 0], [0, 2, 0, 0, 1], [0, 0]])
def test_an_empty_text_is_a_zero_vector(mode: str | tuple[str, ...], lengths: list[int]) -> None:
    torch.manual_seed(0)
    tokens = torch.randn(sum(lengths), 4) + 1
    cu_seq_lens = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0)
    segments = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).int()
    flat = {"token_embeddings": tokens[None], "cu_seq_lens_q": cu_seq_lens, "seq_idx": segments[None]}
    pooled = Pooling(4, mode)(flat)["sentence_embedding"]
    full = [n for n in lengths if n]
    if full:
        kept = torch.tensor([0, *full], dtype=torch.int32).cumsum(0)
        expected = StockPooling(4, mode)({"token_embeddings": tokens[None], "cu_seq_lens_q": kept})[
            "sentence_embedding"
        ]
        assert torch.allclose(pooled[[i for i, n in enumerate(lengths) if n]], expected)
    assert torch.all(pooled[[i for i, n in enumerate(lengths) if not n]] == 0)
    mask = torch.tensor([[1] * n + [0] * (3 - n) for n in lengths])
    padded = {"token_embeddings": torch.randn(len(lengths), 3, 4) + 1, "attention_mask": mask}
    assert torch.all(Pooling(4, mode)(padded)["sentence_embedding"][[i for i, n in enumerate(lengths) if not n]] == 0)


@pytest.mark.parametrize("mode", ["max", "mean", ("mean", "max"), ("max", "cls"), "lasttoken", ("lasttoken", "mean")])
@pytest.mark.parametrize("kind", ["flat", "padded"])
@pytest.mark.parametrize("prompt", [2, torch.tensor([2, 2, 2])])
def test_a_prompt_that_is_left_out_gives_no_maximum_and_no_last_token(
    mode: str | tuple[str, ...], kind: str, prompt: int | torch.Tensor
) -> None:
    torch.manual_seed(0)
    lengths, tokens = [2, 4, 1], torch.randn(7, 4)
    batch = {"token_embeddings": tokens[None], "cu_seq_lens_q": torch.tensor([0, 2, 6, 7]), "prompt_length": prompt}
    if kind == "padded":
        mask = torch.tensor([[1] * n + [0] * (4 - n) for n in lengths])
        padded = torch.zeros(3, 4, 4)
        padded[mask.bool()] = tokens
        batch = {"token_embeddings": padded, "attention_mask": mask, "prompt_length": prompt}
    found = Pooling(4, mode, include_prompt=False)(batch)["sentence_embedding"]
    modes = [mode] if isinstance(mode, str) else mode
    for name, part in zip(modes, found.split(4, dim=1), strict=True):
        if name == "max":
            assert torch.equal(part, torch.stack([torch.zeros(4), tokens[4:6].max(0).values, torch.zeros(4)]))
        if name == "lasttoken":
            assert torch.equal(part, torch.stack([torch.zeros(4), tokens[5], torch.zeros(4)]))
        assert part.abs().max() < 10
