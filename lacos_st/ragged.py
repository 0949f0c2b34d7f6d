"""Flat batches: where each sequence lies, and the order in which those of one length lie side by side.

A flat batch holds the real tokens of N sequences one after another, (ΣT, ...), and `cu_seq_lens`, int32 (N + 1,), the
running sum of their lengths: the public convention of flash attention's variable-length kernels and of
sentence-transformers. Sequences are sorted by length once per batch, so that each run of one length is a plain view
(n, L, heads, head_dim) and no kernel needs padding.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch


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
        cu_seq_lens: int32 (n + 1,), running sum of the sorted lengths, without empty sequences.
        runs: the sorted sequences as runs of equal length, without empty sequences.
        max_length: length of the longest sequence in tokens, 0 for an empty batch.
        prepared: what an attention kernel made of this layout at its first call, for the layers to come.
    """

    order: torch.Tensor | None
    position_ids: torch.Tensor
    cu_seq_lens: torch.Tensor
    runs: tuple[Run, ...]
    max_length: int
    prepared: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

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
    ends = sorted_lengths.cumsum(0)
    total = int(cumulative[-1])
    position_ids = torch.arange(total) - torch.repeat_interleave(ends - sorted_lengths, sorted_lengths)
    order = None
    if not torch.equal(sorted_lengths, lengths):
        order = torch.repeat_interleave(cumulative[:-1][ranks], sorted_lengths) + position_ids
        order = order.to(device)
    values, counts = torch.unique_consecutive(sorted_lengths, return_counts=True)
    runs = tuple(Run(count, length) for length, count in zip(values.tolist(), counts.tolist(), strict=True) if length)
    filled = torch.cat([torch.zeros(1, dtype=torch.int64), ends[sorted_lengths > 0]]).to(device, torch.int32)
    return RaggedLayout(order, position_ids.to(device), filled, runs, runs[-1].length if runs else 0)


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
