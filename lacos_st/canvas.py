"""What every plot shares: colours, a canvas without a display, and a file that is put in place when it is whole."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from lacos_st.atomic import write_bytes
from lacos_st.errors import UserError

# Okabe and Ito's palette: told apart with every common colour blindness; black is left for text.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
SUFFIXES = (".png", ".svg")


def check_suffix(path: Path) -> None:
    """Whether a plot can be written there.

    Raises:
        UserError: it ends in neither .png nor .svg.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"plot {path}: the suffix is {path.suffix!r}, expected one of {', '.join(SUFFIXES)}")


def new_canvas(width: float, height: float) -> Any:
    """An empty matplotlib figure.

    Args:
        width: in inches.
        height: in inches.

    Raises:
        UserError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure  # without pyplot: no display, no global state
    except ImportError as error:
        raise UserError("matplotlib is not installed: pip install 'lacos_st[plot]'") from error
    return Figure(figsize=(width, height), layout="constrained")


def write_canvas(canvas: Any, path: Path) -> None:
    """Save a figure as what the suffix says, in a folder that is made where it is missing.

    An .svg bears no date, so that the same drawing is the same file.
    """
    check_suffix(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = io.BytesIO()
    canvas.savefig(drawn, format=path.suffix[1:], dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    write_bytes(path, drawn.getvalue())
