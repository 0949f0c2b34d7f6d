"""`LowRank`: what an adapter adds to each weight of its base, a few rows at a time, without peft or the base."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from lacos_st.checkpoint import Manifest, compare_adapter_hash, tensors_hash
from lacos_st.errors import UserError
from lacos_st.folder import check_adapter

FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."
PART = re.compile(r"(?P<layer>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])(?:\.weight)?$")


@dataclass(frozen=True)
class LowRank:
    """LoRA as two matrices for each layer.

    Attributes:
        down: A by the layer's name, (r, in); of an embedding (r, rows).
        up: B, (out, r); of an embedding (columns, r).
        embeddings: names of the layers that are embeddings.
        scaling: alpha / r.
    """

    down: Mapping[str, torch.Tensor]
    up: Mapping[str, torch.Tensor]
    embeddings: frozenset[str]
    scaling: float

    @classmethod
    def read(cls, folder: Path, manifest: Manifest) -> LowRank:
        """Read the adapter that `adapters.save_adapter` wrote.

        Args:
            folder: of the adapter.
            manifest: of the model that it belongs to, with an adapter.

        Raises:
            UserError: it is missing, broken, or not the one that was saved.
        """
        assert manifest.lora is not None
        check_adapter(folder, manifest.lora)
        try:
            tensors = {name.removeprefix(PREFIX): tensor for name, tensor in load_file(folder / FILE).items()}
        except (OSError, SafetensorError) as error:
            raise UserError(f"the adapter {folder / FILE} is missing or broken ({error}): restore it") from error
        if unknown := [name for name in tensors if PART.match(name) is None]:
            raise UserError(f"the adapter {folder / FILE} holds {unknown[0]}, which is no part of a plain LoRA")
        # in a model, peft puts the adapter's own name before the last part
        named = {re.sub(r"(lora_(?:embedding_)?[AB])", r"\1.default", name): tensors[name] for name in tensors}
        compare_adapter_hash(tensors_hash(named), manifest, folder)
        sides: dict[str, dict[str, torch.Tensor]] = {"A": {}, "B": {}}
        embeddings = set()
        for name, tensor in tensors.items():
            match = PART.match(name)
            assert match is not None
            sides[match["side"]][match["layer"]] = tensor.float()
            if match["embedding"]:
                embeddings.add(match["layer"])
        if sides["A"].keys() != sides["B"].keys():
            raise UserError(f"the adapter {folder / FILE} lacks one of the two matrices of a layer: restore it")
        rank, alpha = manifest.lora["rank"], manifest.lora["alpha"]
        return cls(sides["A"], sides["B"], frozenset(embeddings), (rank if alpha is None else alpha) / rank)

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """That each layer has a weight of its shape in the base.

        Args:
            shapes: of the base's tensors, by name.

        Raises:
            UserError: one has not.
        """
        for layer, down in self.down.items():
            wide = (down.shape[1], self.up[layer].shape[0])
            expected = wide if layer in self.embeddings else wide[::-1]
            if shapes.get(f"{layer}.weight") != expected:
                raise UserError(
                    f"the adapter has a part for {layer}, of shape {expected}, and the base a weight of shape "
                    f"{shapes.get(f'{layer}.weight')}: they do not belong together"
                )

    def add_(self, values: torch.Tensor, layer: str, *, start: int) -> None:
        """Add s·B·A to some rows of a layer's weight; nothing where the adapter has no part for it.

        Args:
            values: float32 (n, columns), the rows from `start` on.
            layer: its name, without ".weight".
            start: the first row.
        """
        if layer not in self.down:
            return
        down, up, rows = self.down[layer], self.up[layer], slice(start, start + len(values))
        if layer in self.embeddings:
            values.addmm_(down[:, rows].t(), up.t(), alpha=self.scaling)
        else:
            values.addmm_(up[rows], down, alpha=self.scaling)
