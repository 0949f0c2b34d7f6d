"""Ragged attention: softmax over each sequence of a flat batch, with no padding anywhere.

A flat batch holds the real tokens of N sequences one after another, (ΣT, ...), and `cu_seq_lens`, int32 (N + 1,), the
running sum of their lengths: the public convention of flash attention's variable-length kernels and of
sentence-transformers. Sequences are sorted by length once per batch, so that those of one length lie side by side and
each such run is a plain view (n, L, heads, head_dim): scaled-dot-product attention then needs no padding and no
padding mask, only a bias that all sequences share.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

RAGGED = "lacos_ragged"
"""The name under which `ragged_attention` is registered with transformers' attention interface."""


@dataclass(frozen=True)
class Run:
    """`count` neighbouring sequences of `length` tokens each."""

    count: int
    length: int


@dataclass(frozen=True)
class RaggedLayout:
    """How the tokens of a flat batch are ordered for attention.

    Attributes:
        order: int64 (ΣT,), the token of the caller's batch at each place of the sorted one; None if already sorted.
        position_ids: int64 (ΣT,), each sorted token's position in its own sequence.
        runs: the sorted sequences as runs of equal length, without empty sequences.
        max_length: length of the longest sequence in tokens, 0 for an empty batch.
    """

    order: torch.Tensor | None
    position_ids: torch.Tensor
    runs: tuple[Run, ...]
    max_length: int

    @property
    def run_tokens(self) -> list[int]:
        """Tokens in each run."""
        return [run.count * run.length for run in self.runs]


def ragged_layout(cu_seq_lens: torch.Tensor) -> RaggedLayout:
    """Sort the sequences of a flat batch by length.

    Args:
        cu_seq_lens: integers (N + 1,), 0 first, not decreasing; ΣT last.
    """
    device = cu_seq_lens.device
    cumulative = cu_seq_lens.detach().to("cpu", torch.int64)
    lengths = cumulative.diff()
    ranks = torch.argsort(lengths, stable=True)
    sorted_lengths = lengths[ranks]
    starts = sorted_lengths.cumsum(0) - sorted_lengths
    total = int(cumulative[-1])
    position_ids = torch.arange(total) - torch.repeat_interleave(starts, sorted_lengths)
    order = None
    if not torch.equal(sorted_lengths, lengths):
        order = torch.repeat_interleave(cumulative[:-1][ranks], sorted_lengths) + position_ids
        order = order.to(device)
    values, counts = torch.unique_consecutive(sorted_lengths, return_counts=True)
    runs = tuple(Run(count, length) for length, count in zip(values.tolist(), counts.tolist(), strict=True) if length)
    return RaggedLayout(order, position_ids.to(device), runs, runs[-1].length if runs else 0)


