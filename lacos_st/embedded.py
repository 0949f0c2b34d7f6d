"""What the name of a base stands for; the base models that ship with the package."""

from __future__ import annotations

from pathlib import Path

from lacos_st.errors import UserError

EMBEDDED: tuple[str, ...] = ("bloom-nano", "bert-nano")
"""Names of the embedded base models."""

ASSETS = Path(__file__).parent / "assets"


def resolve(name_or_path: str) -> str:
    """What a base's name stands for: the folder of an embedded one, the one GGUF file of a folder without config.json.

    Any other name, and the name of any other local folder, stays as it is.

    Raises:
        UserError: such a folder holds several GGUF files.
    """
    folder = Path(name_or_path).expanduser()
    if not folder.is_dir():
        return str(ASSETS / name_or_path) if name_or_path in EMBEDDED else name_or_path
    if any((folder / file).is_file() for file in ("config.json", "modules.json")):
        return name_or_path
    files = sorted(file.name for file in folder.iterdir() if file.suffix.lower() == ".gguf" and file.is_file())
    if len(files) > 1:
        shown = ", ".join(files[:3]) + (", ..." if len(files) > 3 else "")
        raise UserError(
            f"{name_or_path} holds {len(files)} GGUF files ({shown}): name one of them, {folder / files[0]}"
        )
    return str(folder / files[0]) if files else name_or_path
