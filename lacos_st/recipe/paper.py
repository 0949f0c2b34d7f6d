"""Algorithm 1 of the recipe paper (Ziarko et al. 2024, arXiv 2406.04165): what it says, and no more.

It names a threshold between two methods, a range of ranks and which part of a model to freeze. It does not publish the
constants of its laws or the optimal sizes; what stands in their place here is marked as ours.
"""

from __future__ import annotations

from typing import Literal

from lacos_st.recipe.shapes import ModelShape

THRESHOLD_FLOPS = 9.06e16
"""At most this: full fine-tuning; above: LoRA. As stated; the printed frontiers, rounded, cross elsewhere."""
RANKS = (32, 128)
"""Of LoRA: "32 or 128" almost always, "around 128"."""
FEW_FROZEN_UP_TO = 85_056_000
"""N of pythia-160m: up to it, freeze as little as possible."""
FREEZE_MUCH_FROM = 805_736_448
"""N of pythia-1b: 50 to 70 % frozen is best there."""
MUCH = 0.6
"""The middle of those."""

TOKENS_PER_PARAMETER = 1.0
"""Ours, not the paper's, and not measured: D / N of the size that is taken where nobody's fit says better. Size and
data then grow alike with the budget, as in pretraining (Hoffmann et al. 2022, arXiv 2203.15556); and at each of the
paper's six budgets the size lies inside the grid that it swept, 14M to 2.8B."""
FEWEST_STEPS = 100
"""Ours: with fewer, a warm-up of a tenth of them is hardly one. Said, not held against a size."""

Method = Literal["full", "freeze", "lora", "lacos"]


def methods(budget_flops: float) -> tuple[Method, Method]:
    """The method of Algorithm 1 at a budget, and the other one.

    >>> methods(9.06e16)[0], methods(9.07e16)[0]
    ('full', 'lora')
    """
    return ("full", "lora") if budget_flops <= THRESHOLD_FLOPS else ("lora", "full")


def rank(shape: ModelShape) -> int:
    """128; 32 where that would be no low rank for the narrowest layer.

    The paper has r from C and N by a law that it does not print; 32 for narrow models is ours.
    """
    narrowest = min(min(layer.inputs, layer.outputs) for layer in shape.linears)
    return RANKS[1] if 2 * RANKS[1] <= narrowest else RANKS[0]


def frozen_blocks(shape: ModelShape) -> int:
    """How many of the first blocks to freeze: none up to 160M, six tenths from 1B on.

    In between the paper says nothing; the larger half of the way (by ratio) is counted to 1B, which is ours.
    """
    size = shape.without_embedding
    if size <= FEW_FROZEN_UP_TO or size**2 < FEW_FROZEN_UP_TO * FREEZE_MUCH_FROM:
        return 0
    return round(MUCH * shape.layers)
