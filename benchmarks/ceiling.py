"""The ceiling: the model's matrix products alone, as plain float32 `sgemm` on the same number of real tokens."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from benchmarks.synthetic import Shape

MOST_LAYERS = 2
"""Layers are alike, so two of them (100 MB of weights at a width of 1024, more than the caches hold) give the rate."""


class Ceiling:
    """Forward x·Wᵀ, and for training also backward g·W, over weights of the model's shapes.

    Args:
        shape: fields of `Shape`.
        training: whether the backward product is included.
    """

    def __init__(self, shape: dict[str, int], *, training: bool) -> None:
        self.shape = Shape(**shape)
        self.training = training
        generator = torch.Generator().manual_seed(0)
        layers = min(MOST_LAYERS, self.shape.layers)
        self.weights = [torch.randn(s, generator=generator) for _ in range(layers) for s in self.shape.linear]

    def repeat(self, batches: list[int]) -> dict[str, Any]:
        """Run the products of these batches, outputs preallocated and not.

        Args:
            batches: real tokens in each.

        Returns:
            GFLOP/s by form.
        """
        widest = 4 * self.shape.hidden
        source = torch.randn(max(batches), widest)
        results = torch.empty(max(batches) * widest)
        directions = 2 if self.training else 1
        flops = directions * sum(2 * tokens * weight.numel() for tokens in batches for weight in self.weights)
        seconds = {}
        for form in ("preallocated", "allocating"):
            out = results if form == "preallocated" else None
            start = time.perf_counter()
            for tokens in batches:
                inputs = {width: source.flatten()[: tokens * width].view(tokens, width) for width in self._widths}
                for weight in self.weights:
                    rows, columns = weight.shape
                    _product(inputs[columns], weight.T, out)
                if self.training:
                    for weight in reversed(self.weights):
                        _product(inputs[weight.shape[0]], weight, out)
            seconds[form] = time.perf_counter() - start
        return {"gflops": {form: flops / value / 1e9 for form, value in seconds.items()}}

    @property
    def _widths(self) -> set[int]:
        return {width for shape in self.shape.linear for width in shape}


def _product(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor | None) -> None:
    size = (left.shape[0], right.shape[1])
    torch.mm(left, right, out=None if out is None else out[: size[0] * size[1]].view(size))


def fastest(answers: list[dict[str, Any]]) -> tuple[str, list[float]]:
    """The form whose median over the turns is highest, and its GFLOP/s turn by turn."""
    forms = {form: [answer["gflops"][form] for answer in answers] for form in answers[0]["gflops"]}
    form = max(forms, key=lambda name: statistics.median(forms[name]))
    return form, forms[form]
