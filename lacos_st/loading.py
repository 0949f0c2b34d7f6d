"""Load a base model: quantised while it is read, complete, and known by its hash; or an error."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import MODEL_MAPPING, AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from lacos_st.attention import RAGGED
from lacos_st.bloom import BloomEncoder
from lacos_st.checkpoint import base_hash
from lacos_st.errors import UserError
from lacos_st.quantizer import METHOD, Blockwise8bitConfig


@dataclass(frozen=True)
class LoadedBase:
    """A base model in memory.

    Attributes:
        model: `BloomEncoder` for a BLOOM, else transformers' model behind ragged attention.
        sha256: `base_hash` of the weights as they were read, before any cast.
        quantization: how its weights are stored, None for floats.
    """

    model: PreTrainedModel
    sha256: str
    quantization: Blockwise8bitConfig | None


def read_config(path: str, **hub: Any) -> PreTrainedConfig:
    """The configuration of a base model.

    Args:
        path: hub name or folder.
        **hub: token, cache_dir, revision, local_files_only.

    Raises:
        UserError: there is none, or it is an encoder-decoder's.
    """
    try:
        config = AutoConfig.from_pretrained(path, **hub)
    except (OSError, ValueError) as error:
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
        path: hub name or folder.
        config: the base's own configuration.
        quantization: how to store float weights; None for no quantisation. A base that is stored in 8 bits already
            stays as it is stored, unless None de-quantises it.
        dtype: that the model computes in; "auto" for the checkpoint's.
        **options: of transformers' `from_pretrained`.

    Raises:
        UserError: the weights cannot be read, are incomplete, or stored in somebody else's 8- or 4-bit format.
    """
    stored = _stored_quantization(config)
    if stored is None and quantization is not None:
        options["quantization_config"] = quantization
    is_bloom = config.model_type == "bloom"
    if not is_bloom:
        options["attn_implementation"] = RAGGED
        known: Any = MODEL_MAPPING.get(type(config), PreTrainedModel)
        if "add_pooling_layer" in signature(known).parameters:
            options["add_pooling_layer"] = False  # over one token: token embeddings do not pass through it
    model_class: Any = BloomEncoder if is_bloom else AutoModel
    try:
        model, report = model_class.from_pretrained(
            path, config=config, dtype="auto", output_loading_info=True, **options
        )
    except UserError:
        raise
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"cannot load the weights of {path!r}: {first_line(error)}") from error
    missing = sorted(report["missing_keys"])
    if missing or report["mismatched_keys"]:
        raise UserError(
            f"the weights of {path!r} are incomplete: {len(missing)} tensors are missing ({', '.join(missing[:2])}), "
            f"{len(report['mismatched_keys'])} have another shape"
        )
    sha256 = base_hash(model)
    if quantization is None and stored is not None:
        model.dequantize(dtype=dtype if isinstance(dtype, torch.dtype) else None)
        model.requires_grad_(True)
        stored = None
    if isinstance(dtype, torch.dtype):
        nn.Module.to(model, dtype=dtype)
    return LoadedBase(model, sha256, stored or quantization)


def _stored_quantization(config: PreTrainedConfig) -> Blockwise8bitConfig | None:
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
