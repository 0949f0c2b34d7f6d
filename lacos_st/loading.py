"""Load a base model: quantised while it is read, complete, and known by its hash; or an error."""

from __future__ import annotations

import copy
import hashlib
import logging
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import MODEL_MAPPING, AutoConfig, AutoModel, AutoTokenizer, PreTrainedConfig, PreTrainedModel

from lacos_st import gguf
from lacos_st.attention import RAGGED
from lacos_st.bloom import BloomEncoder
from lacos_st.checkpoint import base_hash
from lacos_st.errors import UserError
from lacos_st.folder import check_folder, weight_headers
from lacos_st.quantizer import METHOD, Blockwise8bitConfig
from lacos_st.stored import Stored8bit

logger = logging.getLogger(__name__)

HUB_KEYS = ("token", "cache_dir", "revision", "local_files_only")

HARMLESS = (
    *(*HUB_KEYS, "subfolder", "trust_remote_code", "code_revision", "force_download", "proxies", "gguf_file"),
    *("attn_implementation", "dtype", "torch_dtype", "use_cache"),
)
"""Of `config_kwargs`, what says where to look, or changes no embedding; dropout does not either."""

VALUES_PER_STORED_VALUE = 2
"""Most values a model may have for each one in its files: a checkpoint may lack heads that we do not use."""

FREE_VALUES = 2**20
"""Values that a model may have whatever its files hold: tables of positions and masks are made, not stored."""


@dataclass(frozen=True)
class LoadedBase:
    """A base model in memory.

    Attributes:
        model: `BloomEncoder` for a BLOOM, else transformers' model behind ragged attention.
        sha256: `base_hash` of the weights as they were read, before any cast, and of a GGUF file.
        quantization: how its weights are stored, None for floats.
        tensors_sha256: `base_hash` alone; None where what was read in 8 bits is floats now.
    """

    model: PreTrainedModel
    sha256: str
    quantization: Blockwise8bitConfig | None
    tensors_sha256: str | None


def read_config(path: str, **hub: Any) -> PreTrainedConfig:
    """The configuration of a base model.

    Args:
        path: hub name, folder or GGUF file (`gguf.is_gguf`).
        **hub: token, cache_dir, revision, local_files_only.

    Raises:
        UserError: there is none, the folder cannot be trusted (`check_folder`), it asks for code of its own, or it is
            an encoder-decoder's.
    """
    check_folder(Path(path))
    try:
        if gguf.is_gguf(path):
            config = gguf.read_config(path, **hub)
        else:
            config = AutoConfig.from_pretrained(path, **{**hub, "trust_remote_code": False})
    except UserError:
        raise
    except Exception as error:  # a config.json that strangers wrote raises what it likes
        if "trust_remote_code" in str(error):
            raise UserError(
                f"{path!r} comes with code of its own (auto_map in its config.json), which is never run, with "
                "trust_remote_code=True neither: choose a model that transformers knows"
            ) from error
        raise UserError(
            f"cannot load {path!r}: it is no folder with a config.json, no embedded model, and no hub model that can "
            f"be reached from here ({first_line(error)})"
        ) from error
    if config.is_encoder_decoder:
        raise UserError(
            f"{path!r} ({config.model_type}) is an encoder-decoder: choose a decoder such as BLOOM, or an encoder "
            "such as BERT"
        )
    return config


def chosen_dtype(given: torch.dtype | str | None) -> torch.dtype | str:
    """What `dtype` in model_kwargs asks for.

    Args:
        given: a dtype, its name ("bfloat16"), "auto" for the checkpoint's; None for float32.

    Returns:
        the dtype, or "auto".

    Raises:
        UserError: it is no dtype of floats.
    """
    if given is None or given == "auto":
        return given or torch.float32
    found = getattr(torch, given.removeprefix("torch."), None) if isinstance(given, str) else given
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise UserError(f'dtype={given!r} is no dtype to compute in: choose "float32", "bfloat16", "float16" or "auto"')
    return found


