"""`Folding`: every weight of a plain model in its turn, base plus adapter, a few rows at a time.

The base is hashed on the way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from lacos_st.blockwise import dequantize
from lacos_st.checkpoint import add_to_hash
from lacos_st.errors import UserError
from lacos_st.export.low_rank import LowRank
from lacos_st.linear import storable_layers
from lacos_st.pages import release_pages
from lacos_st.quantizer import UNUSED, Blockwise8bitConfig, quantize_and_release
from lacos_st.stored import Stored8bit

SLAB_VALUES = 2**22
"""Values that are floats at a time: 16 MiB."""


@dataclass(frozen=True)
class Slot:
    """A tensor of the plain model: its name and shape, and whether its values are floats."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


class Folding:
    """Goes once through a base, in the order in which `base_hash` does.

    Args:
        model: the base as `open_base` gives it: float tensors that are mapped from its files, or 8-bit layers.
        low_rank: the adapter; None leaves the base as it is.
        quantization: of a float base in the trained model; None if that was not quantised.
        trained: whether float weights go through 8 bits as in the trained model, or stay as they are.

    Raises:
        UserError: the adapter belongs to another base; or original weights are asked for, and there are none.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        low_rank: LowRank | None,
        *,
        quantization: Blockwise8bitConfig | None,
        trained: bool = True,
    ) -> None:
        self._state: dict[str, torch.Tensor] = model.state_dict()
        self._low_rank, self._trained, self._digest = low_rank, trained, hashlib.sha256()
        self._stored = {name: layer for name, layer in model.named_modules() if isinstance(layer, Stored8bit)}
        if self._stored and not trained:
            raise UserError(
                "the base is stored in 8 bits, so there are no original weights to fold the adapter into: leave out "
                "--weights original, or name the float base with --base"
            )
        self._blocks: dict[str, tuple[int, str]] = {
            name: (layer.block_size, layer.code) for name, layer in self._stored.items()
        }
        if quantization is not None and not self._stored:
            storable = storable_layers(model, skip=[*quantization.skip, *UNUSED])
            self._blocks = {name: (quantization.block_size, quantization.code) for name, _ in storable}
        self._names = sorted(
            part for name in self._state for part in (self._parts(name) if not self._stored else (name,))
        )
        self.slots = [slot for name in self._names if (slot := self._slot(name)) is not None]
        if low_rank is not None:
            low_rank.check({slot.name: slot.shape for slot in self.slots})

    def _parts(self, name: str) -> tuple[str, ...]:
        """Under which names a float tensor is hashed: those that it has in the trained model."""
        layer = name.removesuffix(".weight")
        return (f"{layer}.absmax", f"{layer}.codes") if layer in self._blocks else (name,)

    def _slot(self, name: str) -> Slot | None:
        layer, _, kind = name.rpartition(".")
        if layer in self._blocks and kind == "absmax":
            return None
        if layer in self._blocks and kind == "codes":
            held = self._state[name if self._stored else f"{layer}.weight"]
            return Slot(f"{layer}.weight", tuple(held.shape), torch.float32)
        held = self._state[name]
        return Slot(name, tuple(held.shape), torch.float32 if held.is_floating_point() else held.dtype)

    def __iter__(self) -> Iterator[tuple[Slot, Iterator[torch.Tensor]]]:
        """Each of `slots` with its rows, which are float32, or as they are where they are no floats."""
        held: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        slots = iter(self.slots)
        for name in self._names:
            layer, _, kind = name.rpartition(".")
            if layer in self._blocks and kind == "absmax":
                held[layer] = self._codes(layer)
                add_to_hash(self._digest, name, held[layer][1])
            elif layer in self._blocks and kind == "codes":
                codes, absmax = held.pop(layer)
                add_to_hash(self._digest, name, codes)
                yield next(slots), self._folded(layer, codes, absmax)
                release_pages(codes)
            else:
                add_to_hash(self._digest, name, self._state[name])
                yield next(slots), self._plain(name)
                release_pages(self._state[name])

    @property
    def sha256(self) -> str:
        """`base_hash` of the base, once it has been gone through."""
        return self._digest.hexdigest()

    def _codes(self, layer: str) -> tuple[torch.Tensor, torch.Tensor]:
        if self._stored:
            return self._state[f"{layer}.codes"], self._state[f"{layer}.absmax"]
        block_size, code = self._blocks[layer]
        weight = self._state[f"{layer}.weight"]
        try:
            return quantize_and_release(weight.detach(), block_size=block_size, code=code, name=layer)
        except ValueError as error:
            raise UserError(str(error)) from error

    def _folded(self, layer: str, codes: torch.Tensor, absmax: torch.Tensor) -> Iterator[torch.Tensor]:
        block_size, code = self._blocks[layer]
        for start, stop in _slabs(codes):
            if self._trained:
                values = dequantize(codes[start:stop], absmax[start:stop], block_size=block_size, code=code)
            else:
                values = self._floats(f"{layer}.weight", start, stop)
            yield self._with_adapter(values, layer, start)

    def _plain(self, name: str) -> Iterator[torch.Tensor]:
        whole = self._state[name]
        if not whole.is_floating_point() or whole.ndim < 2:
            yield whole.float() if whole.is_floating_point() else whole
            return
        for start, stop in _slabs(whole):
            yield self._with_adapter(self._floats(name, start, stop), name.removesuffix(".weight"), start)

    def _floats(self, name: str, start: int, stop: int) -> torch.Tensor:
        part = self._state[name][start:stop]
        values = part.to(torch.float32, copy=True)
        release_pages(part)
        return values

    def _with_adapter(self, values: torch.Tensor, layer: str, start: int) -> torch.Tensor:
        if self._low_rank is not None:
            self._low_rank.add_(values, layer, start=start)
        return values


def _slabs(tensor: Any) -> Iterator[tuple[int, int]]:
    """First and last rows of a tensor that are taken at a time."""
    rows = max(1, SLAB_VALUES // max(1, tensor[0].numel())) if len(tensor) else 1
    return ((start, min(start + rows, len(tensor))) for start in range(0, len(tensor), rows))
