"""`restore_`: a model takes back what a checkpoint trained; of frozen bases hashes are compared, nothing is read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Module, Router
from torch import nn

from lacos_st.adapters import adapter_parameters, is_quantized
from lacos_st.checkpoint import MANIFEST_FILE, Manifest, base_hash
from lacos_st.errors import UserError
from lacos_st.freezing import frozen_hash
from lacos_st.probes import check_base_hash
from lacos_st.transformer import LoRA8bit


def frozen_bases(model: SentenceTransformer) -> list[str | None]:
    """Hashes of the frozen bases in memory, in the order of the modules; None for a module without one."""
    return [_frozen_base_hash(part) for module in model for part, _ in _places(module, Path())]


def restore_(model: SentenceTransformer, folder: Path, *, bases: list[str | None]) -> None:
    """Give `model` the weights in `folder`; of a frozen base, only the hash is compared, before and after.

    Args:
        model: what is trained.
        folder: a checkpoint.
        bases: `frozen_bases`, when the training began.

    Raises:
        UserError: the checkpoint has another base, or the base in memory is not what it was.
    """
    frozen = frozen_hash(model)
    entries = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    found = [
        place for module, entry in zip(model, entries, strict=True) for place in _places(module, Path(entry["path"]))
    ]
    for (module, place), base in zip(found, bases, strict=True):
        if isinstance(module, LoRA8bit) and base is not None:
            manifest = Manifest.read(folder / place / MANIFEST_FILE)
            # a self-contained checkpoint names the base as it is in memory, any other as it was read: before a cast
            known = base if manifest.base_sha256 == base else module.base_sha256
            check_base_hash(known, manifest, module.base_name)
            if base_hash(module.model) != base:
                raise UserError(f"the weights of {module.base_name} in memory were changed since the training began")
            module.restore_adapter(folder / place)
        elif isinstance(module, Module) and module.state_dict():
            saved = type(module).load(str(folder), subfolder=place.as_posix() if place.parts else "")
            module.load_state_dict(saved.state_dict())
    if frozen_hash(model) != frozen:
        raise UserError(f"{folder} has other frozen weights than the model has: it is of a run from another base")


def _places(module: nn.Module, place: Path) -> Iterator[tuple[nn.Module, Path]]:
    """A module and its folder in a saved model; of a Router, those of the modules in it, each once."""
    if not isinstance(module, Router):
        yield module, place
        return
    seen = set()
    routes: Any = module.sub_modules
    for route, modules in routes.items():
        for position, part in enumerate(modules):
            if id(part) not in seen:
                seen.add(id(part))
                yield part, place / f"{route}_{position}_{type(part).__name__}"


def _frozen_base_hash(module: nn.Module) -> str | None:
    """Of the weights in memory; None where there is no frozen base."""
    if not (isinstance(module, LoRA8bit) and (adapter_parameters(module.model) or is_quantized(module.model))):
        return None
    return base_hash(module.model)
