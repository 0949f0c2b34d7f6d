"""A GGUF file as a base: its configuration, its tokenizer, and its weights, de-quantised a few rows at a time.

Transformers reads the first two (`gguf_file=...`). Its loader of the weights is not used: it de-quantises the whole
model into floats first, and what it returns calls itself quantised and cannot be saved. Names and layouts of the
tensors are transformers' own all the same.
"""

from __future__ import annotations

import atexit
import copy
import ctypes
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig

from lacos_st.blockwise import check_block, quantize
from lacos_st.errors import UserError
from lacos_st.gguf_attention import apply_attention_
from lacos_st.gguf_header import Header, StoredTensor, read_header
from lacos_st.heap import trim
from lacos_st.linear import storable_layers
from lacos_st.pages import release_pages
from lacos_st.quantizer import UNUSED, Blockwise8bitConfig
from lacos_st.upstream import gguf_tensors

SUFFIX = ".gguf"
HEADS = ("output.weight", "output.bias")
"""Tensors of a language-modelling head, which an encoder has not."""

EMBEDDING = "token_embd.weight"
"""The one tensor that is large by itself, and that no architecture stores in another order than transformers."""

SLAB_VALUES = 2**20
"""Values of the token embedding that are floats at a time: 4 MiB."""


def is_gguf(name: str) -> bool:
    """Whether a base's name is that of a GGUF file: a path, or `owner/name/file.gguf` on the hub."""
    return name.lower().endswith(SUFFIX) and not Path(name).is_dir()


def join(name: str, file: str | None) -> str:
    """One name for a base that is given as a folder or hub name and transformers' `gguf_file`."""
    return name if file is None else f"{name.rstrip('/')}/{file}"


def local_file(name: str, **hub: Any) -> Path:
    """Where a GGUF file lies, fetched from the hub if its name is none of a file here.

    Args:
        name: see `is_gguf`.
        **hub: token, cache_dir, revision, local_files_only.

    Raises:
        UserError: there is no such file, or it cannot be fetched.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    owner, _, rest = name.partition("/")
    repository, _, file = rest.partition("/")
    if not file or name.startswith((".", "/", "~")) or ".." in name.split("/"):
        raise UserError(f"no such GGUF file: {name!r} (expected a path, or owner/name/file.gguf of the hub)")
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(f"{owner}/{repository}", file, **hub))
    except Exception as error:  # whatever a missing network or a name that the hub refuses makes of itself
        raise UserError(
            f"cannot load {name!r}: it is no file here, and none of the hub that can be reached from here "
            f"({_reason(error)})"
        ) from error


def read_config(name: str, **hub: Any) -> PreTrainedConfig:
    """The configuration of the model in a GGUF file.

    Raises:
        UserError: the gguf package is missing, the file cannot be had, or is none that transformers knows; or its
            attention is not transformers' (`apply_attention_`).
    """
    file = local_file(name, **hub)
    with _reading(file):
        status = file.stat()
        return copy.deepcopy(_config(str(file.absolute()), status.st_mtime_ns, status.st_size))


def tokenizer_folder(name: str, **hub: Any) -> str:
    """A temporary folder with the tokenizer of a GGUF file: it pads on the right, and has a token to pad with.

    Nothing that lies beside the file is read.

    Raises:
        UserError: as `read_config`.
    """
    file = local_file(name, **hub)
    with _reading(file):
        status = file.stat()
        return _tokenizer(str(file.absolute()), status.st_mtime_ns, status.st_size)


def read_weights(
    file: Path, config: PreTrainedConfig, model: nn.Module, *, quantization: Blockwise8bitConfig | None
) -> dict[str, torch.Tensor]:
    """The weights in a GGUF file, under the names of `model`.

    One tensor is a float array at a time, of the token embedding 4 MiB: beside what is returned, the peak is twice
    the largest linear layer in float32, for transformers' change of its layout.

    Args:
        file: see `local_file`.
        config: that `read_config` gave.
        model: the encoder, on the meta device.
        quantization: how to store linear layers and the token embedding; None leaves float32.

    Returns:
        float32 tensors; of each layer that is stored in 8 bits, `codes` and `absmax` in the place of `weight`.

    Raises:
        UserError: the file is damaged, or holds what the model has no place for (such as `rope_freqs.weight`).
        ValueError: a width that the block size does not divide, or inf or nan in a weight.
    """
    with _reading(file):
        header = _read_header(file)
        processor, names = gguf_tensors(header.architecture, config, model)
        content = np.memmap(file, dtype=np.uint8, mode="r")
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    skip = [] if quantization is None else [*quantization.skip, *UNUSED]
    stored = set() if quantization is None else {f"{name}.weight" for name, _ in storable_layers(model, skip=skip)}
    widths = [wanted[name][-1] for name in stored]
    state: dict[str, torch.Tensor] = {}
    for tensor in header.tensors:
        name = names.get(tensor.name)
        if name not in wanted:
            if tensor.name in HEADS:
                continue
            raise UserError(
                f"{file} holds {tensor.name}, which transformers' {config.model_type} has no place for: without it "
                "this would be another model. Fetch the model as safetensors instead"
            )
        if name in stored:
            assert quantization is not None
            check_block(wanted[name][-1], quantization.block_size, name=name, widths=widths)
        with _reading(file):
            slabs = _floats(content, tensor, processor, shape=wanted[name], name=name)
            if name in stored:
                assert quantization is not None
                codes, absmax = _quantized(slabs, quantization, name=name, shape=wanted[name])
                prefix = name.removesuffix("weight")
                state[f"{prefix}codes"], state[f"{prefix}absmax"] = codes, absmax
            else:
                state[name] = torch.empty(wanted[name])
                _fill(slabs, lambda slab: (slab,), state[name])
        trim()  # what came and went leaves holes between the codes that stay
    return state


def shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors in a GGUF file, by their names there; no more of it is read than its header.

    Raises:
        UserError: the gguf package is missing, or the file is damaged.
    """
    with _reading(file):
        return {tensor.name: tensor.shape for tensor in _read_header(file).tensors}


