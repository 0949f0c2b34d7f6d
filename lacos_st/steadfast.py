"""A frozen base stays what it is, whatever state dict somebody loads into the model."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lacos_st.adapters import adapter_parameters, is_quantized
from lacos_st.errors import UserError


def keep_base(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Hook before `load_state_dict`: a frozen base is compared with what is to be loaded, and never written.

    The stock trainer restores a checkpoint by loading a second model and copying all of it over the first; float
    weights over 8-bit codes would be truncated to zeros.

    Args:
        module: a `LoRA8bit`.
        state_dict: what is to be loaded; the base's entries become the module's own tensors.
        prefix: of the module's names in it.
        *_: what else the hook is given.

    Raises:
        UserError: an entry of the base is not bit-equal to the module's own; nothing has been loaded by then.
    """
    if not (adapter_parameters(module) or is_quantized(module)):
        return
    for name, own in module.state_dict(keep_vars=True).items():
        given = state_dict.get(prefix + name)
        if ".lora_" in name or given is None:
            continue
        if given.dtype != own.dtype or given.shape != own.shape or not torch.equal(given.to(own.device), own):
            raise UserError(
                f"what is to be loaded is not of this model's frozen base: {name} is {_of(given)}, the base's own "
                f"{_of(own)}. Nothing was loaded. Take the checkpoint of a run that started from this base, in this "
                "dtype and quantisation; where the dtype alone differs, restore_adapter(folder) reads its adapter"
            )
        state_dict[prefix + name] = own


def _of(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}, sum {float(tensor.sum()):.6g}"
