"""Files and folders that appear whole or not at all: written beside their place, flushed to the disk, renamed.

While `place` is written, `.place.new` stands beside it; while it is replaced or removed, `.place.old`. Both begin with
a dot, so that nobody takes them for the thing itself, and `clear_leftovers` knows what a killed process left.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lacos_st.errors import UserError


def write_text(file: Path, text: str) -> None:
    """Write a file of UTF-8 whole or not at all, durably; see `write_bytes`."""
    write_bytes(file, text.encode("utf-8"))


def write_bytes(file: Path, content: bytes) -> None:
    """Write a file whole or not at all, durably; what was there before is replaced.

    Raises:
        UserError: it cannot be written (a full disk, a read-only folder); then the old content is as it was.
    """
    new = _beside(file, "new")
    try:
        with new.open("wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        new.replace(file)
        sync(file.parent)
    except OSError as error:
        with suppress(OSError):
            new.unlink(missing_ok=True)
        raise not_written(file, error) from error


@contextmanager
def whole_folder(place: Path) -> Iterator[Path]:
    """A fresh folder to write into, which becomes `place` when the block ends without an error.

    Its files are flushed to the disk before it is renamed, and what stood at `place` goes only then.

    Raises:
        UserError: it cannot be written; then `place` is as it was. Other errors of the block pass through.
    """
    new, old = _beside(place, "new"), _beside(place, "old")
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        yield new
        _sync_tree(new)
        if place.exists():
            shutil.rmtree(old, ignore_errors=True)
            place.rename(old)
        new.rename(place)
        sync(place.parent)
    except BaseException as error:
        shutil.rmtree(new, ignore_errors=True)
        if cannot_write(error):
            raise not_written(place, error) from error
        raise
    shutil.rmtree(old, ignore_errors=True)


def remove_folder(place: Path) -> None:
    """Remove a folder so that no half of it is ever seen under its name; an error is left for the next start."""
    old = _beside(place, "old")
    shutil.rmtree(old, ignore_errors=True)
    with suppress(OSError):
        place.rename(old)
        shutil.rmtree(old, ignore_errors=True)


def clear_leftovers(parent: Path, *names: str) -> list[str]:
    """Remove what a killed process left in `parent`, and put back what it had moved away but not replaced.

    Args:
        parent: the folder; it may be missing.
        *names: of the files and folders that are written into it, or patterns of them.

    Returns:
        Names of what was removed or put back.
    """
    found = []
    for left in [path for end in ("old", "new") for name in names for path in sorted(parent.glob(f".{name}.{end}"))]:
        place = parent / left.name[1:-4]
        with suppress(OSError):
            if left.suffix == ".old" and not place.exists() and _beside(place, "new").exists():
                left.rename(place)  # killed between the two renames; a removal has no `.new`
            elif left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink()
            found.append(left.name)
    return found


def cannot_write(error: BaseException) -> bool:
    """Whether an error is of the disk or the folder: torch and safetensors have their own words for a full disk."""
    words = ("inline_container", "PytorchStreamWriter", "file write failed", "I/O error", "No space left")
    return isinstance(error, OSError) or (
        isinstance(error, Exception) and not isinstance(error, UserError) and any(word in str(error) for word in words)
    )


def not_written(place: Path, error: BaseException) -> UserError:
    """What is said of `place` where it could not be written."""
    return UserError(
        f"{place} could not be written ({_first_line(error)}): free space on its disk, or make its folder writable, "
        "and start again; what stood there before is unchanged"
    )


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def _beside(place: Path, what: str) -> Path:
    return place.with_name(f".{place.name}.{what}")


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk; Windows flushes no folder."""
    if os.name == "nt" and path.is_dir():
        return
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _sync_tree(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        sync(path)
    sync(folder)
