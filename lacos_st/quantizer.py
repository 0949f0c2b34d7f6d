"""The 8-bit format as a transformers quantiser: quantise tensor by tensor while loading, save and load codes.

Importing this file registers it. Without the registration transformers only warns about an unknown quantisation type
and then goes on with random weights: whatever loads such a checkpoint must import this file first.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.core_model_loading import ConversionOps
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from lacos_st.blockwise import BLOCK_SIZE, CODES, check_block, quantize
from lacos_st.errors import UserError
from lacos_st.heap import trim
from lacos_st.linear import dequantize_, empty_8bit, replace_layer_, storable_layers
from lacos_st.pages import release_pages
from lacos_st.stored import Stored8bit
from lacos_st.upstream import check_marks, mark_loaded_, overrides, own_parameters, was_loaded

UNUSED = ("pooler.dense",)
"""Heads that encoders carry and sentence embeddings do not use: left float, as a checkpoint may lack them."""

SLAB_BYTES = 64 * 2**20
"""Bytes of a float weight that are quantised, and then given back, at a time: enough to keep every thread busy."""

HOOKS = ("_process_model_before_weight_loading", "_process_model_after_weight_loading", "_dequantize")
"""What transformers calls of a quantiser, but for what has no underscore."""

METHOD = "lacos_blockwise8bit"
"""The `quant_method` in a checkpoint's config.json."""


@register_quantization_config(METHOD)
class Blockwise8bitConfig(QuantizationConfigMixin):
    """How `from_pretrained(..., quantization_config=...)` stores the weights.

    Args:
        block_size: neighbouring values of a row that share an absmax.
        code: "dynamic" (bitsandbytes' non-linear table) or "linear" (absmax int8).
        skip: names, or ends of names, of layers that stay float.

    Raises:
        ValueError: an unknown code or a block size below 1.
    """

    def __init__(
        self, *, block_size: int = BLOCK_SIZE, code: str = "dynamic", skip: list[str] | None = None, **kwargs: Any
    ):
        kwargs.pop("quant_method", None)
        if kwargs:
            raise ValueError(f"unknown options of the 8-bit format: {', '.join(sorted(kwargs))}")
        if code not in CODES:
            raise ValueError(f"code={code!r} is unknown: choose one of {', '.join(CODES)}")
        if not isinstance(block_size, int) or block_size < 1:
            raise ValueError(f"block_size={block_size!r}: expected a whole number of at least 1, such as {BLOCK_SIZE}")
        self.quant_method = METHOD  # type: ignore[assignment]
        self.block_size = block_size
        self.code = code
        self.skip = list(skip or ())


class _Quantize(ConversionOps):
    """Float weight in, codes and absmax out; called by transformers for each tensor as it is read."""

    def __init__(self, hf_quantizer: Blockwise8bitQuantizer):
        self.hf_quantizer = hf_quantizer

    def convert(  # type: ignore[override]
        self,
        input_dict: dict[str, Any],
        model: torch.nn.Module | None = None,
        missing_keys: set[str] | None = None,
        **kwargs: Any,
    ) -> dict[str, torch.Tensor]:
        """input_dict: {"layer.weight": (rows, columns)}; returns {"layer.codes": ..., "layer.absmax": ...}."""
        assert model is not None
        stored: dict[str, torch.Tensor] = {}
        for name, value in input_dict.items():
            tensor = value[0] if isinstance(value, list) else value
            prefix = name.removesuffix(".weight")
            layer = model.get_submodule(prefix)
            assert isinstance(layer, Stored8bit)
            codes, absmax = quantize_and_release(tensor, block_size=layer.block_size, code=layer.code, name=name)
            stored[f"{prefix}.codes"], stored[f"{prefix}.absmax"] = codes, absmax
            own_parameters(layer).pop("weight", None)
            if missing_keys is not None:
                missing_keys.discard(name)
        return stored


