"""A model's folder as strangers may have written it: what it may hold, checked before a library opens its files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from typing import Any

import torch

from lacos_st.errors import UserError
from lacos_st.headers import read_header

CONFIG_LIMIT_BYTES = 16 * 2**20
"""Longest JSON file that is opened. The largest tokenizer_config.json we know of has 1.2 MB."""

VOCABULARY_LIMIT_BYTES = 256 * 2**20
"""The same for a vocabulary. BLOOM's has 14 MB, the largest we know of 35 MB."""

VOCABULARIES = ("tokenizer.json", "vocab.json")
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = {
    "pytorch_model.bin": (WEIGHTS, INDEX),
    "pytorch_model.bin.index.json": (WEIGHTS, INDEX),
    "adapter_model.bin": ("adapter_model.safetensors",),
}
"""Pickled weights, and the safetensors files of which one must stand beside them: those are then read instead."""

CODE_KEYS = ("model_kwargs", "processor_kwargs", "config_kwargs", "model_args", "tokenizer_args", "config_args")
"""Where `trust_remote_code` reaches transformers, by sentence-transformers' names of today and of before."""


def read_json(file: Path) -> Any:
    """The content of a JSON file of limited size.

    Raises:
        UserError: it is missing, too large, no UTF-8 or no JSON, or nested too deeply.
    """
    limit = VOCABULARY_LIMIT_BYTES if file.name in VOCABULARIES else CONFIG_LIMIT_BYTES
    try:
        size = file.stat().st_size
        if size > limit:
            raise ValueError(f"it has {size} bytes, and at most {limit} are read")
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} is broken ({error}): restore it from where the model was saved") from error


def inside(path: object) -> bool:
    """Whether a path that a model's file names is relative and stays in the model's folder, on any system."""
    if not isinstance(path, str) or "\0" in path:
        return False
    pure = PureWindowsPath(path)
    return not pure.anchor and ".." not in pure.parts


def check_folder(folder: Path) -> None:
    """That nothing which loading reads leaves `folder`, is a pickle or is too large.

    Looked at: the files of `folder`, of its `adapter` and of the modules that its modules.json names. A link out of
    the folder is refused, but for those of the hub's cache, from `snapshots` to `blobs`.

    Raises:
        UserError: something does; it names the file and says what to do.
    """
    if not folder.is_dir():
        return  # a hub name: the hub's client checks what it fetches
    parts = [folder, folder / "adapter"]
    if (folder / "modules.json").is_file():
        parts += [folder / path for path in _module_paths(folder / "modules.json") if path]
    for part in dict.fromkeys(parts):
        if part.is_symlink() and part != folder:
            _check_link(part, folder)
        for file in sorted(part.iterdir()) if part.is_dir() else ():
            _check_link(file, folder)
            if file.suffix == ".json" and file.is_file():
                _check_size(file)
        for pickle, instead in PICKLES.items():
            if (part / pickle).exists() and not any((part / name).exists() for name in instead):
                raise UserError(
                    f"{part / pickle} is a pickle, which can run code of its author's when it is opened: it is not "
                    f"read. Fetch the model's {instead[0]}, or convert it where you trust it (save_pretrained with a "
                    "recent transformers writes one)"
                )
    _check_tokenizer(folder)
    if (folder / "adapter_config.json").exists():
        raise UserError(
            f"{folder} is an adapter of peft's (it holds adapter_config.json), and no base or model of lacos_st: give "
            "the base, or a folder that lacos_st saved"
        )


def in_subfolder(name: str, subfolder: str) -> str:
    """Where a module lies that a model's folder holds in a folder of its own.

    Args:
        name: of the model: a folder, or a hub name where `subfolder` is empty.
        subfolder: of the module; empty for the model's own folder.

    Raises:
        UserError: the model is not in a folder here, or a link leads out of it.
    """
    if not subfolder:
        return name
    folder, path = Path(name), Path(name) / subfolder
    if not folder.is_dir() or not inside(subfolder):
        raise UserError(
            f"{name!r} holds a module of lacos_st's in {subfolder!r}, which is read from a folder here only: fetch it "
            "with huggingface_hub.snapshot_download(..., local_dir=folder), and load that folder"
        )
    check_folder(folder)
    for part in (path, *path.parents):
        if part != folder and part.is_relative_to(folder):
            _check_link(part, folder)
    return str(path)


def _module_paths(file: Path) -> Iterator[str]:
    """The folders in modules.json, each relative and without `..`."""
    _check_link(file, file.parent)
    entries = read_json(file)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{file} is broken (expected a list of modules): restore it from where the model was saved")
    for entry in entries:
        if not inside(entry.get("path")):
            raise UserError(
                f"{file} names the folder {str(entry.get('path'))[:80]!r}, which leaves the model's own: this is no "
                "file that sentence-transformers wrote; do not use this model"
            )
        yield entry["path"]


