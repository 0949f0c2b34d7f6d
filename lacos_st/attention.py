"""Ragged attention: softmax over each sequence of a flat batch, with no padding and no quadratic memory.

`attend` has the kernel that fits do it; `ragged_attention` puts it behind transformers' attention interface.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

from lacos_st.alibi import Alibi, alibi_slopes
from lacos_st.errors import UserError
from lacos_st.kernels import CPU, Request, choose
from lacos_st.ragged import RaggedLayout, Run, padded_to_flat, ragged_layout
from lacos_st.scoring import Scoring
from lacos_st.sdpa import attend_backward_, attend_forward

__all__ = [
    "RAGGED",
    "Alibi",
    "RaggedLayout",
    "Run",
    "alibi_slopes",
    "attend",
    "attend_keeping",
    "attend_with_pullback",
    "padded_to_flat",
    "ragged_attention",
    "ragged_layout",
]

RAGGED = "lacos_ragged"
"""The name under which `ragged_attention` is registered with transformers' attention interface."""


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: RaggedLayout,
    *,
    scale: float,
    bias: Alibi | None = None,
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
        bias: added to the scores; causal.
        is_causal: a token sees only itself and earlier ones; so it is with a `bias`, whatever this says.
        dropout: probability with which attention weights are dropped; above 0, memory grows with the square of the
            longest sequence, as the weights are kept for the backward.

    Returns:
        (ΣT, heads, head_dim).
    """
    device = query.device.type
    if torch.is_autocast_enabled(device):  # as it would for torch's own attention
        query, key, value = (tensor.to(torch.get_autocast_dtype(device)) for tensor in (query, key, value))
    if not layout.max_length:
        return query
    scoring = Scoring(scale, bias, is_causal, dropout)
    return choose(Request.of(query, key, value, scoring)).attend(query, key, value, layout, scoring)


def attend_keeping(
    fused: torch.Tensor, layout: RaggedLayout, *, scale: float, bias: Alibi | None
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """`attend` outside autograd, with what `attend_with_pullback` can start from.

    Args:
        fused: query, key and value of each head side by side, (ΣT, heads, 3, head_dim).
        layout: of the batch.
        scale: factor of the scores before the softmax.
        bias: added to the scores; causal.

    Returns:
        (ΣT, heads, head_dim); and the logarithms of the softmax's sums, an empty list where the kernel has its own.
    """
    query, key, value = fused.unbind(2)
    if _by_hand(fused, layout, bias):
        return attend_forward(query, key, value, layout, Scoring(scale, bias))
    return attend(query, key, value, layout, scale=scale, bias=bias), []


def attend_with_pullback(
    fused: torch.Tensor,
    layout: RaggedLayout,
    *,
    scale: float,
    bias: Alibi | None,
    kept: tuple[torch.Tensor, Sequence[torch.Tensor]] | None = None,
) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
    """`attend` for those who write their backward by hand.

    Args:
        fused: as in `attend_keeping`.
        layout: as in `attend_keeping`.
        scale: as in `attend_keeping`.
        bias: as in `attend_keeping`.
        kept: what `attend_keeping` gave, to be spared the forward; with an empty list it is done again.

    Returns:
        (ΣT, heads, head_dim); and the function from its gradient to that of `fused`.
    """
    if _by_hand(fused, layout, bias):
        mixed, sums = kept if kept and kept[1] else attend_keeping(fused, layout, scale=scale, bias=bias)

        def by_hand(grad: torch.Tensor) -> torch.Tensor:
            result = torch.empty_like(fused)
            gradients = (result[:, :, 0], result[:, :, 1], result[:, :, 2])
            query, key, value = fused.unbind(2)
            parts = (query, key, value, mixed, list(sums), layout)
            attend_backward_(gradients, grad.contiguous(), *parts, Scoring(scale, bias))
            return result

        return mixed, by_hand

    leaf = fused.detach().requires_grad_()
    with torch.enable_grad():
        query, key, value = leaf.unbind(2)
        graph = attend(query, key, value, layout, scale=scale, bias=bias)
    return graph.detach(), lambda grad: torch.autograd.grad(graph, leaf, grad)[0]


def _by_hand(fused: torch.Tensor, layout: RaggedLayout, bias: Alibi | None) -> bool:
    """Whether the kernel is the one whose backward `attend_backward_` is."""
    query, key, value = fused.unbind(2)
    return bool(layout.max_length) and choose(Request.of(query, key, value, Scoring(1.0, bias))) is CPU


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
            batch's longest sequence, attention sinks), has layers that are told by a mask alone whether they are
            causal, or was not called through a lacos_st module. UserError for the window, which a shorter text avoids.
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
        raise UserError(
            f"{type(module).__name__} attends within a window of {window} tokens, shorter than a sentence of "
            f"{layout.max_length}: set max_seq_length={window}"
        )
    for name in ("softcap", "s_aux", "position_bias"):
        if kwargs.get(name) is not None:
            raise ValueError(f"{type(module).__name__} needs {name}, which attention {RAGGED!r} does not compute")
    is_causal = kwargs.get("is_causal")
    if is_causal is None and (is_causal := getattr(module, "is_causal", None)) is None:
        raise ValueError(f"{type(module).__name__} does not say whether it is causal: its mask did, and there is none")
    mixed = attend(
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        layout,
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        is_causal=bool(is_causal),
        dropout=dropout,
    )
    return mixed.unsqueeze(0), None


def _no_mask(*args: Any, **kwargs: Any) -> None:
    """A flat batch needs no mask: sequences are told apart by the layout."""


AttentionInterface.register(RAGGED, ragged_attention)
AttentionMaskInterface.register(RAGGED, _no_mask)
