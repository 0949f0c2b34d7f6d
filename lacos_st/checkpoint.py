"""What a saved model says of itself: `lacos.json` and the embeddings of a few probe sentences."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import UnionType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from sentence_transformers.util import load_file_path
from torch import nn

from lacos_st.errors import UserError
from lacos_st.seal import check_seal, write_seal

MANIFEST_FILE = "lacos.json"
PROBES_FILE = "lacos_probes.safetensors"
FORMAT_VERSION = 3
"""2 added `adapter_sha256`, 3 the seal beside it (`lacos_st.seal`); 1 and 2 are still read."""
SEALED_SINCE = 3

PROBES = (
    "A man is playing a guitar.",
    "La réunion commence à neuf heures.",
    "नदी के किनारे एक छोटा गाँव है।",
    "这本书很有意思。",
    "x",
)
"""Sentences whose embeddings are saved beside a model and compared when it is loaded."""

PROBE_TOLERANCE = {True: 1e-4, False: 5e-2}
"""Largest relative L2 difference of a probe's embedding: saved and loaded in float32, and all else.
Float32 on other hardware or threads differs by about 1e-6; bfloat16 there, or against float32, by about 1e-2."""

HASHED_VALUES = 2**22
"""Values that are copied as float32 at a time to be hashed: 16 MiB."""

LIBRARIES = ("lacos-st", "sentence-transformers", "torch", "transformers", "peft", "bitsandbytes")


def installed(name: str) -> str:
    """The version of an installed library, "unknown" where it runs from a bare checkout."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


KINDS: dict[str, type | UnionType] = {
    "base": str,
    "revision": str | None,
    "base_sha256": str,
    "self_contained": bool,
    "quantization": dict | None,
    "lora": dict | None,
    "dtype": str,
    "versions": dict,
    "format_version": int,
    "adapter_sha256": str | None,
}
"""What each field of `lacos.json` is."""


