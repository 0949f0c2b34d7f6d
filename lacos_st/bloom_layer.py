"""One BLOOM layer over a frozen base as one step of the backward: it keeps little and computes the cheap rest again.

    x -> LN1 -> q, k, v -> attention -> o -> dense, + x -> x2 -> LN2 -> p -> GELU -> down, + x2 -> x3

Kept per token of a batch, in units of the hidden size: in 32 bits x, (q, k, v), o, x2 and p: 10; in 16 bits, where
memory is what a GPU is short of, o and x2 are computed again: 8, which is 16 bytes; with checkpointing only x: 1. Layer
norms and GELU are always computed again. Weights are de-quantised for each product anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import gelu

from lacos_st.attention import RaggedLayout, attend, attend_keeping, attend_with_pullback
from lacos_st.product import FrozenProduct
from lacos_st.upstream import gelu_, gelu_backward, layer_norm, layer_norm_backward


@dataclass(frozen=True)
class FrozenLayer:
    """The weights of one layer, as they stand when it is called; none of the base's is trained.

    Attributes:
        norms: input_layernorm and post_attention_layernorm.
        fused: query_key_value, H to 3H, ordered (heads, 3, head_dim).
        dense: H to H.
        up: dense_h_to_4h.
        down: dense_4h_to_h.
        heads: number of heads.
        scale: factor of the scores before the softmax.
    """

    norms: tuple[nn.LayerNorm, nn.LayerNorm]
    fused: FrozenProduct
    dense: FrozenProduct
    up: FrozenProduct
    down: FrozenProduct
    heads: int
    scale: float

    @property
    def products(self) -> tuple[FrozenProduct, ...]:
        """The four linear layers."""
        return self.fused, self.dense, self.up, self.down

    def attention(self, fused: torch.Tensor, layout: RaggedLayout, bias: Any) -> torch.Tensor:
        """From q, k and v (ΣT, 3H) to o (ΣT, H)."""
        query, key, value = fused.unflatten(-1, (self.heads, 3, -1)).unbind(2)
        return attend(query, key, value, layout, scale=self.scale, bias=bias).flatten(1)

    def attention_keeping(
        self, fused: torch.Tensor, layout: RaggedLayout, bias: Any
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The same, and what the backward of attention needs beside the two."""
        by_head = fused.unflatten(-1, (self.heads, 3, -1))
        mixed, sums = attend_keeping(by_head, layout, scale=self.scale, bias=bias)
        return mixed.flatten(1), sums

    def attention_with_pullback(
        self,
        fused: torch.Tensor,
        layout: RaggedLayout,
        bias: Any,
        kept: tuple[torch.Tensor, Sequence[torch.Tensor]] | None,
    ) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
        """The same, computed again unless it was kept, and the function from its gradient to that of q, k and v."""
        by_head = fused.unflatten(-1, (self.heads, 3, -1))
        if kept is not None:
            kept = (kept[0].unflatten(-1, (self.heads, -1)), kept[1])
        mixed, pullback = attend_with_pullback(by_head, layout, scale=self.scale, bias=bias, kept=kept)
        return mixed.flatten(1), lambda grad: pullback(grad.unflatten(1, (self.heads, -1))).flatten(1)


def run_layer(
    layer: FrozenLayer, hidden: torch.Tensor, layout: RaggedLayout, bias: Any, *, checkpoint: bool = False
) -> torch.Tensor:
    """One layer.

    Args:
        layer: its weights.
        hidden: x, (ΣT, H), in the layout's sorted order.
        layout: of the batch.
        bias: what `attend` adds to the scores.
        checkpoint: keep x alone for the backward.

    Returns:
        x3, (ΣT, H).
    """
    adapters = [weight for product in layer.products for weight in product.adapter]
    needs_grad = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (hidden, *adapters))
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    with torch.autocast(device, enabled=False):
        if needs_grad:
            return _Layer.apply(hidden, layer, layout, bias, dtype, checkpoint, *adapters)
        return _forward(layer, hidden, layout, bias, dtype)