def load_base(
    path: str,
    config: PreTrainedConfig,
    *,
    quantization: Blockwise8bitConfig | None,
    dtype: torch.dtype | str,
    **options: Any,
) -> LoadedBase:
    """Read a base model, tensor by tensor into 8-bit blocks where that is asked for.

    Args:
        path: hub name, folder or GGUF file.
        config: the base's own configuration.
        quantization: how to store float weights; None for no quantisation. A base that is stored in 8 bits already
            stays as it is stored, unless None de-quantises it.
        dtype: that the model computes in; "auto" for the checkpoint's.
        **options: of transformers' `from_pretrained`.

    Raises:
        UserError: see `open_base` and `check_storage_options`; or all of its weights are stored in 8 bits.
    """
    check_storage_options(options)
    stored = stored_quantization(config)
    model, file = open_base(path, config, quantization=quantization, **options)
    tensors = base_hash(model)
    sha256 = with_file_hash(tensors, file)
    floats_of_codes = quantization is None and stored is not None
    if floats_of_codes:
        model.dequantize(dtype=dtype if isinstance(dtype, torch.dtype) else None)
        model.requires_grad_(True)
        stored = None
    if isinstance(dtype, torch.dtype):
        nn.Module.to(model, dtype=dtype)
    _check_floats(path, model)
    if (stored := stored or quantization) is not None:
        _warn_of_floats(path, model)
    return LoadedBase(model, sha256, stored, None if floats_of_codes else tensors)


def open_base(
    path: str, config: PreTrainedConfig, *, quantization: Blockwise8bitConfig | None, **options: Any
) -> tuple[Any, Path | None]:
    """A base model as its files hold it, but for the layers that are to be stored in 8 bits.

    What is not quantised here is not copied: the tensors of safetensors files are mapped, and read when they are used.

    Args:
        path: hub name, folder or GGUF file.
        config: the base's own configuration.
        quantization: how to store float weights; None leaves all as it is stored.
        **options: of transformers' `from_pretrained`.

    Returns:
        The model (`LoadedBase.model`), and the GGUF file that it was read from; None for safetensors.

    Raises:
        UserError: the weights cannot be read, are incomplete, or stored in somebody else's 8- or 4-bit format.
    """
    if stored_quantization(config) is None and quantization is not None:
        options["quantization_config"] = quantization
    is_bloom = config.model_type == "bloom"
    # what config.json says of it could name a kernel on the hub; nor is code or a pickle of the folder opened
    options.update(attn_implementation="eager", trust_remote_code=False, use_safetensors=True)
    known: Any = MODEL_MAPPING.get(type(config), PreTrainedModel)
    if not is_bloom:
        options["attn_implementation"] = RAGGED
        if "add_pooling_layer" in signature(known).parameters:
            options["add_pooling_layer"] = False  # over one token: token embeddings do not pass through it
    model_class: Any = BloomEncoder if is_bloom else AutoModel
    file = gguf.local_file(path, **hub_part(options)) if gguf.is_gguf(path) else None
    try:
        if file is not None:
            options |= _gguf_options(file, config, quantization, is_bloom=is_bloom)
            model_class = model_class if is_bloom else known  # AutoModel wants a path
        elif Path(path).is_dir() and not options.get("variant"):
            _check_sizes(path, config, is_bloom=is_bloom)
        model, report = model_class.from_pretrained(
            None if file else path,
            config=options.pop("config", config),
            dtype=torch.float32 if file else "auto",
            output_loading_info=True,
            **options,
        )
    except UserError as error:
        raise UserError(f"cannot load the weights of {path!r}: {error}") from error
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a config.json that strangers wrote raises what it likes
        if RAGGED in str(error):
            raise UserError(
                f"cannot load {path!r}: a base of type {config.model_type!r} does not take its attention from "
                "transformers' attention interface, which batches without padding need: take another base"
            ) from error
        raise UserError(f"cannot load the weights of {path!r}: {first_line(error)}") from error
    missing = sorted(report["missing_keys"])
    if missing or report["mismatched_keys"]:
        raise UserError(
            f"the weights of {path!r} are incomplete: {len(missing)} tensors are missing ({', '.join(missing[:2])}), "
            f"{len(report['mismatched_keys'])} have another shape"
        )
    return model, file


