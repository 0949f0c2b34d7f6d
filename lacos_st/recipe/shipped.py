"""Laws that come with the package: fitted by this project, on runs that it made."""

from __future__ import annotations

from pathlib import Path

from lacos_st.recipe.law_file import Laws, load_laws

FOLDER = Path(__file__).parent / "laws"
"""Of JSON files that `lacos-st fit --output` wrote. There is none until the project's own sweep has been fitted."""


def shipped_laws(folder: Path = FOLDER) -> list[tuple[str, Laws]]:
    """All of them, by name."""
    return [(path.stem, load_laws(path)) for path in sorted(folder.glob("*.json"))]


def law_path(name: str, folder: Path = FOLDER) -> Path:
    """The file of a law: one that ships, by its name, or a path."""
    shipped = folder / f"{name}.json"
    return shipped if shipped.is_file() and not Path(name).exists() else Path(name)
