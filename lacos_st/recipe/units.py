"""Bytes as text: "16GiB", "800 MB".

>>> parse_bytes("1.5 GiB")
1610612736
>>> show_bytes(1610612736)
'1.50 GiB'
"""

from __future__ import annotations

import re

from lacos_st.errors import UserError

UNITS = {
    "B": 1,
    **{f"{letter}B": 1000**power for power, letter in enumerate("KMGT", 1)},
    **{f"{letter}iB": 1024**power for power, letter in enumerate("KMGT", 1)},
}
_BY_NAME = {name.lower(): size for name, size in UNITS.items()}


def parse_bytes(text: str) -> int:
    """The bytes that a size such as "16GiB" (1024³) or "16GB" (1000³) says.

    Raises:
        UserError: it is no number above 0 with a unit.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]+)\s*", text)
    size = float(match[1]) * _BY_NAME.get(match[2].lower(), 0) if match else 0.0
    if size < 1:
        raise UserError(
            f"the size {text!r} cannot be read: expected a number and a unit, such as 16GiB, 16GB or 800MiB"
        )
    return int(size)


def show_bytes(size: float) -> str:
    """In GiB, MiB or KiB, three digits or so."""
    if size >= 2**30:
        return f"{size / 2**30:.2f} GiB"
    return f"{size / 2**20:.0f} MiB" if size >= 2**20 else f"{size / 2**10:.0f} KiB"
