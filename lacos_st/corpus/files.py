"""Files that are whole or not there: written beside their place, flushed to the disk, renamed; one writer a folder."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lacos_st.atomic import sync
from lacos_st.errors import UserError
from lacos_st.locks import hold

PARTIAL = ".partial"
"""Start of the names of files that are being written; whoever finds one may remove it."""
LOCK = ".lock"


class HashedFile(io.RawIOBase):
    """A file written from start to end, which knows its bytes and their SHA-256."""

    def __init__(self, path: Path):
        super().__init__()
        self._file = path.open("wb")
        self._digest = hashlib.sha256()
        self.bytes = 0

    def writable(self) -> bool:  # noqa: D102
        return True

    def write(self, data: Any) -> int:  # noqa: D102
        self._file.write(data)
        self._digest.update(data)
        self.bytes += memoryview(data).nbytes
        return memoryview(data).nbytes

    def tell(self) -> int:  # noqa: D102
        return self.bytes

    def sync(self) -> None:
        """Have everything written reach the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close it, whole or not."""
        self._file.close()
        super().close()

    @property
    def sha256(self) -> str:
        """Of what was written, hexadecimal."""
        return self._digest.hexdigest()


@contextmanager
def appearing(path: Path) -> Iterator[HashedFile]:
    """A file that stands at `path` when the block has ended without an error, and not before.

    Raises:
        UserError: The disk is full, or the folder cannot be written to.
    """
    beside = path.with_name(f"{PARTIAL}-{os.getpid()}-{path.name}")
    with writing(path):
        try:
            with HashedFile(beside) as file:
                yield file
                file.sync()
            beside.replace(path)
            sync(path.parent)
        finally:
            beside.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Errors of the file system as the user's."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} cannot be written: {error.strerror or error}: what was written before it is whole; make room or "
            "mend the folder, and go on with --resume"
        ) from error


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    with appearing(path) as file:
        file.write((json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode())


def append_json(path: Path, values: dict[str, Any]) -> None:
    """Add a line of JSON, on the disk when this returns; a kill leaves at most one broken line, the last."""
    with writing(path), path.open("ab") as file:
        file.write((json.dumps(values, ensure_ascii=False) + "\n").encode())
        file.flush()
        os.fsync(file.fileno())


def digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold a folder against other runs; a lock that ends with the process, however it ends.

    Raises:
        UserError: Another process holds it, or it cannot be made.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        hold(handle, refusal=f"another run is writing to {folder}: wait for its end, or choose another folder")
        yield
    finally:
        os.close(handle)
