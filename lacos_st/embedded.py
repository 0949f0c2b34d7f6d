"""Base models that ship with the package."""

from __future__ import annotations

from pathlib import Path

EMBEDDED: tuple[str, ...] = ("bloom-nano", "bert-nano")
"""Names of the embedded base models."""

ASSETS = Path(__file__).parent / "assets"


def resolve(name_or_path: str) -> str:
    """The folder of an embedded base model; any other name, and the name of a local folder, as it is."""
    if name_or_path in EMBEDDED and not Path(name_or_path).is_dir():
        return str(ASSETS / name_or_path)
    return name_or_path