def _forward(
    layer: FrozenLayer, hidden: torch.Tensor, layout: RaggedLayout, bias: Any, dtype: torch.dtype
) -> torch.Tensor:
    """x3, keeping nothing."""
    fused = layer.fused.forward(_norm(layer.norms[0], hidden)[0].to(dtype))
    mixed = layer.attention(fused, layout, bias)
    del fused
    middle = layer.dense.forward(mixed, residual=hidden)
    inner = layer.up.forward(_norm(layer.norms[1], middle)[0].to(dtype))
    return layer.down.forward(gelu_(inner, approximate="tanh"), residual=middle)


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        layer: FrozenLayer,
        layout: RaggedLayout,
        bias: Any,
        dtype: torch.dtype,
        checkpoint: bool,
        *adapters: torch.Tensor | None,
    ) -> torch.Tensor:
        ctx.layer, ctx.layout, ctx.bias, ctx.dtype = layer, layout, bias, dtype
        if checkpoint:
            ctx.save_for_backward(*adapters, hidden, None, None, None, None)
            return _forward(layer, hidden, layout, bias, dtype)
        fused = layer.fused.forward(_norm(layer.norms[0], hidden)[0].to(dtype))
        mixed, sums = layer.attention_keeping(fused, layout, bias)
        middle = layer.dense.forward(mixed, residual=hidden)
        inner = layer.up.forward(_norm(layer.norms[1], middle)[0].to(dtype))
        kept = (mixed, middle, inner, *sums) if dtype.itemsize > 2 else (None, None, inner)
        ctx.save_for_backward(*adapters, hidden, fused, *kept)  # the adapters, so that a change is noticed
        del fused, mixed, sums, kept
        return layer.down.forward(gelu(inner, approximate="tanh"), residual=middle)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        layer: FrozenLayer = ctx.layer
        hidden, fused, mixed, middle, inner, *sums = ctx.saved_tensors[2 * len(layer.products) :]
        with torch.autocast(hidden.device.type, enabled=False):
            normed, *statistics = _norm(layer.norms[0], hidden)
            normed = normed.to(ctx.dtype)
            if fused is None:
                fused = layer.fused.forward(normed)
            kept = None if mixed is None else (mixed, sums)
            mixed, pullback = layer.attention_with_pullback(fused, ctx.layout, ctx.bias, kept)
            if middle is None:
                middle = layer.dense.forward(mixed, residual=hidden)
            grad, feed_forward_grads = _feed_forward_backward(layer, middle, inner, grads[0], ctx.dtype)
            del middle, inner
            passed = grad.to(ctx.dtype)
            grad_mixed, grad_low = layer.dense.backward(passed)
            dense_grads = layer.dense.adapter_grads(mixed, passed, grad_low)
            grad_fused = pullback(grad_mixed)
            del fused, mixed, pullback, kept, grad_mixed
            grad_normed, grad_low = layer.fused.backward(grad_fused)
            fused_grads = layer.fused.adapter_grads(normed, grad_fused, grad_low)
            grad = _norm_backward(layer.norms[0], hidden, statistics, grad_normed).add_(grad)
        return grad, None, None, None, None, None, *fused_grads, *dense_grads, *feed_forward_grads


def _feed_forward_backward(
    layer: FrozenLayer, middle: torch.Tensor, inner: torch.Tensor | None, grad: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, tuple[torch.Tensor | None, ...]]:
    """The gradients of x2 (the residual's share included) and of the adapters of up and down.

    Args:
        layer: the weights.
        middle: x2, (ΣT, H).
        inner: p, (ΣT, 4H); None to compute it again.
        grad: of x3, (ΣT, H).
        dtype: of the products.
    """
    normed, *statistics = _norm(layer.norms[1], middle)
    normed = normed.to(dtype)
    if inner is None:
        inner = layer.up.forward(normed)
    passed = grad.to(dtype)
    grad_inner, grad_low = layer.down.backward(passed)
    down_grads: tuple[torch.Tensor | None, ...] = (None, None)
    if grad_low is not None:
        down_grads = layer.down.adapter_grads(gelu(inner, approximate="tanh"), passed, grad_low)
    gelu_backward(grad_inner, inner, approximate="tanh", grad_input=grad_inner)
    grad_normed, grad_low = layer.up.backward(grad_inner)
    up_grads = layer.up.adapter_grads(normed, grad_inner, grad_low)
    grad_middle = _norm_backward(layer.norms[1], middle, statistics, grad_normed).add_(grad)
    return grad_middle, (*up_grads, *down_grads)


def _norm(norm: nn.LayerNorm, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The normalised input, its mean and the reciprocal of its deviation."""
    normed, mean, inverse = layer_norm(inputs, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    return normed, mean, inverse


def _norm_backward(
    norm: nn.LayerNorm, inputs: torch.Tensor, statistics: list[torch.Tensor], grad: torch.Tensor
) -> torch.Tensor:
    """The gradient of the input, in its dtype."""
    grads = layer_norm_backward(
        grad.to(inputs.dtype), inputs, norm.normalized_shape, *statistics, norm.weight, norm.bias, [True, False, False]
    )
    return grads[0]
