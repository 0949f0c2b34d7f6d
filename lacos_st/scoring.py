"""How the scores of attention are made into weights: what every kernel is told beside queries, keys and values."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lacos_st.alibi import Alibi


@dataclass(frozen=True)
class Scoring:
    """What stands between q·k and the weights of the values.

    Attributes:
        scale: factor of the scores before the softmax.
        bias: added to the scores; None for nothing.
        is_causal: whether a token sees only itself and earlier ones; so it is with a `bias`, whatever this says.
        dropout: probability with which a weight is dropped.
    """

    scale: float
    bias: Alibi | None = None
    is_causal: bool = False
    dropout: float = 0.0

    @property
    def causal(self) -> bool:
        """Whether a token sees only itself and earlier ones."""
        return self.is_causal or self.bias is not None


def with_all_heads(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Keys and values (ΣT, key heads, D) repeated to the heads of the query, for kernels that do not share them."""
    groups = query.shape[1] // key.shape[1]
    if groups == 1:
        return query, key, value
    return query, key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
