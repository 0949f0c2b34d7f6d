"""A trainer's checkpoint that can be trusted: the hashes of all its files, written last and compared before it is read.

`lacos_checkpoint.json` holds `format_version`, `step`, and by name the size in bytes and SHA-256 of every file.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path, PurePath
from typing import Any

from safetensors import SafetensorError, safe_open

from lacos_st.errors import UserError

FILES = "lacos_checkpoint.json"
FORMAT_VERSION = 1
STATE = "trainer_state.json"


def check_processes(folder: Path, *, processes: int) -> None:
    """That a checkpoint is of as many processes as go on with it: each has its own batches and random numbers.

    Raises:
        UserError: it is of more, or fewer.
    """
    was = len(list(folder.glob("rng_state_*.pth"))) or 1
    if was != processes:
        raise UserError(
            f"checkpoint {folder} is of a run of {was} processes, {processes} are to go on with it: start as many "
            f"({'without a launcher' if was == 1 else f'torchrun --nproc-per-node ..., {was} in all'}), or train anew "
            "with --overwrite"
        )


def list_files(folder: Path, *, step: int) -> None:
    """Write `lacos_checkpoint.json` over all that `folder` holds."""
    files = {path.relative_to(folder).as_posix(): _size_and_hash(path) for path in folder.rglob("*") if path.is_file()}
    content = {"format_version": FORMAT_VERSION, "step": step, "files": files}
    (folder / FILES).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def check_checkpoint(folder: Path) -> None:
    """That every file of a checkpoint is the one that was written.

    Where `lacos_checkpoint.json` is missing (stock trainer): archives by their checksums, tensors by their length.

    Raises:
        UserError: one is missing, truncated or damaged.
    """
    try:
        state = _read(folder / STATE)
        if (folder / FILES).is_file():
            _check_files(folder, _read(folder / FILES))
        else:
            _check_stock(folder)
        if not isinstance(state.get("global_step"), int):
            raise ValueError(f"{STATE} holds no step")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, zipfile.BadZipFile, SafetensorError) as error:
        raise UserError(
            f"checkpoint {folder} is broken ({error}): delete this folder to resume from the one before it, or train "
            "anew with --overwrite"
        ) from error


def best_of(folder: Path) -> str | None:
    """Name of the best checkpoint when this one was written; None where none had been saved, or nothing says."""
    try:
        best = _read(folder / STATE).get("best_model_checkpoint")
    except (OSError, ValueError):
        return None
    return None if best is None else PurePath(best).name


def _check_files(folder: Path, content: dict[str, Any]) -> None:
    if content["format_version"] > FORMAT_VERSION:
        raise ValueError(f"{FILES} was written by a newer lacos_st: upgrade it")
    for name, expected in content["files"].items():
        if not (folder / name).is_file():
            raise ValueError(f"{name} is missing")
        if list(_size_and_hash(folder / name)) != list(expected):
            raise ValueError(f"{name} was changed since it was written")


def _check_stock(folder: Path) -> None:
    _read(folder / "modules.json")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        with zipfile.ZipFile(folder / name) as archive:
            if damaged := archive.testzip():
                raise ValueError(f"{name}: {damaged} is damaged")
    for file in folder.rglob("*.safetensors"):
        with safe_open(file, framework="pt"):
            pass


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder` that were written to their end, by step."""
    whole = [
        path
        for path in folder.glob("checkpoint-*")
        if path.name.rsplit("-", 1)[1].isdigit() and (path / STATE).is_file()
    ]
    return sorted(whole, key=lambda path: int(path.name.rsplit("-", 1)[1]))


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _size_and_hash(file: Path) -> tuple[int, str]:
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return file.stat().st_size, digest
