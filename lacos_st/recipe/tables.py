"""Tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of columns two spaces apart, the first set left, the others right.

    >>> align([["", "peak"], ["lora", "1 GiB"]])
    ['       peak', 'lora  1 GiB']
    """
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return lines


def show_count(count: float) -> str:
    """Parameters or tokens, three digits.

    >>> show_count(302_313_472), show_count(45_600), show_count(999.6e3)
    ('302M', '45.6k', '1M')
    """
    rounded = float(f"{count:.3g}")
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if rounded >= size:
            return f"{rounded / size:.3g}{unit}"
    return f"{rounded:.3g}"
