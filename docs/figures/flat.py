"""A batch as a padded rectangle, and as one row of its real tokens."""

from __future__ import annotations

from typing import Any

from lacos_st.canvas import COLOURS
from lacos_st.checkpoint import PROBES
from lacos_st.embedded import resolve


def lengths() -> list[int]:
    """Tokens of each probe sentence, by the embedded BLOOM's tokenizer."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(resolve("bloom-nano"))
    return [len(tokenizer(sentence)["input_ids"]) for sentence in PROBES]


def draw(canvas: Any) -> None:
    """Both, a square a token, with how many products each makes."""
    from matplotlib.patches import Rectangle

    counts = lengths()
    longest, real = max(counts), sum(counts)
    padded, flat = canvas.subplots(2, 1, height_ratios=[len(counts), 1.6])
    for row, count in enumerate(counts):
        for column in range(longest):
            token = column < count
            padded.add_patch(
                Rectangle((column, -row), 0.86, 0.86, facecolor=COLOURS[row] if token else "#dddddd", linewidth=0)
            )
        padded.text(-0.4, 0.43 - row, f"sentence {row + 1}", ha="right", va="center", size=8)
    padded.set_title(
        f"padded: {len(counts)} x {longest} = {len(counts) * longest} places, {real} of them tokens", loc="left", size=9
    )
    start = 0
    for row, count in enumerate(counts):
        for column in range(start, start + count):
            flat.add_patch(Rectangle((column, 0), 0.86, 0.86, facecolor=COLOURS[row], linewidth=0))
        flat.text(start, -0.25, str(start), ha="center", va="top", size=8)
        start += count
    flat.text(start + 0.4, -0.25, f"{start}   cu_seq_lens_q", ha="left", va="top", size=8)
    flat.set_title(f"flat: {real} places, all of them tokens", loc="left", size=9)
    for axes, low, high in ((padded, 1 - len(counts) - 0.1, 1.0), (flat, -1.2, 1.0)):
        axes.set(xlim=(-6, real + 8), ylim=(low, high))
        axes.set_axis_off()
