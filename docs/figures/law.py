"""What a budget buys: tokens for each published size, counted by the package's cost model. No loss: none is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lacos_st.canvas import COLOURS
from lacos_st.recipe.cost import Parameters, parameters
from lacos_st.recipe.paper import THRESHOLD_FLOPS, rank
from lacos_st.recipe.published import published_shape
from lacos_st.recipe.units import show_flops

SIZES = ("14m", "31m", "70m", "160m", "410m", "1b", "1.4b", "2.8b")
"""Of Pythia, as in the recipe paper's grid."""
BUDGETS = (1.5e15, 6e15, 2.4e16, 9.6e16, 3.8e17, 1.5e18)
"""The recipe paper's six (arXiv 2406.04165)."""


def tokens(budget_flops: float, counts: Sequence[Parameters]) -> np.ndarray:
    """D = C / (2·N_F + 2·N_B + 2·N_U) of each size."""
    return np.array([budget_flops / (2 * (one.forward + one.backward + one.updated)) for one in counts])


def draw(canvas: Any) -> None:
    """A line a budget, from the smallest model on most tokens to the largest on fewest."""
    axes = canvas.subplots()
    shapes = [published_shape(f"pythia-{size}") for size in SIZES]
    sizes = np.array([shape.without_embedding for shape in shapes], dtype=float)
    counts = {
        "full": [parameters(shape, "full") for shape in shapes],
        "lora": [parameters(shape, "lora", rank=rank(shape), targets="recipe") for shape in shapes],
    }
    for place, budget in enumerate(BUDGETS):
        colour = COLOURS[place]
        full, lora = (tokens(budget, counts[method]) for method in ("full", "lora"))
        axes.loglog(sizes, full, "o-", color=colour, markersize=3.5, linewidth=1.2)
        axes.loglog(sizes, lora, "s--", color=colour, markersize=3, linewidth=0.9)
        method = "full" if budget <= THRESHOLD_FLOPS else "LoRA"
        axes.text(
            sizes[-1] * 1.3,
            (full[-1] * lora[-1]) ** 0.5,
            f"{show_flops(budget)}: {method}",
            color=colour,
            va="center",
            size=8,
        )
    axes.plot([], [], "o-", color="black", markersize=3.5, label="full fine-tuning")
    axes.plot([], [], "s--", color="black", markersize=3, label="LoRA (rank 128; 32 where a layer is narrow)")
    axes.legend(frameon=False, fontsize=8, loc="lower left")
    axes.set(xlabel="N, parameters without the token embedding", ylabel="D, tokens that the budget pays for")
    axes.set_xlim(sizes[0] * 0.8, sizes[-1] * 6)
    axes.set_title("Budgets of the recipe paper, and the method it takes at each", loc="left", size=9)
