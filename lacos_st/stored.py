"""`Stored8bit`: a weight as 8-bit codes and absmax in the place of a float parameter; what the 8-bit layers share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from lacos_st.blockwise import dequantize
from lacos_st.errors import UserError
from lacos_st.upstream import (
    make_wrapper_subclass,
    mark_loaded_,
    no_torch_function,
    overrides,
    own_parameters,
    written_arguments,
)

NOT_WRITABLE = (
    "a weight stored in 8 bits cannot be written to (merging LoRA would quantise it a second time): merge into the "
    "16-bit base, or call lacos_st.dequantize_(model) first"
)


class StoredWeight(torch.Tensor):
    """The weight of an 8-bit layer to whoever reads it: shape, dtype and device at no cost, values when they are used.

    peft, and bitsandbytes' optimisers at every step, look at the weight of each layer without using it. Any operation
    de-quantises; writing is an error, so that a change (a merge of adapters, say) fails instead of getting lost.
    """

    layer: Stored8bit

    @staticmethod
    def __new__(cls, layer: Stored8bit) -> StoredWeight:  # noqa: D102
        like = layer.compute_dtype_like
        made = make_wrapper_subclass(cls, layer.codes.shape, dtype=like.dtype, device=like.device)
        made.layer = layer
        mark_loaded_(made)  # some models, ModernBERT's among them, initialise layers by name, marked or not
        return made

    def __init__(self, layer: Stored8bit) -> None:
        """`__new__` has done it all."""

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"{type(self).__name__}({self.layer})"

    # results of operations are plain tensors
    __torch_function__ = no_torch_function

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """De-quantise, then do as asked."""
        kwargs = kwargs or {}
        if any(isinstance(value, cls) for value in written_arguments(func, args, kwargs)):
            raise UserError(NOT_WRITABLE)

        def read(value: Any) -> Any:
            if isinstance(value, list | tuple):  # of tensors, in torch.cat
                return [read(item) for item in value]
            return value.layer.dequantized().to(value.device) if isinstance(value, cls) else value

        return func(*map(read, args), **{name: read(value) for name, value in kwargs.items()})

    @property
    def data(self) -> torch.Tensor:
        """The values, detached."""
        return self.detach()

    @data.setter
    def data(self, value: torch.Tensor) -> None:
        raise UserError(NOT_WRITABLE)


@overrides("_apply", package="torch")
class Stored8bit(nn.Module):
    """A weight as codes and absmax; what `Linear8bit` and `Embedding8bit` share.

    Buffers:
        codes: uint8 (rows, columns).
        absmax: float32 (rows, columns / block_size); no `.to()`, `.half()` or `.bfloat16()` changes its dtype.
        compute_dtype_like: empty, not saved; carries the dtype and device that `.to()` and `.half()` last asked for.

    Attributes:
        on_host: codes and absmax stay where they are, whatever device `.to()` asks for.
    """

    codes: torch.Tensor
    absmax: torch.Tensor
    compute_dtype_like: torch.Tensor
    block_size: int
    code: str
    on_host = False

    def store(self, codes: torch.Tensor, absmax: torch.Tensor, *, block_size: int, code: str) -> None:
        """Take over a stored weight in place of the float parameter.

        Args:
            codes: uint8 (rows, columns).
            absmax: float32 (rows, columns / block_size).
            block_size: values that share an absmax.
            code: "dynamic" or "linear".
        """
        weight = own_parameters(self).pop("weight", None)
        dtype = torch.get_default_dtype() if weight is None else weight.dtype
        self.block_size, self.code = block_size, code
        self.register_buffer("codes", codes)
        self.register_buffer("absmax", absmax)
        self.register_buffer("compute_dtype_like", torch.empty(0, dtype=dtype, device=codes.device), persistent=False)

    @property
    def weight(self) -> torch.Tensor:
        """The weight as floats, for reading: de-quantised anew at each use, see `StoredWeight`."""
        if "weight" in own_parameters(self):  # while a float checkpoint is being loaded
            return cast(torch.Tensor, own_parameters(self)["weight"])
        return StoredWeight(self)

    def dequantized(self, dtype: torch.dtype | None = None, rows: slice = slice(None)) -> torch.Tensor:
        """The weight, or some of its rows, as floats (rows, columns); in the dtype it computes in if none is given."""
        dtype = dtype or self.compute_dtype_like.dtype
        return dequantize(self.codes[rows], self.absmax[rows], block_size=self.block_size, code=self.code, dtype=dtype)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        stored = (self.codes, self.absmax)  # replaced, never away: another thread may be computing with them

        def keeping_dtype(tensor: torch.Tensor) -> torch.Tensor:
            if all(tensor is not one for one in stored):
                return fn(tensor)
            moved = tensor if self.on_host else fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(keeping_dtype, recurse)