def _check_floats(path: str, model: nn.Module) -> None:
    """That a float weight is left: transformers and peft tell a model's device and dtype by its first one.

    Raises:
        UserError: there is none, as in OLMo, whose layer norms have no weights.
    """
    if next(model.parameters(), None) is None:
        layers = {name: layer.codes.numel() for name, layer in model.named_modules() if isinstance(layer, Stored8bit)}
        raise UserError(
            f"no float weight is left in {path!r} with all of its layers in 8 bits, and its device and dtype are known "
            f"by one: leave a layer out of 8 bits, such as skip=[{min(layers, key=layers.__getitem__)!r}]"
        )


def _warn_of_floats(path: str, model: nn.Module) -> None:
    """Log it where less than half of a base's matrices are stored in 8 bits: Conv1D and 3-D experts never are."""
    layers = list(model.modules())
    stored = sum(layer.codes.numel() for layer in layers if isinstance(layer, Stored8bit))
    left: Counter[str] = Counter()
    for layer in layers:
        left[type(layer).__name__] += sum(each.numel() for each in layer.parameters(recurse=False) if each.ndim > 1)
    if stored < left.total():
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in left.most_common() if count)
        logger.warning(
            "of the %s values in the matrices of %r only %s are stored in 8 bits, which is for linear layers and the "
            "token embedding; these stay floats: %s",
            f"{stored + left.total():,}",
            path,
            f"{stored:,}",
            kinds,
        )


def with_file_hash(sha256: str, file: Path | None) -> str:
    """The hash of a base that was read from a GGUF file: of its tensors and of the file; None: of its tensors alone.

    A GGUF file's metadata make the model too, and rounding to 8 bits hides some changes of a weight.
    """
    return sha256 if file is None else hashlib.sha256(f"{sha256} {gguf.file_hash(file)}".encode()).hexdigest()


def read_named_base(path: str, **hub: Any) -> PreTrainedConfig:
    """`read_config` of the base that a saved adapter names; it says how the base's files are stored.

    Raises:
        UserError: as `read_config`, and where to name the base's new place.
    """
    try:
        return read_config(path, **hub)
    except UserError as error:
        raise UserError(
            f"this model is an adapter on the base {path!r}, which cannot be loaded: put it back, or name its new "
            f'place with model_kwargs={{"base": ...}} ({error})'
        ) from error


def read_tokenizer(path: str, **hub: Any) -> Any:
    """The tokenizer of a base, without the base.

    Raises:
        UserError: it has none that can be loaded.
    """
    try:
        if gguf.is_gguf(path):
            return AutoTokenizer.from_pretrained(gguf.tokenizer_folder(path, **hub))
        return AutoTokenizer.from_pretrained(path, **hub)
    except (OSError, ValueError) as error:
        raise UserError(f"the base {path!r} has no tokenizer that can be loaded: {error}") from error


def hub_part(options: dict[str, Any]) -> dict[str, Any]:
    """Those of `from_pretrained`'s options that say how the hub is asked."""
    return {key: options[key] for key in HUB_KEYS if key in options}


def check_changes(config_kwargs: dict[str, Any], *, base: str, kept: bool) -> None:
    """That a configuration that was changed while the base is loaded is one that a saved model comes back with.

    Args:
        config_kwargs: as sentence-transformers has them.
        base: its name, for the message.
        kept: whether the model is saved with its base, and its configuration with it.

    Raises:
        UserError: it is saved by its base's name, or the base is a GGUF file, whose header is the configuration.
    """
    changed = [name for name in config_kwargs if name not in HARMLESS and "drop" not in name]
    if changed and not kept:
        raise UserError(
            f"config_kwargs changes {', '.join(changed)} of {base}: a model that is saved by its base's name would "
            "come back without. Save the changed base (config and weights) in a folder and name that, or, of a base "
            "that is no GGUF file, keep the base with the model: self_contained=True"
        )