def padded_to_flat(attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the real tokens of a padded batch are, whichever side is padded.

    Args:
        attention_mask: (B, T), non-zero for a real token.

    Returns:
        Index into the B·T tokens, int64 (ΣT,), and cu_seq_lens, int32 (B + 1,).
    """
    real = attention_mask != 0
    index = real.flatten().nonzero().flatten()
    cu_seq_lens = torch.zeros(real.shape[0] + 1, dtype=torch.int32, device=real.device)
    cu_seq_lens[1:] = real.sum(1).cumsum(0)
    return index, cu_seq_lens


def alibi_slopes(num_heads: int) -> torch.Tensor:
    """The slope of each head's linear bias, float32 (heads,), for any number of heads.

    Source: Press et al., "Train Short, Test Long" (arXiv 2108.12409), section 3 and its reference code: a geometric
    sequence for a power of two; otherwise the nearest smaller power's, then every other slope of the next power.
    """

    def geometric(count: int) -> list[float]:
        ratio = 2.0 ** (-8.0 / count)
        return [ratio ** (i + 1) for i in range(count)]

    power = 2 ** math.floor(math.log2(num_heads))
    slopes = geometric(power) + geometric(2 * power)[0::2][: num_heads - power]
    return torch.tensor(slopes, dtype=torch.float32)


def alibi_bias(num_heads: int, length: int, *, kind: str, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """The causal ALiBi bias that every sequence of a batch shares, (heads, length, length), -inf above the diagonal.

    Args:
        num_heads: number of heads, any.
        length: tokens of the longest sequence; a shorter one uses the top left corner.
        kind: "exact": slope·(j - i), relative positions, rounded once to `dtype`. "reference": slope·j rounded to
            `dtype`, as transformers' `build_alibi_tensor` does; the softmax does not see the shift between the two,
            only the rounding, which in bfloat16 grows with j.
        dtype: of the result: the dtype of the queries.
        device: of the result.

    Raises:
        ValueError: `kind` is neither.
    """
    if kind not in ("exact", "reference"):
        raise ValueError(f'alibi={kind!r} is unknown: choose "exact" or "reference"')
    slopes = alibi_slopes(num_heads).to(device)[:, None, None]
    place = torch.arange(length, device=device, dtype=torch.float32)
    distance = place[None, None, :] - (place[None, :, None] if kind == "exact" else 0.0)
    bias = (slopes * distance).to(dtype).expand(num_heads, length, length)
    future = torch.ones(length, length, dtype=torch.bool, device=device).triu(1)
    return bias.masked_fill(future, float("-inf"))


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: RaggedLayout,
    *,
    scale: float,
    bias: torch.Tensor | None = None,
    is_causal: bool = False,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Softmax attention within each sequence of a sorted flat batch.

    Args:
        query: (ΣT, heads, head_dim). Fewer heads in `key` and `value` are shared between groups of query heads.
        key: (ΣT, key heads, head_dim).
        value: (ΣT, key heads, head_dim).
        layout: of the batch; the tokens are in its sorted order.
        scale: factor of the scores before the softmax.
        bias: (heads, max length, max length), added to the scores.
        is_causal: a token sees only itself and earlier ones; leave it False where `bias` says so already.
        dropout: probability with which attention weights are dropped.

    Returns:
        (ΣT, heads, head_dim).
    """
    pieces = []
    tokens = layout.run_tokens
    for run, q, k, v in zip(layout.runs, query.split(tokens), key.split(tokens), value.split(tokens), strict=True):
        shape = (run.count, run.length)
        mixed = scaled_dot_product_attention(
            q.unflatten(0, shape).transpose(1, 2),
            k.unflatten(0, shape).transpose(1, 2),
            v.unflatten(0, shape).transpose(1, 2),
            attn_mask=None if bias is None else bias[None, :, : run.length, : run.length],
            is_causal=is_causal,
            dropout_p=dropout,
            scale=scale,
            enable_gqa=key.shape[1] != query.shape[1],
        )
        pieces.append(mixed.transpose(1, 2).flatten(0, 1))
    return torch.cat(pieces) if pieces else query


def ragged_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """`attend` behind transformers' attention interface, for a model that is called with one flat, sorted batch.

    Args:
        module: the attention layer; its `is_causal` is honoured, as is a keyword of that name.
        query: (1, heads, ΣT, head_dim).
        key: (1, key heads, ΣT, head_dim).
        value: (1, key heads, ΣT, head_dim).
        attention_mask: None: a flat batch has no padding.
        scaling: factor of the scores, 1/sqrt(head_dim) if None.
        dropout: probability with which attention weights are dropped.
        **kwargs: `ragged_layout`, the batch's `RaggedLayout`, is required; the rest is the model's.

    Raises:
        ValueError: the model needs what this attention cannot do (soft-capping, a sliding window shorter than the
            batch's longest sequence, attention sinks), or was not called through a lacos_st module.
    """
    layout: RaggedLayout | None = kwargs.get("ragged_layout")
    if layout is None or query.shape[0] != 1 or attention_mask is not None:
        raise ValueError(
            f"attention {RAGGED!r} takes one flat batch with its ragged_layout and no mask, got queries "
            f"{tuple(query.shape)}: call the model through lacos_st's LoRA8bit, or load it with "
            'attn_implementation="sdpa"'
        )
    window = kwargs.get("sliding_window")
    if window is not None and window < layout.max_length:
        raise ValueError(
            f"{type(module).__name__} attends within a window of {window} tokens, shorter than a sentence of "
            f"{layout.max_length}: set max_seq_length={window}"
        )
    for name in ("softcap", "s_aux", "position_bias"):
        if kwargs.get(name) is not None:
            raise ValueError(f"{type(module).__name__} needs {name}, which attention {RAGGED!r} does not compute")
    is_causal = kwargs.get("is_causal")
    mixed = attend(
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        layout,
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        is_causal=bool(getattr(module, "is_causal", True) if is_causal is None else is_causal),
        dropout=dropout,
    )
    return mixed.unsqueeze(0), None


def _no_mask(*args: Any, **kwargs: Any) -> None:
    """A flat batch needs no mask: sequences are told apart by the layout."""


AttentionInterface.register(RAGGED, ragged_attention)
AttentionMaskInterface.register(RAGGED, _no_mask)
