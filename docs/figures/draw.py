"""All figures, with one look: text that stays text, no numbers of the machine that drew them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from docs.figures import blocks, flat, law, lora
from lacos_st.canvas import new_canvas, write_canvas

FOLDER = Path(__file__).resolve().parents[1] / "assets" / "figures"
LOOK: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # matplotlib's own, so that lengths do not depend on the machine
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "lacos_st",
    "path.simplify": True,
}
FIGURES: dict[str, tuple[tuple[float, float], Callable[[Any], None]]] = {
    "blocks": ((7.6, 3.9), blocks.draw),
    "lora": ((7.6, 3.2), lora.draw),
    "flat": ((7.6, 3.0), flat.draw),
    "law": ((7.6, 3.9), law.draw),
}
"""Width and height in inches, and what draws into an empty canvas."""


def draw(folder: Path) -> None:
    """Write every figure as an .svg file.

    Raises:
        UserError: matplotlib is missing.
    """
    import matplotlib

    for name, (size, into) in FIGURES.items():
        with matplotlib.rc_context(LOOK):
            canvas = new_canvas(*size)
            into(canvas)
            write_canvas(canvas, folder / f"{name}.svg")
