"""`SavedModel`: what a folder of a trained model holds, read without loading a weight."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PreTrainedConfig

from lacos_st.checkpoint import PROBES_FILE, Manifest, find_manifest
from lacos_st.embedded import resolve
from lacos_st.errors import UserError
from lacos_st.folder import check_folder, read_json
from lacos_st.loading import first_line, read_config, read_named_base
from lacos_st.quantizer import Blockwise8bitConfig
from lacos_st.unfinished import MODULES_FILE, check_finished

OPTIONS_FILE = "sentence_bert_config.json"
OURS = ("lacos_st.transformer.LoRA8bit", "lacos_st.transformer.BloomLoRA8bit")
POOLING = "lacos_st.pooling.Pooling"
THEIRS = "sentence_transformers."


@dataclass(frozen=True)
class SavedModel:
    """A model that lacos_st saved.

    Attributes:
        folder: where it lies.
        manifest: its lacos.json.
        modules: the entries of its modules.json.
        base: name of the base that its weights are read from: the manifest's, or the place that it has moved to.
    """

    folder: Path
    manifest: Manifest
    modules: tuple[dict[str, Any], ...]
    base: str

    @classmethod
    def read(cls, name: str, *, base: str | None = None) -> SavedModel:
        """Read and check a model's small files.

        Args:
            name: folder, or hub name, which is fetched.
            base: the new place of a base that has moved.

        Raises:
            UserError: it is no model that lacos_st saved, was changed or was not saved to its end; or it has a module
                that is neither ours nor sentence-transformers'.
        """
        folder = _local(name)
        check_folder(folder)
        manifest = find_manifest(str(folder), {})
        if manifest is None:
            raise UserError(
                f"{name} is no model that lacos_st saved (it has no lacos.json): a plain sentence-transformers model "
                "needs no export; name the folder that lacos-st train wrote, or save_pretrained"
            )
        check_finished(str(folder))
        modules = tuple(read_json(folder / MODULES_FILE))
        if not modules or modules[0]["type"] not in OURS:
            raise UserError(f"{name}: its first module is not one of lacos_st's ({MODULES_FILE}): it was changed")
        for entry in modules[1:]:
            if entry["type"] != POOLING and not entry["type"].startswith(THEIRS):
                raise UserError(
                    f"{name} has a module {entry['type']}, which is neither lacos_st's nor sentence-transformers': "
                    "what is exported would need its code; take it out of the model"
                )
        options = read_json(folder / OPTIONS_FILE)
        if options.get("echo") or options.get("attention", "causal") != "causal":
            raise UserError(
                f"{name} reads its text {'twice (echo)' if options.get('echo') else 'both ways (attention)'}, which no "
                "other library does: it cannot be exported, load it with lacos_st"
            )
        if base is not None and manifest.self_contained:
            raise UserError(f"{name} holds its base itself: leave out --base")
        return cls(folder, manifest, modules, base or manifest.base)

    @property
    def base_path(self) -> str:
        """Where the base's weights are: a hub name, a folder or a GGUF file."""
        return str(self.folder) if self.manifest.self_contained else resolve(self.base)

    @cached_property
    def base_config(self) -> PreTrainedConfig:
        """The configuration of the base, which says how its files are stored.

        Raises:
            UserError: there is no base.
        """
        if self.manifest.self_contained:
            return read_config(str(self.folder))
        return read_named_base(self.base_path, revision=self.manifest.revision)

    @property
    def quantization(self) -> Blockwise8bitConfig | None:
        """How the base was stored while the adapter was trained; None for floats."""
        stored = self.manifest.quantization
        return None if stored is None else Blockwise8bitConfig(**stored)

    @property
    def probes(self) -> torch.Tensor:
        """The probes' embeddings when the model was saved, float32 (len(PROBES), H).

        Raises:
            UserError: the file is missing or broken.
        """
        try:
            return load_file(self.folder / PROBES_FILE)["embeddings"]
        except (OSError, SafetensorError, KeyError) as error:
            raise UserError(
                f"{self.folder / PROBES_FILE} is missing or broken ({error}): restore it from where the model was saved"
            ) from error


def _local(name: str) -> Path:
    """The folder of a model; one on the hub is fetched."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists() or name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise UserError(f"model {name!r}: no such folder")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name))
    except Exception as error:  # whatever a missing network or a name that the hub refuses makes of itself
        raise UserError(
            f"model {name!r}: no such folder, and none of the hub that can be reached from here ({first_line(error)})"
        ) from error
