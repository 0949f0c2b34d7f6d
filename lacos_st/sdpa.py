"""Attention with torch's own kernels: run by run of equally long sequences, long ones block of queries by block.

Nothing is padded, and no memory grows with the square of a sequence: the causal ALiBi bias exists for one block of
queries at a time, and the keys that a block cannot see are not multiplied. On a CPU the kernel is called with its
backward by hand, which writes every gradient once, in place.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention

from lacos_st.alibi import BLOCK, Alibi
from lacos_st.ragged import RaggedLayout
from lacos_st.scoring import Scoring, with_all_heads
from lacos_st.upstream import cpu_attention, cpu_attention_backward


class Piece(NamedTuple):
    """One call of the kernel: queries `start`..`stop` - 1 of each sequence of a run on its keys 0..`seen` - 1."""

    first_token: int
    sequences: int
    length: int
    start: int
    stop: int
    seen: int

    def queries(self, flat: torch.Tensor) -> torch.Tensor:
        """(ΣT, heads, D) -> the piece's queries as a view (sequences, heads, stop - start, D)."""
        return self._run(flat)[:, :, self.start : self.stop]

    def keys(self, flat: torch.Tensor) -> torch.Tensor:
        """(ΣT, heads, D) -> the keys or values it sees as a view (sequences, heads, seen, D)."""
        return self._run(flat)[:, :, : self.seen]

    def bias(self, alibi: Alibi | None) -> torch.Tensor | None:
        """(1, heads, stop - start, seen)."""
        return None if alibi is None else alibi.block(self.start, self.stop)[None]

    def _run(self, flat: torch.Tensor) -> torch.Tensor:
        run = flat[self.first_token : self.first_token + self.sequences * self.length]
        return run.unflatten(0, (self.sequences, self.length)).transpose(1, 2)


def pieces(layout: RaggedLayout, *, by_blocks: bool) -> Iterator[Piece]:
    """The calls that a batch takes, a run's blocks from the last to the first.

    Args:
        layout: of the batch.
        by_blocks: split sequences longer than `BLOCK`; right for causal attention only.
    """
    first_token = 0
    for run in layout.runs:
        block = BLOCK if by_blocks else run.length
        for start in reversed(range(0, run.length, block)):
            stop = min(start + block, run.length)
            yield Piece(first_token, run.count, run.length, start, stop, stop)
        first_token += run.count * run.length


def attend_by_autograd(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: RaggedLayout,
    scoring: Scoring,
) -> torch.Tensor:
    """`lacos_st.attention.attend` for any device, dtype and dropout; its backward is autograd's."""
    query, key, value = with_all_heads(query, key, value)
    parts: list[torch.Tensor] = []
    blocks: list[torch.Tensor] = []
    for piece in pieces(layout, by_blocks=scoring.bias is not None):
        mask = piece.bias(scoring.bias)
        mixed = scaled_dot_product_attention(
            piece.queries(query),
            piece.keys(key),
            piece.keys(value),
            attn_mask=None if mask is None else mask.contiguous(),  # CUDA kernels want an aligned one
            is_causal=scoring.is_causal and mask is None,
            dropout_p=scoring.dropout,
            scale=scoring.scale,
        )
        blocks.append(mixed.transpose(1, 2))
        if piece.start == 0:
            parts.append(torch.cat(blocks[::-1], 1).flatten(0, 1))
            blocks = []
    return torch.cat(parts) if parts else query


def attend_forward(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: RaggedLayout,
    scoring: Scoring,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Attention on a CPU without autograd, for those who write their backward by hand.

    Args:
        query: (ΣT, heads, head_dim), any strides but the last; so are `key` and `value`.
        key: as `query`, with as many heads.
        value: as `query`.
        layout: of the batch; the tokens are in its sorted order.
        scoring: without dropout.

    Returns:
        (ΣT, heads, head_dim), contiguous, and the logarithms of the softmax's sums, one tensor per `Piece`: what
        `attend_backward_` needs.
    """
    assert cpu_attention is not None, "kernels.choose leaves it out"
    mixed = torch.empty_like(query, memory_format=torch.contiguous_format)
    sums = []
    for piece in pieces(layout, by_blocks=scoring.bias is not None):
        result, log_sum = cpu_attention(
            piece.queries(query),
            piece.keys(key),
            piece.keys(value),
            0.0,
            scoring.is_causal and scoring.bias is None,
            attn_mask=piece.bias(scoring.bias),
            scale=scoring.scale,
        )
        piece.queries(mixed).copy_(result)
        sums.append(log_sum)
    return mixed, sums


def attend_backward_(
    gradients: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    grad_mixed: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mixed: torch.Tensor,
    sums: list[torch.Tensor],
    layout: RaggedLayout,
    scoring: Scoring,
) -> None:
    """The backward of `attend_forward`.

    Args:
        gradients: of query, key and value, each (ΣT, heads, head_dim) with any strides (three views of one fused
            tensor, say): overwritten.
        grad_mixed: gradient of `mixed`, (ΣT, heads, head_dim).
        query: as in the forward.
        key: as in the forward.
        value: as in the forward.
        mixed: the forward's result.
        sums: the forward's second result.
        layout: of the batch.
        scoring: as in the forward.
    """
    assert cpu_attention_backward is not None, "kernels.choose leaves it out"
    for piece, log_sum in zip(pieces(layout, by_blocks=scoring.bias is not None), sums, strict=True):
        found = cpu_attention_backward(
            piece.queries(grad_mixed),
            piece.queries(query),
            piece.keys(key),
            piece.keys(value),
            piece.queries(mixed),
            log_sum,
            0.0,
            scoring.is_causal and scoring.bias is None,
            attn_mask=piece.bias(scoring.bias),
            scale=scoring.scale,
        )
        piece.queries(gradients[0]).copy_(found[0])
        for gradient, part in zip(gradients[1:], found[1:], strict=True):
            target = piece.keys(gradient)
            if piece.seen == piece.length:  # a run's first piece, which sees all keys
                target.copy_(part)
            else:
                target.add_(part)


class _CpuAttention(torch.autograd.Function):
    """`attend_forward` and `attend_backward_` to autograd: saves q, k, v, the result and its log-sums."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        layout: RaggedLayout,
        scoring: Scoring,
    ) -> torch.Tensor:
        mixed, sums = attend_forward(query, key, value, layout, scoring)
        ctx.save_for_backward(query, key, value, mixed, *sums)
        ctx.layout, ctx.scoring = layout, scoring
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, mixed, *sums = ctx.saved_tensors
        gradients = (torch.empty_like(query), torch.empty_like(key), torch.empty_like(value))
        attend_backward_(gradients, grads[0].contiguous(), query, key, value, mixed, sums, ctx.layout, ctx.scoring)
        return *gradients, None, None


def attend_on_cpu(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: RaggedLayout,
    scoring: Scoring,
) -> torch.Tensor:
    """`lacos_st.attention.attend` for a CPU without dropout and heads of one width."""
    assert scoring.dropout == 0.0, "the kernel has none"
    query, key, value = with_all_heads(query, key, value)
    return cast(torch.Tensor, _CpuAttention.apply(query, key, value, layout, scoring))
