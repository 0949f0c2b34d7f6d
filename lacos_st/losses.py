"""What the trainer asks of a loss, or of several: one for each data set, in a dict by their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

Losses = nn.Module | Mapping[str, nn.Module]


def by_prefix(loss: Any) -> dict[str, nn.Module]:
    """Losses by what the names of their weights begin with in a checkpoint: nothing, or the data set's name."""
    if isinstance(loss, nn.Module):
        return {"": loss}
    return {f"{name}.": each for name, each in loss.items()} if isinstance(loss, Mapping) else {}


def parts(loss: Any) -> list[nn.Module]:
    """All modules of all losses."""
    return [part for each in by_prefix(loss).values() for part in each.modules()]


def gathering(loss: Any) -> list[Any]:
    """The parts of a loss that gather embeddings from all processes."""
    return [part for part in parts(loss) if vars(part).get("gather_across_devices")]


def own_weights(loss: Losses) -> dict[str, torch.Tensor]:
    """The weights of a loss that are not its model's: tensors by name."""
    return {
        prefix + name: tensor
        for prefix, each in by_prefix(loss).items()
        for name, tensor in each.state_dict().items()
        if _is_own(name)
    }


def load_own_weights_(loss: Losses, weights: Mapping[str, torch.Tensor]) -> None:
    """Copy weights that `own_weights` gave into a loss.

    Raises:
        KeyError: one is missing.
    """
    for prefix, each in by_prefix(loss).items():
        own = {name: weights[prefix + name] for name in each.state_dict() if _is_own(name)}
        each.load_state_dict(own, strict=False)


def own_gradients(loss: Losses | None) -> dict[str, torch.Tensor]:
    """The gradients of a loss's own weights by name, of those that have one."""
    return {
        prefix + name: parameter.grad
        for prefix, each in by_prefix(loss).items()
        for name, parameter in each.named_parameters()
        if _is_own(name) and parameter.grad is not None
    }


def _is_own(name: str) -> bool:
    """Whether a tensor of a loss is its own: the model's lie in "model.", also of a loss in a loss ("loss.model.")."""
    return "model" not in name.split(".")[:-1]
