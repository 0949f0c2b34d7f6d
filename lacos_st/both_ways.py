"""A decoder whose tokens see all of their text, not only what stands before them."""

from __future__ import annotations

from transformers import PreTrainedModel

from lacos_st.bloom import BloomEncoder
from lacos_st.errors import UserError

WAYS = ("causal", "bidirectional")


def check_way(attention: str) -> None:
    """That an option names a way of attention.

    Raises:
        UserError: it does not.
    """
    if attention not in WAYS:
        raise UserError(f'attention="{attention}" is unknown: choose "causal" or "bidirectional"')


def attend_both_ways_(model: PreTrainedModel) -> None:
    """Have every attention layer of a model behind `ragged_attention` look both ways.

    Raises:
        UserError: its attention cannot: BLOOM's position bias is defined for earlier tokens only, and some layers have
            no switch.
    """
    layers = [module for module in model.modules() if hasattr(module, "is_causal")]
    if isinstance(model, BloomEncoder) or not layers:
        raise UserError(
            f'attention="bidirectional" cannot be had of a {model.config.model_type}: '
            + ("its ALiBi is defined for earlier tokens only" if isinstance(model, BloomEncoder) else "no layer has it")
            + '; leave it "causal", or try echo=True, by which every token sees the whole text'
        )
    for layer in layers:
        setattr(layer, "is_causal", False)  # noqa: B010 -- an nn.Module's attributes are typed as tensors
