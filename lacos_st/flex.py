"""FlexAttention: torch's own compiled ragged kernel, for GPUs and dtypes that flash attention does not serve.

The mask and the bias are functions of two tokens' places in the flat batch; the block mask, which says which tiles the
kernel has to visit at all, is made once per batch, from the sequences' ends and not by looking at all pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from lacos_st.alibi import Alibi
from lacos_st.ragged import RaggedLayout
from lacos_st.scoring import Scoring

TILE = 128
"""Tokens to a side of a tile, FlexAttention's default."""

Mod = Callable[..., torch.Tensor]


@cache
def compiled() -> Any:
    """`flex_attention` compiled once for all lengths and batch sizes."""
    return torch.compile(flex_attention, dynamic=True)


def attend_by_flex(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: RaggedLayout,
    scoring: Scoring,
    *,
    kernel: Callable[..., Any] | None = None,
) -> torch.Tensor:
    """`lacos_st.attention.attend` with FlexAttention, which has no dropout; `kernel` replaces the compiled one."""
    assert scoring.dropout == 0.0, "the kernel has none"
    flat = (tensor.transpose(0, 1).unsqueeze(0) for tensor in (query, key, value))
    mixed = (kernel or compiled())(
        *flat,
        score_mod=None if scoring.bias is None else bias_mod(layout, scoring.bias),
        block_mask=block_mask(layout, is_causal=scoring.causal),
        scale=scoring.scale,
        enable_gqa=key.shape[1] != query.shape[1],
    )
    return mixed.squeeze(0).transpose(0, 1)


def bias_mod(layout: RaggedLayout, bias: Alibi) -> Mod:
    """What adds the bias to a score, given batch, head, query's and key's place; one function for all layers.

    Within a sequence the distance of two places in the flat batch is that of two positions.
    """
    name = f"flex bias {bias.num_heads} {bias.kind} {bias.dtype}"
    if name not in layout.prepared:
        slopes, by_key, position = bias.slopes, bias.by_key, layout.position_ids

        def exact(score: torch.Tensor, b: Any, head: Any, q: Any, k: Any) -> torch.Tensor:
            return score + slopes[head] * (k - q)

        def reference(score: torch.Tensor, b: Any, head: Any, q: Any, k: Any) -> torch.Tensor:
            return score + by_key[head, position[k]]

        layout.prepared[name] = exact if bias.kind == "exact" else reference
    return layout.prepared[name]


def block_mask(layout: RaggedLayout, *, is_causal: bool) -> BlockMask:
    """Which pairs of places belong to one sequence (and, if causal, key not after query), tile by tile."""
    name = f"flex mask {is_causal}"
    if name in layout.prepared:
        return layout.prepared[name]
    total = layout.position_ids.shape[0]
    places = torch.arange(total, device=layout.position_ids.device)
    first_place = (places - layout.position_ids).to(torch.int32)  # of each token's sequence

    def causal(b: Any, head: Any, q: Any, k: Any) -> torch.Tensor:
        return (first_place[q] == first_place[k]) & (k <= q)

    def full(b: Any, head: Any, q: Any, k: Any) -> torch.Tensor:
        return first_place[q] == first_place[k]

    tiles = -(-total // TILE)
    rows = torch.arange(tiles, device=places.device)
    first = first_place[rows * TILE] // TILE
    last = rows
    if not is_causal:
        last_place = ((rows + 1) * TILE - 1).clamp_(max=total - 1)
        next_sequence = torch.searchsorted(layout.cu_seq_lens, last_place.to(torch.int32), right=True)
        last = (layout.cu_seq_lens[next_sequence] - 1) // TILE
    order = (first[:, None] + rows) % tiles  # the tiles to visit come first, as a permutation of all
    layout.prepared[name] = BlockMask.from_kv_blocks(
        (last - first + 1).to(torch.int32)[None, None],
        order.to(torch.int32)[None, None],
        BLOCK_SIZE=TILE,
        mask_mod=causal if is_causal else full,
        seq_lengths=(total, total),
    )
    return layout.prepared[name]