def file_hash(file: Path) -> str:
    """SHA-256 (hex) of the whole file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _quantized(
    slabs: Iterator[torch.Tensor], quantization: Blockwise8bitConfig, *, name: str, shape: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    codes = torch.empty(shape, dtype=torch.uint8)
    absmax = torch.empty(shape[0], shape[1] // quantization.block_size, dtype=torch.float32)
    options: dict[str, Any] = {"block_size": quantization.block_size, "code": quantization.code, "name": name}
    _fill(slabs, lambda slab: quantize(slab, **options), codes, absmax)
    return codes, absmax


def _fill(
    slabs: Iterator[torch.Tensor], change: Callable[[torch.Tensor], Iterable[torch.Tensor]], *filled: torch.Tensor
) -> None:
    """Put what `change` makes of each slab of rows where these rows belong."""
    start = 0
    for slab in slabs:
        for whole, part in zip(filled, change(slab), strict=True):
            whole[start : start + len(slab)] = part
        start += len(slab)
    assert start == len(filled[0])


def _floats(
    content: np.ndarray[Any, Any], tensor: StoredTensor, processor: Any, *, shape: tuple[int, ...], name: str
) -> Iterator[torch.Tensor]:
    """Float32 rows of a tensor in transformers' order: slabs of the token embedding, any other whole."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

    kind = GGMLQuantizationType(tensor.kind)
    values_in_block, block_bytes = GGML_QUANT_SIZES[kind]
    if tensor.values != math.prod(shape):
        raise ValueError(f"{tensor.name} holds {tensor.values} values, {name} is of shape {shape}")
    if not tensor.shape or tensor.shape[-1] % values_in_block:
        raise ValueError(f"{tensor.name} is stored as {kind.name}, in which a row of {tensor.shape} does not fit")
    row_bytes = tensor.shape[-1] // values_in_block * block_bytes
    end = tensor.start + tensor.values // tensor.shape[-1] * row_bytes
    if end > len(content):
        raise ValueError(f"{tensor.name} ends at byte {end}, the file at {len(content)}")
    stored = content[tensor.start : end].reshape(*tensor.shape[:-1], row_bytes)
    step = max(1, SLAB_VALUES // shape[-1]) if tensor.name == EMBEDDING else len(stored)
    for start in range(0, len(stored), step):
        part = stored[start : start + step]
        # of float32 this is a view of the file, which may not be written: copied
        values = np.array(dequantize(part, kind), copy=kind == GGMLQuantizationType.F32 or None, dtype=np.float32)
        if tensor.name != EMBEDDING:
            options: dict[str, Any] = {"name": tensor.name, "tensor_key_mapping": {}, "parsed_parameters": {}}
            values = np.ascontiguousarray(processor.process(weights=values, **options).weights, dtype=np.float32)
        yield torch.from_numpy(values).reshape(-1, *shape[1:])
        release_pages(_bytes(part))


@lru_cache(maxsize=8)
def _config(path: str, modified_ns: int, size: int) -> PreTrainedConfig:
    file = Path(path)
    header = _read_header(file)
    config = AutoConfig.from_pretrained(str(file.parent), gguf_file=file.name)
    apply_attention_(config, header, file)
    config.dtype = torch.float32
    return config


@lru_cache(maxsize=8)
def _tokenizer(path: str, modified_ns: int, size: int) -> str:
    """Kept until Python ends: to build one from 262,144 tokens takes transformers half a minute."""
    alone, folder = TemporaryDirectory(), TemporaryDirectory()
    atexit.register(folder.cleanup)
    with alone:
        (Path(alone.name) / "model.gguf").symlink_to(path)
        tokenizer = AutoTokenizer.from_pretrained(alone.name, gguf_file="model.gguf")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    tokenizer.save_pretrained(folder.name)  # not the side on which it pads: read again, it is the right one
    return folder.name


def _read_header(file: Path) -> Header:
    """`read_header`, where the gguf package is there to go on with."""
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"{file} is a GGUF file, and the gguf package is missing: pip install 'lacos_st[gguf]'"
        ) from error
    return read_header(file)


def _bytes(part: np.ndarray[Any, Any]) -> torch.Tensor:
    """The memory-mapped pages of an array; nothing is copied, and nothing may be written there."""
    return torch.frombuffer((ctypes.c_uint8 * part.nbytes).from_address(part.ctypes.data), dtype=torch.uint8)


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Whatever the gguf package and transformers make of a damaged file, as one error that names it."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        raise UserError(
            f"the GGUF file {file} cannot be read ({_reason(error)}): it is damaged, or its architecture is none that "
            "transformers reads from GGUF; fetch it again, or fetch the model as safetensors"
        ) from error


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
