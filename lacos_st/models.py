"""Models by name: what `evaluate` is given on the command line becomes a SentenceTransformer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lacos_st.errors import UserError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def load_model(name_or_path: str, *, device: str | None = None) -> SentenceTransformer:
    """Load a sentence-transformers folder or hub name; or a base (embedded, transformers', GGUF) as zero-shot encoder.

    Raises:
        UserError: no such folder, an unreadable model, a hub name that can't be fetched, or no such device.
    """
    from sentence_transformers import SentenceTransformer

    import lacos_st
    from lacos_st.checkpoint import find_manifest
    from lacos_st.embedded import EMBEDDED, resolve
    from lacos_st.folder import check_folder
    from lacos_st.gguf import is_gguf

    lacos_st.register()  # which the command line has put off until a model is loaded
    check_device(device)
    path = Path(name_or_path).expanduser()
    if is_gguf(resolve(str(path))):
        return zero_shot(name_or_path, device=device)
    if path.is_dir():
        if not any((path / file).is_file() for file in ("modules.json", "config.json")):
            if (path / "model" / "modules.json").is_file():
                raise UserError(f"{path}: the folder of a training run, not a model: name {path / 'model'}")
            raise UserError(f"{path}: not a model, it has neither modules.json nor config.json, nor a GGUF file")
        if not (path / "modules.json").is_file():
            return zero_shot(str(path), device=device)
    elif path.exists():
        raise UserError(f"{path}: a file; expected the folder of a saved model, or a GGUF file (.gguf)")
    elif name_or_path in EMBEDDED:
        return zero_shot(name_or_path, device=device)
    elif name_or_path.startswith((".", "/", "~")) or name_or_path.count("/") > 1 or not name_or_path.strip():
        raise UserError(f"model {name_or_path!r}: no such folder")
    if path.is_dir():  # sentence-transformers reads some of its files before any module of ours is asked
        check_folder(path)
        find_manifest(str(path), {})
    try:
        return SentenceTransformer(str(path) if path.is_dir() else name_or_path, device=device)
    except UserError:
        raise
    except Exception as error:  # whatever a broken folder or a missing network makes of itself
        reason = " ".join(str(error).split())
        raise UserError(
            f"model {name_or_path!r} could not be loaded ({type(error).__name__}: {reason[:300]}): give the folder of "
            "a saved model, a hub name that can be reached, or the name of an embedded base"
        ) from error


def check_device(device: str | None) -> None:
    """That a model can be put on `device` and its embeddings fetched from there; None is torch's own choice.

    Raises:
        UserError: It cannot.
    """
    import torch

    if device is None:
        return
    try:
        torch.zeros(1, device=device).cpu()
    except Exception as error:  # RuntimeError, AssertionError or NotImplementedError, by what is wrong
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"device {device!r} cannot be used here ({reason[:200]}): choose cpu, or cuda where torch sees a GPU"
        ) from error


def zero_shot(name: str, *, device: str | None = None) -> SentenceTransformer:
    """Wrap a base that was not trained for sentences in mean pooling: plain text, no adapter, nothing trained.

    Raises:
        UserError: the base cannot be loaded.
    """
    from lacos_st.encoders import encoder

    return encoder(name, lora_rank=0, code=None, device=device)


def given_model(
    given: str | SentenceTransformer, *, device: str | None = None, truncate_dim: int | None = None
) -> SentenceTransformer:
    """A model as it is, or loaded by `load_model` where it is a name.

    Args:
        given: name or model.
        device: torch device of a model that is loaded.
        truncate_dim: dimensions that a model that is loaded keeps of each embedding, the first; None for all.

    Raises:
        UserError: as `load_model`, or the model's embeddings have fewer dimensions than that.
    """
    if not isinstance(given, str):
        return given
    model = load_model(given, device=device)
    if truncate_dim is not None:
        found = model.get_embedding_dimension() or truncate_dim
        if not 1 <= truncate_dim <= found:
            raise UserError(f"truncate_dim is {truncate_dim}: expected 1 to {found}, what {given}'s embeddings have")
        model.truncate_dim = truncate_dim
    return model


def describe(model: SentenceTransformer) -> dict[str, Any]:
    """Return what a model is, for the record: base, modules, dimension, where it is cut, bytes of its weights."""
    from lacos_st.upstream import name_or_path

    first = next(iter(model.children()), None)
    config = getattr(getattr(first, "auto_model", None), "config", None)
    tensors = [*model.parameters(), *model.buffers()]
    return {
        "base": getattr(first, "origin", None) or name_or_path(config) or getattr(first, "model_name_or_path", None),
        "model_type": getattr(config, "model_type", None),
        "modules": [f"{type(module).__module__}.{type(module).__name__}" for module in model.children()],
        "embedding_dimension": model.get_embedding_dimension(),
        "truncate_dim": getattr(model, "truncate_dim", None),
        "max_seq_length": model.max_seq_length,
        "weight_bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors),
    }
