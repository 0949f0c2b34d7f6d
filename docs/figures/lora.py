"""A BLOOM layer as boxes; those with adapters are the ones that the package puts adapters on."""

from __future__ import annotations

from typing import Any

from lacos_st.canvas import COLOURS
from lacos_st.embedded import resolve
from lacos_st.recipe.shapes import lora_targets, shape_of

LAYERS = (
    ("word_embeddings", "token embedding"),
    ("query_key_value", "query, key, value"),
    ("attention", "attention, ALiBi"),
    ("dense", "attention output"),
    ("dense_h_to_4h", "feed-forward, up"),
    ("dense_4h_to_h", "feed-forward, down"),
    ("pooling", "mean over tokens"),
)
"""What a token passes, in order; of those between the first and the last there are as many as the model has layers."""
FREE = {"attention": "no weights", "pooling": "no weights"}


def adapted(targets: str) -> set[str]:
    """The last parts of the names of what has adapters, of the embedded BLOOM."""
    from transformers import AutoConfig

    layers, embedding = lora_targets(shape_of(AutoConfig.from_pretrained(resolve("bloom-nano"))), targets)
    return {layer.name.rpartition(".")[2] for layer in layers} | ({"word_embeddings"} if embedding else set())


def draw(canvas: Any) -> None:
    """Boxes from left to right for both papers' choice of places."""
    axes = canvas.subplots()
    axes.set_axis_off()
    axes.set(xlim=(-0.1, len(LAYERS)), ylim=(0.15, 4.65))
    both = {"paper": adapted("paper"), "recipe": adapted("recipe")}
    for place, (name, label) in enumerate(LAYERS):
        weights = name not in FREE
        axes.add_patch(_box(place, 1.9, 0.86, 1.3, COLOURS[0] if weights else "#777777"))
        text = label.replace(", ", ",\n").replace(" over", "\nover").replace("token ", "token\n").replace("n o", "n\no")
        axes.text(place + 0.43, 2.55, text, ha="center", va="center", size=8, color="white")
        axes.text(place + 0.43, 1.72, "8-bit, frozen" if weights else FREE[name], ha="center", va="top", size=7.5)
        if place:
            axes.annotate("", (place, 2.55), (place - 0.14, 2.55), arrowprops={"arrowstyle": "->", "lw": 1})
        for height, (choice, colour) in zip((3.35, 4.0), (("paper", COLOURS[5]), ("recipe", COLOURS[1])), strict=True):
            if name in both[choice]:
                axes.add_patch(_box(place + 0.08, height, 0.7, 0.5, colour))
                axes.text(place + 0.43, height + 0.25, "B · A", ha="center", va="center", size=8, color="black")
    axes.plot([1.0, 1.0, 5.86, 5.86], [1.35, 1.2, 1.2, 1.35], color="black", linewidth=0.8)
    axes.text(3.43, 1.1, "as many times as the model has layers", ha="center", va="top", size=8)
    for place, (colour, text) in enumerate(
        (
            (COLOURS[5], 'adapters with "paper"'),
            (COLOURS[1], 'adapters with "recipe"'),
            (COLOURS[0], "frozen weights in 8-bit blocks"),
        )
    ):
        axes.add_patch(_box(0.1 + 2.2 * place, 0.3, 0.22, 0.28, colour))
        axes.text(0.4 + 2.2 * place, 0.44, text, va="center", size=8)


def _box(left: float, bottom: float, width: float, height: float, colour: str) -> Any:
    from matplotlib.patches import FancyBboxPatch

    return FancyBboxPatch(
        (left + 0.03, bottom + 0.03),
        width - 0.06,
        height - 0.06,
        boxstyle="round,pad=0.03",
        facecolor=colour,
        linewidth=0,
    )
