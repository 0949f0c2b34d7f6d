"""The product of a frozen linear layer with its LoRA adapter, forward and backward, as pure functions.

y = x·Wᵀ + b + s·(x·Aᵀ)·Bᵀ, with W frozen: stored in 8-bit blocks and de-quantised for the product, or a float. What the
backward needs beside its incoming gradient is x alone, which the caller keeps or computes again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeGuard, cast

import torch
from peft.tuners import lora
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from lacos_st.linear import Linear8bit


@dataclass(frozen=True)
class FrozenProduct:
    """A frozen linear layer, and the adapter on it if there is one.

    Attributes:
        layer: holds W (out, in) and b (out,), neither trainable.
        down: A, (r, in); None without an adapter.
        up: B, (out, r); None without an adapter.
        scaling: s.
    """

    layer: nn.Linear
    down: torch.Tensor | None
    up: torch.Tensor | None
    scaling: float

    @property
    def adapter(self) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """A and B."""
        return self.down, self.up

    def forward(self, inputs: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """The product, in the dtype of `inputs`.

        Args:
            inputs: x, (T, in).
            residual: (T, out), added to the result and left as it is; the result takes its dtype.

        Returns:
            (T, out).
        """
        dtype = inputs.dtype
        bias = None if self.layer.bias is None else self.layer.bias.to(dtype)
        product = (
            self.layer.product(inputs, bias)
            if isinstance(self.layer, Linear8bit)
            else linear(inputs, self.layer.weight.to(dtype), bias)
        )
        if self.down is not None and self.up is not None:
            product.addmm_(inputs @ self.down.to(dtype).t(), self.up.to(dtype).t(), alpha=self.scaling)
        if residual is None:
            return product
        return product.add_(residual) if residual.dtype == dtype else residual + product

    def backward(self, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The gradient of x; and that of x·Aᵀ, which the adapter's own gradients are made of.

        Args:
            grad: of y, (T, out).

        Returns:
            (T, in), and (T, r) or None without an adapter.
        """
        grad_inputs = (
            self.layer.product_backward(grad)
            if isinstance(self.layer, Linear8bit)
            else torch.mm(grad, self.layer.weight.to(grad.dtype))
        )
        if self.down is None or self.up is None:
            return grad_inputs, None
        grad_inner = torch.mm(grad, self.up.to(grad.dtype)).mul_(self.scaling)
        return grad_inputs.addmm_(grad_inner, self.down.to(grad.dtype)), grad_inner

    def adapter_grads(
        self, inputs: torch.Tensor, grad: torch.Tensor, grad_inner: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """The gradients of A and B, in their dtypes.

        Args:
            inputs: x, (T, in).
            grad: of y, (T, out).
            grad_inner: what `backward` gave for it.
        """
        if self.down is None or self.up is None or grad_inner is None:
            return None, None
        inner = inputs @ self.down.to(inputs.dtype).t()
        grad_up = torch.mm(inner.t(), grad).t().mul(self.scaling)  # that way round: (r, T)·(T, out) is the faster one
        return torch.mm(grad_inner.t(), inputs).to(self.down.dtype), grad_up.to(self.up.dtype)


class FusedLoRALinear(lora.Linear):
    """peft's LoRA around a linear layer, for any architecture, that keeps its input once and nothing else.

    Adapters take part in the product in the dtype of the product, also where they are stored as float32. Whatever
    `frozen_product` cannot take goes peft's own way.
    """

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """x: (..., in); returns (..., out)."""
        product = frozen_product(self, training=self.training)
        if product is None or args or kwargs:
            return super().forward(x, *args, **kwargs)
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        with torch.autocast(device, enabled=False):
            return _Product.apply(x, product, dtype, *product.adapter)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        inputs: torch.Tensor,
        product: FrozenProduct,
        dtype: torch.dtype,
        down: torch.Tensor | None,
        up: torch.Tensor | None,
    ) -> torch.Tensor:
        ctx.product, ctx.dtype, ctx.input_dtype = product, dtype, inputs.dtype
        ctx.save_for_backward(*(() if down is None else (inputs, down, up)))  # x's gradient needs the weight alone
        return product.forward(inputs.flatten(0, -2).to(dtype)).unflatten(0, inputs.shape[:-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        product: FrozenProduct = ctx.product
        down = up = None
        with torch.autocast(grads[0].device.type, enabled=False):
            grad = grads[0].flatten(0, -2)
            grad_inputs, grad_low = product.backward(grad)
            if saved := ctx.saved_tensors:  # read once: a checkpointed tensor is given out once
                inputs = saved[0]
                down, up = product.adapter_grads(inputs.flatten(0, -2).to(ctx.dtype), grad, grad_low)
        return grad_inputs.to(ctx.input_dtype).unflatten(0, grads[0].shape[:-1]), None, None, down, up


def frozen_product(layer: nn.Module, *, training: bool) -> FrozenProduct | None:
    """`layer` as a `FrozenProduct`; None where it is something else and has to be called as a module.

    Something else is: a base weight or bias that is trained, an adapter with dropout, several or merged adapters, or
    one of the variants of LoRA that peft has.

    Args:
        layer: a linear layer, or peft's LoRA around one.
        training: whether dropout counts.
    """
    if not isinstance(layer, lora.LoraLayer):
        return FrozenProduct(layer, None, None, 1.0) if _is_frozen(layer) else None
    base: Any = layer.get_base_layer()
    if not _is_frozen(base) or layer.merged or layer.lora_variant:
        return None
    if layer.disable_adapters or not layer.active_adapters:
        return FrozenProduct(base, None, None, 1.0)
    if len(layer.active_adapters) != 1 or (name := layer.active_adapters[0]) not in layer.lora_A:
        return None
    if training and not isinstance(layer.lora_dropout[name], nn.Identity):
        return None
    down, up = cast(nn.Linear, layer.lora_A[name]), cast(nn.Linear, layer.lora_B[name])
    if up.bias is not None:
        return None
    return FrozenProduct(base, down.weight, up.weight, layer.scaling[name])


def _is_frozen(layer: nn.Module) -> TypeGuard[nn.Linear]:
    if not isinstance(layer, nn.Linear) or (type(layer) is not nn.Linear and not isinstance(layer, Linear8bit)):
        return False
    return not any(parameter.requires_grad for parameter in layer.parameters())
