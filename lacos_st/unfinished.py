"""A model's folder that is being saved says so, until sentence-transformers writes its modules.json, which comes last.

`SentenceTransformer.save_pretrained` writes file by file. Killed on the way, it would leave a folder without
modules.json, and that loads as something else: the base with stock pooling, its adapter dropped.
"""

from __future__ import annotations

import json
from pathlib import Path

from lacos_st.errors import UserError

MODULES_FILE = "modules.json"


def begin_folder(folder: Path, *, module: object) -> Path:
    """Make `folder`, with a modules.json that names `module`, the first of a model, and says that the rest is to come.

    Returns:
        `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kind = f"{type(module).__module__}.{type(module).__name__}"
    entry = {"idx": 0, "name": "0", "path": "", "type": kind, "unfinished": True}
    (folder / MODULES_FILE).write_text(json.dumps([entry]), encoding="utf-8")
    return folder


def check_finished(path: str) -> None:
    """That the folder at `path` was saved to its end; any other path is none of ours.

    Raises:
        UserError: it was not.
    """
    file = Path(path) / MODULES_FILE
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
        unfinished = any(entry.get("unfinished") for entry in entries)
    except (OSError, ValueError, AttributeError, TypeError):
        return  # a hub name, or broken: said by who reads it
    if unfinished:
        raise UserError(
            f"{path!r} was not saved to its end: whatever saved it was stopped on the way. Save the model again; if it "
            "was a checkpoint, delete the folder and go on from the one before"
        )