def check_storage_options(options: dict[str, Any]) -> None:
    """That `from_pretrained`'s options leave storage to ours; one for attention, which is ours too, is warned of.

    Raises:
        UserError: a `quantization_config` is among them.
    """
    if options.get("quantization_config") is not None:
        raise UserError("model_kwargs: 8-bit storage is named by block_size=, code= and skip=, not quantization_config")
    if (wanted := options.get("attn_implementation")) not in (None, "eager", RAGGED):
        logger.warning("attn_implementation=%r has no effect: attention is lacos_st's own, without padding", wanted)


def _gguf_options(
    file: Path, config: PreTrainedConfig, quantization: Blockwise8bitConfig | None, *, is_bloom: bool
) -> dict[str, Any]:
    """Options of `from_pretrained` that hand it the weights in a GGUF file, already in 8-bit blocks if asked for."""
    model = _check_described(config, gguf.shapes(file), is_bloom=is_bloom)
    config = copy.deepcopy(config)
    if quantization is not None:
        config.quantization_config = quantization.to_dict()
    state = gguf.read_weights(file, config, model, quantization=quantization)
    return {"config": config, "state_dict": state, "quantization_config": None, "revision": None}


def _check_sizes(path: str, config: PreTrainedConfig, *, is_bloom: bool) -> None:
    """That the files hold the model that config.json describes, before memory is taken for it.

    Raises:
        UserError: see `weight_headers`; or config.json describes far more layers or values than the files hold.
    """
    if getattr(config, "transformers_weights", None) is not None:
        raise UserError("its config.json names the file of its weights (transformers_weights): remove that line")
    _check_described(config, weight_headers(Path(path)), is_bloom=is_bloom)


def _check_described(config: PreTrainedConfig, shapes: dict[str, tuple[int, ...]], *, is_bloom: bool) -> nn.Module:
    """The model that a configuration describes, on the meta device, where tensors of these shapes can fill it.

    Raises:
        UserError: it has far more layers or values than they do.
    """
    stored = sum(math.prod(shape) for shape in shapes.values())
    allowed = VALUES_PER_STORED_VALUE * stored + FREE_VALUES
    parts = [config, *(part for part in vars(config).values() if isinstance(part, PreTrainedConfig))]
    layers = max(int(getattr(part, "num_hidden_layers", None) or 0) for part in parts)
    described = allowed + 1
    if layers <= len(shapes):  # else only to build it would take forever
        with torch.device("meta"):
            plain: Any = copy.deepcopy(config)
            model = BloomEncoder(plain) if is_bloom else AutoModel.from_config(plain, attn_implementation="eager")
        described = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    if described > allowed:
        raise UserError(
            f"its config.json describes a model of {layers} layers and at least {described} values, its files hold "
            f"{len(shapes)} tensors of {stored} values: one of them belongs to another model; fetch or write it again"
        )
    return model


def stored_quantization(config: PreTrainedConfig) -> Blockwise8bitConfig | None:
    """How a checkpoint in our format is stored; None for a float one."""
    stored = getattr(config, "quantization_config", None)
    if stored is None:
        return None
    stored = dict(stored if isinstance(stored, dict) else stored.to_dict())
    method = stored.pop("quant_method", None)
    if method != METHOD:
        raise UserError(f"the base is stored as {method!r}: choose a float checkpoint, or one in lacos_st's format")
    try:
        return Blockwise8bitConfig(**stored)
    except (TypeError, ValueError) as error:
        raise UserError(f"the base's quantization_config cannot be used: {error}") from error


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type."""
    lines: Iterable[str] = str(error).strip().splitlines()
    return next(iter(lines), type(error).__name__)
