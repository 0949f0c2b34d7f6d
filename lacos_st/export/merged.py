"""`merged`: LoRA folded into the weights of its base, tensor by tensor from the base's files to new ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lacos_st.adapters import ADAPTER_FOLDER
from lacos_st.bloom import BloomEncoder
from lacos_st.export.fidelity import Fidelity, fidelity
from lacos_st.export.folding import Folding
from lacos_st.export.low_rank import LowRank
from lacos_st.export.plain import write_config, write_modules
from lacos_st.export.saved import SavedModel
from lacos_st.export.shards import SHARD_BYTES, write_shards
from lacos_st.gguf import is_gguf
from lacos_st.loading import open_base, with_file_hash
from lacos_st.probes import check_base_hash

HALVES = (torch.float16, torch.bfloat16)


def default_dtype(saved: SavedModel) -> torch.dtype:
    """The base's own dtype where it has 16 bits, else float16, which keeps three bits more than bfloat16."""
    own = getattr(saved.base_config, "dtype", None)
    return own if own in HALVES else torch.float16


def write_merged(
    saved: SavedModel, folder: Path, *, dtype: torch.dtype, trained: bool, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write a plain sentence-transformers folder: base plus adapter, stock modules, the tokenizer.

    Args:
        saved: the model.
        folder: there, and empty.
        dtype: of the weights.
        trained: see `Folding`.
        shard_bytes: see `write_shards`.

    Raises:
        UserError: base or adapter is missing, or not the one that was saved; see `Folding` and `write_shards`.
    """
    write_weights(saved, folder, dtype=dtype, trained=trained, shard_bytes=shard_bytes)
    write_modules(saved, folder)


def write_weights(
    saved: SavedModel,
    folder: Path,
    *,
    dtype: torch.dtype,
    trained: bool,
    with_adapter: bool = True,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write config.json and the weights alone: `write_merged` says the rest; `with_adapter=False` leaves it out."""
    config, revision = saved.base_config, saved.manifest.revision
    hub: dict[str, Any] = {} if revision is None or saved.manifest.self_contained else {"revision": revision}
    # safetensors are mapped as they are, and go through 8 bits later; a GGUF file is read whole: then rather in 8 bits
    quantization = saved.quantization if trained and is_gguf(saved.base_path) else None
    model, file = open_base(saved.base_path, config, quantization=quantization, **hub)
    low_rank = None
    if with_adapter and saved.manifest.lora is not None:
        low_rank = LowRank.read(saved.folder / ADAPTER_FOLDER, saved.manifest)
    folding = Folding(model, low_rank, quantization=saved.quantization, trained=trained)
    write_shards(folder, folding.slots, folding, dtype=dtype, shard_bytes=shard_bytes)
    check_base_hash(with_file_hash(folding.sha256, file), saved.manifest, saved.base_path)
    architecture = "BloomModel" if isinstance(model, BloomEncoder) else type(model).__name__
    write_config(config, folder, architecture=architecture, dtype=dtype)


def check_folder_embeds(folder: Path, saved: SavedModel) -> Fidelity:
    """Load a finished folder as its users will, but for its name, and compare the probes."""
    from sentence_transformers import SentenceTransformer

    return fidelity(SentenceTransformer(str(folder), device="cpu")[0], saved.probes)
