"""What a GGUF file says of its attention and transformers does not read: its mask, its scale, its RoPE.

transformers 5.23 passes these keys over without a word, of some architectures or of all, and what it loads then is
another model. Their meaning: llama.cpp's loading of hyperparameters (`rope_scaling_type_train`,
`rope_freq_scale_train`, `rope_freq_base_train`, `n_rot`, `f_attention_scale`).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from lacos_st.errors import UserError
from lacos_st.gguf_header import Header

LAYERS_OF_27B = {"gemma2": 46, "gemma3_text": 62}
"""Of the Gemmas whose attention is scaled by hidden size / heads; the others' by the width of a head."""

FULL = "full_attention"
"""The layers that Gemma 3's scaling is for, in the files of transformers and of llama.cpp: those without a window."""

SLIDING = "sliding_attention"
"""The layers with one."""

PATTERN = "attention.sliding_window_pattern"
"""Every how manieth layer is without a window; or an array of them all, which the header's reader passes over."""

TURNED_IN_PART = ("nemotron", "phi3", "stablelm")
"""Model types that may turn a part of each head alone, which files tell as its width."""

SCALE_TOLERANCE = 1e-4
"""Relative: files hold float32."""


def apply_attention_(config: PreTrainedConfig, header: Header, file: Path) -> None:
    """Put RoPE, and Gemma's scale and windows, into a configuration that transformers read from a GGUF file.

    Args:
        config: to be changed.
        header: of the file.
        file: for messages.

    Raises:
        UserError: another scaling, a scale of attention that is not the configuration's, or attention to later tokens.
    """
    values = {
        key.removeprefix(f"{header.architecture}."): value
        for key, value in header.fields.items()
        if value is not None and key.startswith(f"{header.architecture}.")
    }
    if not values.get("attention.causal", True):
        raise _another(file, config, "attention.causal", False)
    _apply_gemma_scale_(config)
    scale = values.get("attention.scale") or None
    if scale is not None and not math.isclose(scale, attention_scale(config), rel_tol=SCALE_TOLERANCE):
        raise _another(file, config, "attention.scale", scale)
    if config.model_type == "phi3":
        config.sliding_window = int(values.get("attention.sliding_window", 0)) or None
    if f"{header.architecture}.{PATTERN}" in header.fields:
        _apply_pattern_(config, values.get(PATTERN), file)
    _apply_rope_(config, values, file)
    _apply_rope_scaling_(config, values, file)


def _apply_gemma_scale_(config: Any) -> None:
    """As llama.cpp, by the size of the model: no key says it, and transformers has the 256 of Gemma 3 1B for all."""
    if config.model_type not in LAYERS_OF_27B:
        return
    is_27b = config.num_hidden_layers == LAYERS_OF_27B[config.model_type]
    config.query_pre_attn_scalar = config.hidden_size // config.num_attention_heads if is_27b else config.head_dim


def attention_scale(config: Any) -> float:
    """What transformers multiplies the products of queries and keys by: 1 / sqrt(head_dim), or as Gemma, Granite."""
    if (multiplier := getattr(config, "attention_multiplier", None)) is not None:
        return float(multiplier)
    return float(getattr(config, "query_pre_attn_scalar", None) or _head_dim(config)) ** -0.5


def _head_dim(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _apply_pattern_(config: Any, pattern: Any, file: Path) -> None:
    """As llama.cpp, `set_swa_pattern`: 0 for a window in every layer."""
    if config.model_type != "gemma3_text" or not isinstance(pattern, int):
        raise _another(file, config, PATTERN, "an array" if pattern is None else pattern)
    numbers = range(1, config.num_hidden_layers + 1)
    config.layer_types = [FULL if pattern and not number % pattern else SLIDING for number in numbers]


def _apply_rope_(config: Any, values: dict[str, Any], file: Path) -> None:
    """The bases of the frequencies, and the share of a head that turns: transformers has its defaults for some."""
    parameters = getattr(config, "rope_parameters", None) or {}
    if "rope_theta" in parameters and "rope.freq_base" in values:
        parameters["rope_theta"] = float(values["rope.freq_base"])
    in_windows = parameters.get(SLIDING, parameters)
    if (base := values.get("rope.freq_base_swa", in_windows.get("rope_theta"))) != in_windows.get("rope_theta"):
        if in_windows is parameters:
            raise _another(file, config, "rope.freq_base_swa", base)
        in_windows["rope_theta"] = float(base)
    if (turned := values.get("rope.dimension_count")) is None:
        return
    if config.model_type in TURNED_IN_PART:
        parameters["partial_rotary_factor"] = turned / _head_dim(config)
    elif "rope_theta" in parameters and "partial_rotary_factor" not in parameters and turned != _head_dim(config):
        raise _another(file, config, "rope.dimension_count", turned)


def _apply_rope_scaling_(config: Any, values: dict[str, Any], file: Path) -> None:
    """As llama.cpp: "linear" where no type is named, and a factor of 0 for none."""
    kind = values.get("rope.scaling.type", "linear")
    factor = values.get("rope.scaling.factor") or values.get("rope.scale_linear") or 1.0  # the latter: old files
    if kind not in ("none", "linear"):
        raise _another(file, config, "rope.scaling.type", kind)
    if values.get("rope.scaling.attn_factor", 1.0) != 1.0:
        raise _another(file, config, "rope.scaling.attn_factor", values["rope.scaling.attn_factor"])
    if kind == "none" or factor == 1.0:
        return
    parameters = getattr(config, "rope_parameters", None) or {}
    scaled = parameters.get(FULL, {}) if config.model_type == "gemma3_text" else parameters
    if not 0.0 < factor < math.inf or scaled.get("rope_type") != "default":
        raise _another(file, config, "rope.scaling.factor", factor)
    scaled |= {"rope_type": "linear", "factor": float(factor)}


def _another(file: Path, config: PreTrainedConfig, key: str, value: Any) -> UserError:
    return UserError(
        f"{file} says {key}={value}, which transformers' {config.model_type} does not read from GGUF: without it this "
        "would be another model. Fetch the model as safetensors instead"
    )
