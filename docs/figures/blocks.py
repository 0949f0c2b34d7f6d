"""Two blocks of a weight, what is stored of them, and where the two codes have their levels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from lacos_st.blockwise import BLOCK_SIZE, code_table, dequantize, quantize
from lacos_st.canvas import COLOURS

OUTLIER = 40
"""The place of a value six times as large as the others: it costs the precision of its own block."""


def draw(canvas: Any) -> None:
    """A row of 512 values with its absmax, and the levels that a value between -absmax and absmax can take."""
    generator = torch.Generator().manual_seed(0)
    values = 0.02 * torch.randn(1, 2 * BLOCK_SIZE, generator=generator)
    values[0, OUTLIER] = 0.12
    codes, absmax = quantize(values, block_size=BLOCK_SIZE, code="dynamic")
    stored = dequantize(codes, absmax, block_size=BLOCK_SIZE, code="dynamic")
    row, levels = canvas.subplots(2, 1, height_ratios=[2.4, 1])
    row.plot(*bars(range(2 * BLOCK_SIZE), 0.0, values[0].tolist()), color=COLOURS[4], linewidth=0.7)
    for block, (height, colour) in enumerate(zip(absmax.flatten().tolist(), (COLOURS[5], COLOURS[2]), strict=True)):
        start, end = block * BLOCK_SIZE, (block + 1) * BLOCK_SIZE - 1
        part = slice(start, end + 1)
        error = float((stored - values)[0, part].square().mean().sqrt())
        row.hlines((-height, height), start, end, color=colour, linestyle="--", linewidth=1)
        row.text(
            (start + end) / 2,
            0.137,
            f"absmax {height:.3f}, root mean square error {error:.5f}",
            ha="center",
            color=colour,
        )
    row.axvline(BLOCK_SIZE - 0.5, color="black", linewidth=0.8)
    row.set(
        xlim=(-4, 2 * BLOCK_SIZE + 3),
        ylim=(-0.15, 0.16),
        xlabel="place in the row; a block is 256 values",
        ylabel="weight",
    )
    for place, (code, colour) in enumerate((("linear", COLOURS[0]), ("dynamic", COLOURS[1]))):
        table = code_table(code).tolist()
        levels.plot(*bars(table, place - 0.35, [place + 0.35] * len(table)), color=colour, linewidth=0.6)
    levels.set(yticks=[0, 1], yticklabels=["linear", "dynamic"], xlim=(-1.02, 1.02), ylim=(-0.5, 1.5))
    levels.set_xlabel("levels of a code, in units of absmax")


def bars(places: Iterable[float], bottom: float, tops: Sequence[float]) -> tuple[list[float], list[float]]:
    """Upright lines as one broken line: a file of a few kilobytes, where a line each would take hundreds."""
    gap = float("nan")
    x = [at for place in places for at in (place, place, gap)]
    return x, [at for top in tops for at in (bottom, top, gap)]