def quantize_and_release(
    tensor: torch.Tensor, *, block_size: int, code: str, name: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """`quantize`, a few rows at a time, given back once read: a float table of 2 GB is never resident as a whole."""
    rows, columns = tensor.shape
    codes = torch.empty(rows, columns, dtype=torch.uint8, device=tensor.device)
    absmax = torch.empty(rows, columns // block_size, dtype=torch.float32, device=tensor.device)
    step = max(1, SLAB_BYTES // max(1, columns * torch.float32.itemsize))  # what `quantize` turns a half into
    for part, part_codes, part_absmax in zip(tensor.split(step), codes.split(step), absmax.split(step), strict=True):
        found = quantize(part, block_size=block_size, code=code, name=name)
        part_codes.copy_(found[0])
        part_absmax.copy_(found[1])
        release_pages(part)
    trim()  # what came and went leaves holes between the codes that stay
    return codes, absmax


def _check_heads(model: PreTrainedModel, names: list[str]) -> None:
    """That a checkpoint holds the layers of `names` that lie outside the encoder.

    Raises:
        UserError: it was saved as another class, without this head.
    """
    saved = model.config.architectures or [type(model).__name__]
    heads = [name for name in names if not name.startswith(f"{model.base_model_prefix}.")]
    if model.base_model is not model and heads and type(model).__name__ not in saved:
        raise UserError(
            f"{type(model).__name__} has a head ({', '.join(heads)}) that the checkpoint, saved as {', '.join(saved)}, "
            "does not hold: load it with SentenceTransformer, or the bare encoder with AutoModel.from_pretrained"
        )


@register_quantizer(METHOD)
@overrides(*HOOKS, package="transformers")
class Blockwise8bitQuantizer(HfQuantizer):
    """Puts 8-bit layers into the empty model, and fills them while transformers loads."""

    quantization_config: Blockwise8bitConfig
    requires_calibration = False
    quantized_element_size = 1.0

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        config = self.quantization_config
        if model.get_output_embeddings() is not None:
            raise UserError(
                f"{type(model).__name__} has a language-modelling head, which shares the token embedding that is "
                "stored in 8 bits: load the bare encoder, with AutoModel.from_pretrained"
            )
        layers = list(storable_layers(model, skip=[*config.skip, *UNUSED]))
        _check_heads(model, [name for name, _ in layers])
        widths = [layer.weight.shape[1] for _, layer in layers]
        for name, layer in layers:
            try:
                check_block(layer.weight.shape[1], config.block_size, name=name, widths=widths)
                stored = empty_8bit(layer, block_size=config.block_size, code=config.code, name=name)
            except ValueError as error:
                raise UserError(str(error)) from error
            if not self.pre_quantized:  # the checkpoint's float tensor needs a place to be announced at
                own_parameters(stored)["weight"] = torch.nn.Parameter(layer.weight, requires_grad=False)
            mark_loaded_(stored)
            replace_layer_(model, name, stored)
        return model

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        check_marks(model)
        for name, layer in model.named_modules():
            if not isinstance(layer, Stored8bit):
                continue
            for part in ("codes", "absmax"):
                if not was_loaded(getattr(layer, part)):
                    raise UserError(
                        f"the checkpoint holds no {part} for {name}: it is broken or incomplete; "
                        "fetch or write it again"
                    )
        return model

    def param_needs_quantization(self, model: PreTrainedModel, param_name: str, **kwargs: Any) -> bool:
        """Whether `param_name` is a float weight that is to become codes."""
        prefix, _, kind = param_name.rpartition(".")
        return kind == "weight" and isinstance(model.get_submodule(prefix), Stored8bit)

    def get_quantize_ops(self) -> ConversionOps:
        """The operation that turns a float weight into codes and absmax."""
        return _Quantize(self)

    def _dequantize(self, model: PreTrainedModel, dtype: torch.dtype | None = None) -> PreTrainedModel:
        dequantize_(model, dtype=dtype)
        return model

    def is_serializable(self) -> bool:
        """Codes and absmax are saved as they are."""
        return True

    @property
    def is_trainable(self) -> bool:
        """With adapters: the codes themselves are frozen."""
        return True
