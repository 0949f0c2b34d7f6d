"""Whether what was exported embeds as the trained model does: cosines of the probe sentences, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cosine_similarity

from lacos_st.errors import UserError
from lacos_st.pages import release_pages
from lacos_st.probes import embed_probes

LEAST_COSINE = {"trained": 0.9995, "original": 0.98}
"""Below it nothing is written. Trained weights lose their rounding to 16 bits, and are what the adapter was trained
on; original ones differ by what 8 bits lose, too."""

OWN_DTYPE_VALUES = 10**9
"""Larger models are not also tried in the dtype they are stored in: on a CPU that may take an hour."""


@dataclass(frozen=True)
class Fidelity:
    """Least cosine over the probe sentences between the exported model and the trained one.

    Attributes:
        float32: computed in float32.
        own: computed in the dtype of the weights, as the other library does if not told otherwise; None if not tried.
        own_dtype: that dtype.
    """

    float32: float
    own: float | None = None
    own_dtype: str = "float32"

    def check(self, least: float) -> None:
        """Refuse a model that is not the trained one.

        Raises:
            UserError: a cosine is below `least`, or is none.
        """
        if not self.float32 >= least:
            raise UserError(
                f"the exported model does not embed as the trained one: the least cosine of the probe sentences is "
                f"{self.float32:.6f}, expected {least} or more; nothing was written. --weights trained, a --dtype of "
                "more bits, or the base that the model was trained on may help"
            )
        if self.own is not None and not self.own >= min(least, LEAST_COSINE["original"]):
            raise UserError(
                f"computed in {self.own_dtype}, the exported model does not embed as the trained one (cosine "
                f"{self.own:.6f}, in float32 {self.float32:.6f}); nothing was written. Choose "
                f"--dtype {'bfloat16' if self.own_dtype == 'float16' else 'float32'}"
            )

    def __str__(self) -> str:
        text = f"{self.float32:.6f} in float32"
        return (
            text if self.own is None or self.own_dtype == "float32" else f"{text}, {self.own:.6f} in {self.own_dtype}"
        )


def fidelity(module: Any, expected: torch.Tensor) -> Fidelity:
    """Compare a stock `Transformer` with the saved embeddings of the probes.

    Args:
        module: sentence-transformers' `Transformer`, on the CPU; its weights may be mapped from files.
        expected: float32 (len(PROBES), H).
    """
    model: Any = module.model
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point() and p.dtype)
    with _one_layer_at_a_time(model, torch.float32):
        exact = least_cosine(embed_probes(module), expected)
    own = None
    if dtype != torch.float32 and sum(p.numel() for p in model.parameters()) <= OWN_DTYPE_VALUES:
        with _one_layer_at_a_time(model, None):
            own = least_cosine(embed_probes(module), expected)
    return Fidelity(exact, own, str(dtype).removeprefix("torch."))


def least_cosine(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Over rows (N, H) of two matrices; NaN where one has a NaN."""
    if found.shape != expected.shape:
        return float("nan")
    same = (found == expected).all(1)  # also two zero vectors
    cosines = cosine_similarity(found.double(), expected.double()).masked_fill(same, 1.0)
    return float("nan") if bool(cosines.isnan().any()) else float(cosines.min())


@contextmanager
def _one_layer_at_a_time(model: Any, dtype: torch.dtype | None) -> Iterator[None]:
    """Have each layer compute in `dtype` (None: its own), and give back the pages of its mapped weights after it.

    Of the token embedding only the rows that are looked up are read; tables of positions are small, and some look up
    others than they are asked for (OPT's). Adapters are cast beforehand, as peft looks at their
    dtype before it calls them.
    """
    handles = []
    tokens = model.get_input_embeddings()
    tokens = getattr(tokens, "base_layer", tokens)
    adapters = {p: p.data for name, p in model.named_parameters() if ".lora_" in name and dtype is not None}
    for parameter, data in adapters.items():
        parameter.data = data.to(dtype)

    def before(module: nn.Module, args: tuple[Any, ...]) -> Any:
        kept = {name: parameter.data for name, parameter in module.named_parameters(recurse=False)}
        module.__dict__["_kept"] = kept
        if dtype is None:
            return None
        if module is tokens:
            rows, inverse = args[0].unique(return_inverse=True)
            module.weight.data, args = kept["weight"][rows].to(dtype), (inverse, *args[1:])
            module.__dict__["_padding"], module.padding_idx = module.padding_idx, None
            return args
        for name, parameter in module.named_parameters(recurse=False):
            parameter.data = kept[name].to(dtype)
        return None

    def after(module: nn.Module, args: Any, result: Any) -> None:
        for name, data in module.__dict__.pop("_kept").items():
            getattr(module, name).data = data
            if module is not tokens:  # of which a few rows were read
                release_pages(data)
        if "_padding" in module.__dict__:
            module.padding_idx = module.__dict__.pop("_padding")

    for name, module in model.named_modules():
        if ".lora_" not in name and next(module.parameters(recurse=False), None) is not None:
            handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for parameter, data in adapters.items():
            parameter.data = data
