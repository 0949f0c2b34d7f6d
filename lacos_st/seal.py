"""`lacos_files.json`: the hashes of a saved model's small files and the order of its modules, compared on loading."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from lacos_st.errors import UserError

SEAL_FILE = "lacos_files.json"
SEALED = (
    "lacos.json", "lacos_probes.safetensors", "adapter/adapter_config.json", "config.json", "sentence_bert_config.json",
    "config_sentence_transformers.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "vocab.txt", "spiece.model", "tokenizer.model",
    "sentencepiece.bpe.model", "chat_template.jinja", "processor_config.json", "preprocessor_config.json",
)  # fmt: skip
"""Every file but the weights that loading a first module may read. Weights and adapter have hashes of their own."""


def write_seal(folder: Path, *, module: str) -> None:
    """Begin the seal of a saved model, with the files of its first module.

    Args:
        folder: The model's folder, in which all of them are.
        module: Type of the first module, as modules.json names it.
    """
    hashes = {name: _hash(folder / name) for name in SEALED if (folder / name).is_file()}
    _write(folder, {"files": hashes, "modules": {"": module}})


def add_to_seal(folder: Path, *, module: str) -> None:
    """Add a further module, whose files are in `folder`, to the seal beside that folder; nothing where there is none.

    Args:
        folder: Of the module, within the model's.
        module: Its type, as modules.json names it.
    """
    file = folder.parent / SEAL_FILE
    if not file.is_file():
        return
    content = _read(file)
    content["files"] |= {f"{folder.name}/{path.name}": _hash(path) for path in sorted(folder.glob("*.json"))}
    content["modules"][folder.name] = module
    _write(folder.parent, content)


def check_seal(folder: Path, *, required: bool) -> None:
    """That a folder's sealed files and modules are those that were saved.

    Args:
        folder: Of a saved model.
        required: Whether it was written by a version that seals.

    Raises:
        UserError: The seal is missing though required, or broken; a file is missing or was changed; modules.json lacks
            a sealed module, or has another type or order.
    """
    file = folder / SEAL_FILE
    if not file.is_file():
        if required:
            raise UserError(f"{file} is missing or broken (not there): restore it from where the model was saved")
        return
    content = _read(file)
    for name, sha256 in content["files"].items():
        if not (folder / name).is_file():
            raise UserError(
                f"{folder / name} is missing or broken (not there): restore it from where the model was saved"
            )
        if _hash(folder / name) != sha256:
            raise UserError(
                f"{folder / name} is not the file that was saved: it was changed. Restore it; or, where the change is "
                f"wanted, put the file's new SHA-256, {_hash(folder / name)}, in its place in {SEAL_FILE}"
            )
    if added := [name for name in SEALED if name not in content["files"] and (folder / name).is_file()]:
        raise UserError(f"{folder / added[0]} was not there when the model was saved: remove it")
    if (folder / "modules.json").is_file():
        _check_modules(folder / "modules.json", content["modules"])


def _check_modules(file: Path, sealed: dict[str, str]) -> None:
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
        found = {entry["path"]: entry["type"] for entry in entries if entry["path"] in sealed}
        twice = len({entry["path"] for entry in entries} | {entry["name"] for entry in entries}) != 2 * len(entries)
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"{file} is broken ({error!r:.200}): restore it from where the model was saved") from error
    if list(found.items()) != list(sealed.items()) or entries[0]["path"] != "" or twice:
        wanted = ", ".join(f"{path or 'the folder itself'} ({kind})" for path, kind in sealed.items())
        raise UserError(
            f"{file} does not name the modules that were saved, in their order, each once: {wanted}. Restore it from "
            "where the model was saved"
        )


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        parts = [content["files"], content["modules"]]
        if not all(isinstance(part, dict) and all(isinstance(v, str) for v in part.values()) for part in parts):
            raise ValueError("expected hashes and types")
        if any(Path(name).is_absolute() or ".." in Path(name).parts for name in content["files"]):
            raise ValueError("it names a file outside its folder")
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"{file} is broken ({error!r:.200}): restore it from where the model was saved") from error
    return dict(content)


def _write(folder: Path, content: dict[str, Any]) -> None:
    (folder / SEAL_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
