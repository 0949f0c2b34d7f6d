"""Flash attention's variable-length kernels on a GPU: the package flash_attn's, and those that come with torch.

Both take a flat batch as it is. torch's has no ALiBi: the bias then goes into columns that widen the heads. The
softmax of a row ignores what is added to all of it, so slope·j, which depends on head and key only, is as good as
slope·(j - i); and a score q·k over three more columns, 64 in the query and three parts of the bias in the key, is the
score plus the bias, added up in float32 by the kernel. Three parts in 16 bits hold the 24 digits of a float32.
"""

from __future__ import annotations

import torch
from torch.nn.functional import pad

from lacos_st.alibi import Alibi
from lacos_st.ragged import RaggedLayout
from lacos_st.scoring import Scoring, with_all_heads

PARTS = 3
"""16-bit numbers that together are one float32: 3 x 8 digits of bfloat16."""

UNIT = 64.0
"""The query's value in the bias columns: keeps the key's within float16 for sequences of 10⁵ tokens and more."""

ALIGNMENT = 8
"""The kernels want a head's width to be a multiple of this."""


def attend_by_flash_attn(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: RaggedLayout,
    scoring: Scoring,
) -> torch.Tensor:
    """`lacos_st.attention.attend` with the package flash_attn, whose kernel knows exact ALiBi and shared key heads."""
    from flash_attn import flash_attn_varlen_func  # type: ignore[import-not-found, unused-ignore]

    bias = scoring.bias
    slopes = bias.slopes if bias is not None and bias.kind == "exact" else None
    width = query.shape[-1]
    if bias is not None and slopes is None:
        query, key, value = widened(query, key, value, layout, scoring)
    lengths, longest = layout.cu_seq_lens, layout.max_length
    mixed = flash_attn_varlen_func(
        query,
        key,
        value,
        lengths,
        lengths,
        longest,
        longest,
        dropout_p=scoring.dropout,
        softmax_scale=scoring.scale,
        causal=scoring.causal,
        alibi_slopes=slopes,
    )
    return mixed[..., :width]


def attend_by_torch_varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: RaggedLayout,
    scoring: Scoring,
) -> torch.Tensor:
    """`lacos_st.attention.attend` with the flash attention inside torch (2.10 and later), which has no dropout."""
    from torch.nn.attention.varlen import varlen_attn

    assert scoring.dropout == 0.0, "the kernel has none"
    query, key, value = with_all_heads(query, key, value)
    width = query.shape[-1]
    query, key, value = widened(query, key, value, layout, scoring)
    lengths, longest = layout.cu_seq_lens, layout.max_length
    window = (-1, 0) if scoring.causal else (-1, -1)
    mixed = varlen_attn(query, key, value, lengths, lengths, longest, longest, scale=scoring.scale, window_size=window)
    assert isinstance(mixed, torch.Tensor)
    return mixed[..., :width]


def widened_width(head_dim: int, *, bias: bool) -> int:
    """Columns of a head with those of the bias, rounded up to what the kernels take."""
    return -(-(head_dim + PARTS * bias) // ALIGNMENT) * ALIGNMENT


def widened(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: RaggedLayout,
    scoring: Scoring,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Query, key and value for a kernel without a bias: causal attention on them is attention with the bias.

    Args:
        query: (ΣT, heads, head_dim).
        key: (ΣT, key heads, head_dim); as many heads as the query where there is a bias.
        value: (ΣT, key heads, head_dim).
        layout: of the batch.
        scoring: its scale and bias; no bias only rounds the width up.

    Returns:
        The three with `widened_width` columns; the values', and the mixed values', are zero beyond head_dim.
    """
    bias = scoring.bias
    more = widened_width(query.shape[-1], bias=bias is not None) - query.shape[-1]
    if not more:
        return query, key, value
    if bias is None:
        return pad(query, (0, more)), pad(key, (0, more)), pad(value, (0, more))
    heads = query.shape[1]
    ones = query.new_zeros(more)
    ones[:PARTS] = UNIT
    query = torch.cat([query, ones.expand(query.shape[0], heads, more)], -1)
    key = torch.cat([key, pad(_parts(bias, layout, key.dtype, scoring.scale), (0, more - PARTS))], -1)
    return query, key, pad(value, (0, more))


def _parts(bias: Alibi, layout: RaggedLayout, dtype: torch.dtype, scale: float) -> torch.Tensor:
    """The keys' bias columns, (ΣT, heads, PARTS) in `dtype`, made once per batch."""
    name = f"bias columns {bias.num_heads} {bias.kind} {dtype} {scale}"
    if name not in layout.prepared:
        rest = bias.by_key.t() / (scale * UNIT)
        parts = []
        for _ in range(PARTS):
            parts.append(rest.to(dtype))
            rest = rest - parts[-1].float()
        layout.prepared[name] = torch.stack(parts, -1)[layout.position_ids]
    return layout.prepared[name]