@dataclass(frozen=True)
class Manifest:
    """The contents of `lacos.json`.

    Attributes:
        base: name of the base model: a hub name, an embedded one or an absolute path.
        revision: commit of the base on the hub, where there is one.
        base_sha256: `base_hash` of the base as it was stored in memory.
        self_contained: whether the folder holds the base's weights.
        quantization: block_size, code and skip; None for an un-quantised base.
        lora: rank, alpha and targets; None without adapters.
        dtype: in which the probes were embedded.
        versions: of the libraries that wrote it.
        format_version: of this file.
        adapter_sha256: `adapter_hash`; None without adapters, and in version 1.
    """

    base: str
    revision: str | None
    base_sha256: str
    self_contained: bool
    quantization: dict[str, Any] | None
    lora: dict[str, Any] | None
    dtype: str
    versions: dict[str, str] = field(default_factory=lambda: {name: installed(name) for name in LIBRARIES})
    format_version: int = FORMAT_VERSION
    adapter_sha256: str | None = None

    def __post_init__(self) -> None:
        for name, kind in KINDS.items():
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f"{name} is {str(getattr(self, name))[:80]!r}")

    def write(self, folder: Path, *, module: str) -> None:
        """Write `lacos.json` into `folder`, and the seal over all that is there by now; `module`: see `write_seal`."""
        (folder / MANIFEST_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        write_seal(folder, module=module)

    @classmethod
    def read(cls, file: Path) -> Manifest:
        """Read what `write` wrote.

        Raises:
            UserError: not JSON, fields that are missing or unknown, or a newer format.
        """
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            written = content.get("format_version", 0)
            manifest = None if written > FORMAT_VERSION else cls(**content)
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{file} is broken ({error}): restore it from where the model was saved") from error
        if manifest is None:
            raise UserError(
                f"{file} was written by a newer lacos_st: upgrade with pip install -U lacos_st (its format is "
                f"{written}, this version reads up to {FORMAT_VERSION})"
            )
        return manifest

    def differences(self) -> str:
        """Which libraries' versions differ from those that wrote the model, for error messages."""
        changed = [
            f"{name} {was} -> {installed(name)}" for name, was in self.versions.items() if installed(name) != was
        ]
        return "; ".join(changed) if changed else "no library has another version"


def hub_options(model_kwargs: dict[str, Any]) -> dict[str, Any]:
    """Which of transformers' options sentence-transformers' file functions take, under the names they have there."""
    names = (("token", "token"), ("cache_folder", "cache_dir"), ("revision", "revision"))
    found = {ours: model_kwargs.get(theirs) for ours, theirs in names}
    return {**found, "local_files_only": model_kwargs.get("local_files_only", False)}


def find_manifest(path: str, hub: dict[str, Any]) -> Manifest | None:
    """The manifest of a folder or hub name that lacos_st saved; None for any other, and for a GGUF file.

    Raises:
        UserError: see `Manifest.read`; of a folder, also see `check_seal`.
    """
    try:
        is_file = path.lower().endswith(".gguf") and not Path(path).is_dir()
        file = None if is_file else load_file_path(path, MANIFEST_FILE, **hub)
    except OSError:
        file = None
    manifest = Manifest.read(Path(file)) if file else None
    if Path(path).is_dir():
        check_seal(Path(path), required=manifest is not None and manifest.format_version >= SEALED_SINCE)
    return manifest


def lasting_name(name: str) -> str:
    """The absolute path of a local folder or GGUF file, any other name as it is."""
    path = Path(name).expanduser()
    if path.suffix.lower() == ".gguf" and path.is_file():
        return str(path.absolute())  # links kept: in the hub's cache they lead to a file without a name
    return str(path.resolve()) if path.is_dir() else name


def base_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every saved tensor of the base, under the names it has without adapters."""
    return {
        name.replace(".base_layer.", "."): tensor for name, tensor in model.state_dict().items() if ".lora_" not in name
    }


def base_hash(model: nn.Module) -> str:
    """SHA-256 (hex) of the base's tensors, adapters left out.

    Floats count as float32, so that a cast which loses nothing changes nothing.
    """
    return tensors_hash(base_state(model))


def adapter_hash(model: nn.Module) -> str:
    """SHA-256 (hex) of the adapter's tensors, as `base_hash` of the base's."""
    return tensors_hash({name: tensor for name, tensor in model.state_dict().items() if ".lora_" in name})


def check_adapter_hash(model: nn.Module, manifest: Manifest, folder: Path) -> None:
    """`compare_adapter_hash` of the adapter in `model`."""
    if manifest.adapter_sha256 is not None:
        compare_adapter_hash(adapter_hash(model), manifest, folder)


def compare_adapter_hash(found: str, manifest: Manifest, folder: Path) -> None:
    """That the adapter read from `folder` has the hash that the manifest names, where it names one.

    Raises:
        UserError: it has another one.
    """
    if manifest.adapter_sha256 is not None and found != manifest.adapter_sha256:
        raise UserError(
            f"the adapter in {folder} is not the one that was saved: its hash is {found[:12]}..., expected "
            f"{manifest.adapter_sha256[:12]}...; a value in adapter_model.safetensors was changed. Restore the file, "
            "or train again"
        )


def tensors_hash(tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 (hex) of tensors and their names, in the order of these; floats count as float32."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        add_to_hash(digest, name, tensor)
    return digest.hexdigest()


def add_to_hash(digest: Any, name: str, tensor: torch.Tensor) -> None:
    """One tensor of `tensors_hash`, to be called in the order of the names; a slab of it is copied at a time."""
    digest.update(name.encode())
    for part in tensor.detach().contiguous().view(-1).split(HASHED_VALUES):
        plain = part.float() if part.is_floating_point() else part
        digest.update(plain.cpu().view(torch.uint8).numpy().data)


def write_probes(embeddings: torch.Tensor, folder: Path) -> None:
    """Save the probes' embeddings, float32 (len(PROBES), H)."""
    save_file({"embeddings": embeddings.contiguous()}, folder / PROBES_FILE)


def check_probes(embeddings: torch.Tensor, file: Path, manifest: Manifest, *, dtype: str) -> None:
    """Compare the probes' embeddings with the saved ones.

    Args:
        embeddings: float32 (len(PROBES), H), of the model as it was loaded.
        file: what `write_probes` wrote.
        manifest: of the same folder.
        dtype: in which `embeddings` were computed.

    Raises:
        UserError: the file is missing or broken, or an embedding differs by more than `PROBE_TOLERANCE`.
    """
    try:
        saved = load_file(file)["embeddings"]
    except (OSError, SafetensorError, KeyError) as error:
        raise UserError(f"{file} is missing or broken ({error}): restore it from where the model was saved") from error
    if saved.shape != embeddings.shape:
        raise UserError(f"{file} holds embeddings of shape {tuple(saved.shape)}, the model's {tuple(embeddings.shape)}")
    difference = float(((embeddings - saved).norm(dim=1) / saved.norm(dim=1).clamp(min=1e-12)).max())
    allowed = PROBE_TOLERANCE[dtype == manifest.dtype == "float32"]
    if not difference <= allowed:
        raise UserError(
            f"the loaded model does not embed as the saved one did: the probe sentences differ by {difference:.1e} "
            f"(allowed {allowed:.0e}), though base and adapter have the right hash and shape. Versions: "
            f"{manifest.differences()}. Load it with its own options, SentenceTransformer(folder), and with the "
            f"versions named in {MANIFEST_FILE}; or save the model anew"
        )
