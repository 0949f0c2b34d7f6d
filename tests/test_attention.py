"""Ragged attention and ALiBi against slow, obvious references."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers.models.bloom.modeling_bloom import build_alibi_tensor

from lacos_st.alibi import BLOCK
from lacos_st.attention import Alibi, alibi_slopes, attend, padded_to_flat, ragged_attention, ragged_layout
from lacos_st.scoring import Scoring
from lacos_st.sdpa import attend_by_autograd, attend_on_cpu


def cumulative(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0)


def alibi(heads: int, length: int, *, kind: str = "exact", dtype: torch.dtype = torch.float32) -> Alibi:
    return Alibi(heads, length, kind, dtype, torch.device("cpu"))


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
    assert layout.cu_seq_lens.tolist() == cumulative(sorted(n for n in lengths if n)).tolist()


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
    bias = alibi(heads, 5, kind="reference").block(0, 5)
    assert torch.allclose(bias[:, 4], stock, rtol=1e-5)
    assert torch.isinf(bias[:, 0, 1:]).all()
    half = build_alibi_tensor(torch.ones(1, 300, dtype=torch.long), heads, torch.bfloat16).view(heads, 300)
    ours = alibi(heads, 300, kind="reference", dtype=torch.bfloat16)
    assert torch.equal(ours.by_key, ours.by_key.bfloat16().float())
    assert torch.allclose(ours.by_key, half.float(), rtol=2**-7), "the slopes' last digit may round a tie elsewhere"
    assert torch.equal(ours.block(256, 300)[:, -1].float(), ours.by_key)


@pytest.mark.parametrize("kind", ["exact", "reference"])
@pytest.mark.parametrize("length", [1, 255, 256, 257, 700])
def test_blocks_of_the_bias_are_rows_of_the_whole(kind: str, length: int) -> None:
    place = torch.arange(length, dtype=torch.float32)
    distance = place if kind == "reference" else place - place[:, None]
    whole = (alibi_slopes(6)[:, None, None] * distance).to(torch.bfloat16).expand(6, length, length)
    whole = whole.masked_fill(torch.ones(length, length).triu(1).bool(), -math.inf)
    bias = alibi(6, length, kind=kind, dtype=torch.bfloat16)
    for start in range(0, length, BLOCK):
        stop = min(start + BLOCK, length)
        assert torch.equal(bias.block(start, stop), whole[:, start:stop, :stop])
        shorter = max(start + 1, stop - 3)  # a shorter sequence of the same batch
        assert torch.equal(bias.block(start, shorter), whole[:, start:shorter, :shorter])


@pytest.mark.parametrize("heads", [4, 6])
def test_exact_and_reference_differ_by_rounding_only(heads: int) -> None:
    exact, reference = (alibi(heads, 64, kind=kind).block(0, 64).softmax(-1) for kind in ("exact", "reference"))
    assert torch.allclose(exact, reference, atol=1e-6)


def test_exact_is_the_more_accurate_in_bfloat16() -> None:
    """Largest error of the attention weights against float64, ALiBi alone, 512 tokens: what stack.md measured."""
    truth = alibi(16, 512, dtype=torch.float64).block(256, 512).softmax(-1)
    errors = {
        kind: (alibi(16, 512, kind=kind, dtype=torch.bfloat16).block(256, 512).double().softmax(-1) - truth).abs().max()
        for kind in ("exact", "reference")
    }
    assert errors["exact"] < errors["reference"] / 5


def test_unknown_alibi() -> None:
    with pytest.raises(ValueError, match='choose "exact" or "reference"'):
        alibi(4, 4, kind="rotary")


def alibi_by_loop(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """Causal attention with ALiBi, sequence by sequence, scale 0.25, in the dtype of the arguments."""
    slopes = alibi_slopes(query.shape[1]).to(query.dtype)[:, None, None]
    mixed = []
    pieces = zip(*(tensor.split(lengths) for tensor in (query, key, value)), strict=True)
    for q, k, v in pieces:
        place = torch.arange(len(q))
        distance = place - place[:, None]
        scores = 0.25 * torch.einsum("qhd,khd->hqk", q, k) + slopes * distance
        weights = scores.masked_fill(distance > 0, -math.inf).softmax(-1)
        mixed.append(torch.einsum("hqk,khd->qhd", weights, v))
    return torch.cat(mixed)


@pytest.mark.parametrize("lengths", [[1], [1, 1, 7, 7, 30], [255, 256, 257, 257], [300, 2048]], ids=str)
@pytest.mark.parametrize("kind", ["exact", "reference"])
@pytest.mark.parametrize("kernel", [attend_on_cpu, attend_by_autograd])
def test_alibi_and_its_gradients_against_float64(lengths: list[int], kind: str, kernel: Callable[..., Any]) -> None:
    if kind == "reference":
        lengths = [min(n, 300) for n in lengths]  # beyond, slope·j itself has too few digits in float32
    layout = ragged_layout(cumulative(lengths))
    fused = torch.randn(sum(lengths), 3, 3, 16, dtype=torch.float64)
    target = torch.randn(sum(lengths), 3, 16, dtype=torch.float64)
    truth, ours = fused.clone().requires_grad_(), fused.float().requires_grad_()
    expected = alibi_by_loop(*truth.unbind(2), lengths)
    bias = alibi(3, layout.max_length, kind=kind)
    mixed = kernel(*ours.unbind(2), layout, Scoring(0.25, bias))
    expected.backward(target)
    mixed.backward(target.float())
    assert torch.allclose(mixed.double(), expected, rtol=0, atol=1e-5)
    assert torch.allclose(ours.grad.double(), truth.grad, rtol=0, atol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
def test_the_backward_by_hand_is_autograd(causal: bool) -> None:
    """For models without ALiBi, with shared key heads, a frozen value, and a gradient that is one expanded number."""
    layout = ragged_layout(cumulative([1, 4, 4, 300]))
    gradients = []
    for kernel in (attend_on_cpu, attend_by_autograd):
        torch.manual_seed(0)
        query, key = torch.randn(309, 4, 8, requires_grad=True), torch.randn(309, 2, 8, requires_grad=True)
        value = torch.randn(309, 2, 8)
        kernel(query, key, value, layout, Scoring(0.3, is_causal=causal)).sum().backward()
        gradients += [query.grad, key.grad]
    assert torch.allclose(gradients[0], gradients[2], atol=1e-5)
    assert torch.allclose(gradients[1], gradients[3], atol=1e-5)


class Largest(TorchDispatchMode):
    """The bytes of the largest tensor that any operation gave back, views left out."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in given:
                self.largest = max(self.largest, tensor.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("kind", ["exact", "reference"])
def test_memory_grows_linearly_with_the_sequence(kind: str) -> None:
    """No tensor of a forward and backward, and not what is saved in between, grows faster than the sequence."""
    largest, saved = [], []
    for length in (1024, 4096):
        layout = ragged_layout(cumulative([length]))
        fused = torch.randn(length, 2, 3, 8, requires_grad=True)
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor, kept: dict[int, int] = kept) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with Largest() as seen, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            bias = alibi(2, length, kind=kind)
            attend(*fused.unbind(2), layout, scale=0.3, bias=bias).square().sum().backward()
        largest.append(seen.largest)
        saved.append(sum(kept.values()))
    assert largest[0] == 2 * BLOCK * 1024 * 4, "the bias of one block of queries"
    assert largest[1] == 4 * largest[0]
    assert saved[1] <= 4 * saved[0]


def test_attend_of_nothing() -> None:
    nothing = torch.zeros(0, 2, 8)
    layout = ragged_layout(torch.tensor([0, 0, 0], dtype=torch.int32))
    assert layout.cu_seq_lens.tolist() == [0]
    assert attend(nothing, nothing, nothing, layout, scale=1.0, bias=alibi(2, 0)).shape == (0, 2, 8)


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
