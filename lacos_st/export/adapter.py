"""`adapter`: a stock peft folder, which sentence-transformers loads too; with a base in floats where there is none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch

from lacos_st.adapters import ADAPTER_FOLDER
from lacos_st.atomic import write_text
from lacos_st.errors import UserError
from lacos_st.export.fidelity import Fidelity
from lacos_st.export.merged import check_folder_embeds, write_weights
from lacos_st.export.plain import write_modules, write_tokenizer
from lacos_st.export.saved import SavedModel
from lacos_st.folder import read_json
from lacos_st.gguf import is_gguf
from lacos_st.loading import stored_quantization

BASE_FOLDER = "base"
CONFIG_FILE = "adapter_config.json"


def readable_base(saved: SavedModel) -> bool:
    """Whether transformers alone reads the base: a hub name or folder in floats."""
    if saved.manifest.self_contained or is_gguf(saved.base_path):
        return False
    return stored_quantization(saved.base_config) is None


def write_adapter(saved: SavedModel, folder: Path, *, dtype: torch.dtype, trained: bool) -> None:
    """Write the adapter, the tokenizer and the modules; and the base without it, if `trained`.

    Args:
        saved: the model.
        folder: there, and empty.
        dtype: of the base's weights.
        trained: whether to write the base as the adapter was trained on it, to `folder/base`.

    Raises:
        UserError: the model has no adapter, or see `write_weights`.
    """
    if saved.manifest.lora is None:
        raise UserError(f"{saved.folder} has no adapter: its own weights were trained; use --format merged")
    if trained:
        (base := folder / BASE_FOLDER).mkdir()
        write_weights(saved, base, dtype=dtype, trained=True, with_adapter=False)
        write_tokenizer(saved, base)
    for file in (saved.folder / ADAPTER_FOLDER).iterdir():
        shutil.copy(file, folder / file.name)
    write_modules(saved, folder)


def check_adapter_embeds(folder: Path, saved: SavedModel, *, trained: bool, place: Path) -> Fidelity:
    """Load the folder with peft and compare the probes; then have it name its base as it will be found.

    Args:
        folder: as `write_adapter` left it.
        saved: the model.
        trained: as there.
        place: where `folder` will stand.
    """
    _name_base(folder, str(folder / BASE_FOLDER) if trained else saved.base_path)
    found = check_folder_embeds(folder, saved)
    _name_base(folder, str(place.absolute() / BASE_FOLDER) if trained else saved.base)
    return found


def _name_base(folder: Path, name: str) -> None:
    config = read_json(folder / CONFIG_FILE)
    config["base_model_name_or_path"] = name
    write_text(folder / CONFIG_FILE, json.dumps(config, indent=2) + "\n")