def _check_link(file: Path, folder: Path) -> None:
    """That `file` is not, by a symbolic link, outside `folder`."""
    if not file.is_symlink():
        return
    root = folder.resolve()
    allowed = [root]
    if root.parent.name == "snapshots":
        allowed.append(root.parents[1] / "blobs")
    try:
        target = file.resolve()
    except (OSError, RuntimeError) as error:  # links in a circle
        raise UserError(f"{file} is a link that leads nowhere ({error}): put the file itself there") from error
    if not any(target.is_relative_to(place) for place in allowed):
        raise UserError(
            f"{file} is a link out of the model's folder, to {target}: it is not followed; put the file itself there"
        )


def _check_size(file: Path) -> None:
    limit = VOCABULARY_LIMIT_BYTES if file.name in VOCABULARIES else CONFIG_LIMIT_BYTES
    if file.stat().st_size > limit:
        raise UserError(
            f"{file} has {file.stat().st_size} bytes, and at most {limit} are read: restore it from where the model "
            "was saved"
        )


def _check_tokenizer(folder: Path) -> None:
    """That tokenizer_config.json names no file elsewhere that is there; old ones name the author's, which are not."""
    file = folder / "tokenizer_config.json"
    content = read_json(file) if file.is_file() else {}
    for key, value in content.items() if isinstance(content, dict) else ():
        if key.endswith("_file") and isinstance(value, str) and not inside(value) and _exists(folder / value):
            raise UserError(f"{file} names {value[:80]!r}, outside the model's folder ({key}): remove that line")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def weight_headers(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of a model's tensors by name, from the headers of its file or its shards.

    Raises:
        UserError: there is no safetensors file; the index names a file elsewhere or one that is not there; a file is
            truncated, or does not hold the tensors that the index expects in it.
    """
    if (folder / WEIGHTS).exists():
        return read_header(folder / WEIGHTS)
    if not (folder / INDEX).exists():
        raise UserError(f"{folder} holds neither {WEIGHTS} nor {INDEX}: fetch or write it again")
    content = read_json(folder / INDEX)
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places:
        raise UserError(f"{folder / INDEX} is broken (no weight_map): fetch or write it again")
    strange = [str(name) for name in places.values() if not (inside(name) and name.endswith(".safetensors"))]
    if strange:
        raise UserError(
            f"{folder / INDEX} names the file {strange[0][:80]!r}: expected safetensors files in its own folder; do "
            "not use this model"
        )
    found: dict[str, tuple[int, ...]] = {}
    for shard in sorted(set(places.values())):
        shapes = read_header(folder / shard)
        expected = {name for name, place in places.items() if place == shard}
        lacking = sorted(expected - shapes.keys())
        if lacking:
            raise UserError(
                f"the shard {folder / shard} is not the one that the index was written for: it holds no {lacking[0]} "
                f"({len(lacking)} of {len(expected)} tensors are not in it). It was swapped with another or belongs to "
                "another model: fetch or write it again"
            )
        found |= shapes
    return found


def check_adapter(folder: Path, lora: Mapping[str, Any]) -> None:
    """That the adapter's files are of the rank and scale that lacos.json names, before layers of that rank are made.

    Args:
        folder: that `save_adapter` wrote.
        lora: `Manifest.lora`.

    Raises:
        UserError: they are not, or are missing or broken.
    """
    shapes = read_header(folder / "adapter_model.safetensors")
    ranks = {shape[0] if "A" in name.split("lora_")[1] else shape[-1] for name, shape in _lora(shapes)}
    config = read_json(folder / "adapter_config.json")
    if not isinstance(config, dict):
        raise UserError(f"{folder / 'adapter_config.json'} is broken (no object): restore it, or train again")
    rank = lora.get("rank")
    if ranks - {rank}:
        raise UserError(
            f"the adapter in {folder} has rank {', '.join(map(str, sorted(ranks)))}, and lacos.json says {rank}: it is "
            "not the adapter that was saved with this model; restore it, or train again"
        )
    alpha = rank if lora.get("alpha") is None else lora["alpha"]
    for key, expected in (("peft_type", "LORA"), ("r", rank), ("lora_alpha", alpha)):
        if config.get(key) != expected:
            raise UserError(
                f"{folder / 'adapter_config.json'} says {key}={str(config.get(key))[:80]}, and lacos.json {expected}: "
                "it is not the adapter that was saved with this model; restore it, or train again"
            )


def _lora(shapes: Mapping[str, tuple[int, ...]]) -> Iterable[tuple[str, tuple[int, ...]]]:
    return ((name, shape) for name, shape in shapes.items() if "lora_" in name and len(shape) == 2)


def without_remote_code(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a module with `trust_remote_code=False`, said aloud: left out, transformers asks on the terminal.

    The flag is what lets sentence-transformers import our classes; nothing in a model's folder is to run by it.
    """
    known = {name: dict(options[name] or {}) for name in CODE_KEYS if name in options}
    known |= {name: known.get(name, {}) for name in ("processor_kwargs", "config_kwargs")}
    return {**options, **{name: {**kwargs, "trust_remote_code": False} for name, kwargs in known.items()}}


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Whatever the libraries make of a damaged or crafted folder, as one error that names it.

    Raises:
        UserError: for any error but a lack of memory, which is no fault of the folder's: its sizes are checked.
    """
    try:
        yield
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{path!r} cannot be loaded ({type(error).__name__}: {reason}): a file of it is broken or was changed; "
            "restore it from where the model was saved"
        ) from error
