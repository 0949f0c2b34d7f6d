"""Ragged attention and ALiBi against slow, obvious references."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.bloom.modeling_bloom import build_alibi_tensor

from lacos_st.attention import alibi_bias, alibi_slopes, attend, padded_to_flat, ragged_attention, ragged_layout


def cumulative(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0)


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=12))
def test_layout_sorts_by_length(lengths: list[int]) -> None:
    layout = ragged_layout(cumulative(lengths))
    assert [length for run in layout.runs for length in [run.length] * run.count] == sorted(n for n in lengths if n)
    assert layout.max_length == max(lengths)
    tokens = torch.arange(sum(lengths))
    ordered = tokens if layout.order is None else tokens[layout.order]
    assert torch.equal(ordered.sort().values, tokens)
    positions = torch.cat([torch.arange(n) for n in sorted(lengths)]) if sum(lengths) else tokens
    assert torch.equal(layout.position_ids, positions)


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=6),
    heads=st.sampled_from([1, 2, 4, 6]),
    causal=st.booleans(),
    shared=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_attend_equals_a_loop_over_sequences(
    lengths: list[int], heads: int, causal: bool, shared: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    lengths = sorted(lengths)
    key_heads = heads // 2 if shared and heads > 1 else heads
    query = torch.randn(sum(lengths), heads, 8)
    key, value = torch.randn(2, sum(lengths), key_heads, 8).unbind(0)
    ours = attend(query, key, value, ragged_layout(cumulative(lengths)), scale=0.3, is_causal=causal)
    start = 0
    for length in lengths:
        piece = slice(start, start + length)
        for head in range(heads):
            other = head * key_heads // heads
            scores = 0.3 * query[piece, head] @ key[piece, other].T
            if causal:
                scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -math.inf)
            assert torch.allclose(ours[piece, head], scores.softmax(-1) @ value[piece, other], atol=1e-5)
        start += length


@pytest.mark.parametrize("heads", [1, 2, 3, 4, 6, 8, 12, 16, 20, 32, 112])
def test_slopes_and_reference_bias_are_transformers(heads: int) -> None:
    stock = build_alibi_tensor(torch.ones(1, 5, dtype=torch.long), heads, torch.float32).view(heads, 5)
    assert torch.allclose(alibi_slopes(heads), stock[:, 1], rtol=1e-5)
    bias = alibi_bias(heads, 5, kind="reference", dtype=torch.float32, device=torch.device("cpu"))
    assert torch.allclose(bias[:, 4], stock, rtol=1e-5)
    assert torch.isinf(bias[:, 0, 1:]).all()


@pytest.mark.parametrize("heads", [4, 6])
def test_exact_and_reference_differ_by_rounding_only(heads: int) -> None:
    options = {"dtype": torch.float32, "device": torch.device("cpu")}
    exact = alibi_bias(heads, 64, kind="exact", **options)
    reference = alibi_bias(heads, 64, kind="reference", **options)
    assert torch.allclose(exact.softmax(-1), reference.softmax(-1), atol=1e-6)


def test_exact_is_the_more_accurate_in_bfloat16() -> None:
    """Largest error of the attention weights against float64, ALiBi alone, 512 tokens: what stack.md measured."""
    device = torch.device("cpu")
    truth = alibi_bias(16, 512, kind="exact", dtype=torch.float64, device=device).softmax(-1)
    errors = {
        kind: (alibi_bias(16, 512, kind=kind, dtype=torch.bfloat16, device=device).double().softmax(-1) - truth)
        .abs()
        .max()
        for kind in ("exact", "reference")
    }
    assert errors["exact"] < errors["reference"] / 5


def test_unknown_alibi() -> None:
    with pytest.raises(ValueError, match='choose "exact" or "reference"'):
        alibi_bias(4, 4, kind="rotary", dtype=torch.float32, device=torch.device("cpu"))


def test_padded_to_flat_takes_either_side() -> None:
    mask = torch.tensor([[1, 1, 0], [0, 0, 1], [0, 0, 0], [1, 1, 1]])
    index, cu_seq_lens = padded_to_flat(mask)
    assert index.tolist() == [0, 1, 5, 9, 10, 11]
    assert cu_seq_lens.tolist() == [0, 2, 3, 3, 6]


def test_what_cannot_be_computed_is_refused() -> None:
    layer = torch.nn.Identity()
    query = torch.zeros(1, 2, 6, 4)
    layout = ragged_layout(cumulative([6]))
    with pytest.raises(ValueError, match="call the model through lacos_st"):
        ragged_attention(layer, query, query, query, None)
    with pytest.raises(ValueError, match="window of 4 tokens, shorter than a sentence of 6: set max_seq_length=4"):
        ragged_attention(layer, query, query, query, None, ragged_layout=layout, sliding_window=4)
    with pytest.raises(ValueError, match="needs softcap"):
        ragged_attention(layer, query, query, query, None, ragged_layout=layout, softcap=30.0)
