"""The ways as models that are made where they run: random weights drawn on the device, no checkpoint of 14 GB.

The module around a model, its tokenizer included, comes from a tiny checkpoint; all that computes is the library's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from bitsandbytes.functional import int8_vectorwise_quant
from bitsandbytes.nn.modules import Int8Params, Linear4bit, Linear8bitLt, Params4bit
from peft import LoraConfig
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from torch import nn
from transformers import BloomModel, PreTrainedModel

import lacos_st
from benchmarks import contenders
from benchmarks.synthetic import Shape
from lacos_st.adapters import add_lora_
from lacos_st.blockwise import BLOCK_SIZE, code_table
from lacos_st.bloom import BloomEncoder
from lacos_st.linear import Embedding8bit, empty_8bit, replace_layer_, storable_layers
from lacos_st.stored import Stored8bit

WEIGHT_STD = 0.02
OUTLIERS = 6.0
"""LLM.int8's threshold, the default of `load_in_8bit`."""

LABELS = {
    "stock-bf16": "stock + peft, bf16",
    "stock-8bit": "stock + load_in_8bit + peft",
    "stock-nf4": "stock + NF4 + peft",
    "ours-bf16": "ours, not quantised, bf16",
    "ours-8bit": "ours, 8-bit",
}


@dataclass(frozen=True)
class Published:
    """The shape of a published BLOOM, and what it is called."""

    name: str
    shape: Shape


SIZES = tuple(
    Published(name, Shape(vocabulary=250880, hidden=hidden, layers=layers, heads=heads))
    for name, hidden, layers, heads in (("560m", 1024, 24, 16), ("1b7", 2048, 24, 16), ("7b1", 4096, 30, 32))
)
"""config.json of bigscience/bloom-*; Le Scao et al. 2022 (arXiv 2211.05100), table 3."""


def encoder(
    way: str, shape: Shape, folder: str, *, device: str, dtype: torch.dtype, host_embedding: bool = False
) -> SentenceTransformer:
    """A way with LoRA of fixed values on a frozen base of random weights.

    Args:
        way: of `LABELS`.
        shape: of the base.
        folder: of a checkpoint with the tokenizer for the shape's words, of any size.
        device: where weights are made.
        dtype: of all that is not quantised but the adapters, which are float32.
        host_embedding: keep the 8-bit token table in host memory ("ours-8bit" only).
    """
    ours = way.startswith("ours")
    if ours:
        module: Any = lacos_st.BloomLoRA8bit(folder, lora_rank=0, code=None)
    else:
        module = Transformer(folder)
    module.model = base(way, shape, device=device, dtype=dtype, host_embedding=host_embedding)
    if ours:
        add_lora_(module.model, rank=contenders.RANK)
        module.lora_rank = contenders.RANK
    else:
        lora = LoraConfig(
            r=contenders.RANK,
            lora_alpha=contenders.RANK,
            target_modules=list(contenders.TARGETS),
            task_type="FEATURE_EXTRACTION",
        )
        module.model.add_adapter(lora)
    model = SentenceTransformer(modules=[module, Pooling(shape.hidden)], device=device)
    contenders.fill_adapters_(model)
    return model


def base(way: str, shape: Shape, *, device: str, dtype: torch.dtype, host_embedding: bool = False) -> PreTrainedModel:
    """The frozen base of a way, its weights drawn layer by layer on `device`; see `encoder`."""
    config = shape.config
    config.use_cache = False
    with torch.device("meta"):
        model = (BloomEncoder if way.startswith("ours") else BloomModel)(config)
    nn.Module.to(model, dtype=dtype).requires_grad_(False)
    if way == "ours-8bit":
        for name, layer in list(storable_layers(model)):
            stored = empty_8bit(layer, block_size=BLOCK_SIZE, code="dynamic", name=name)
            stored.on_host = host_embedding and isinstance(stored, Embedding8bit)
            replace_layer_(model, name, stored)
    elif way in ("stock-8bit", "stock-nf4"):
        for name, layer in list(model.named_modules()):
            if type(layer) is nn.Linear:
                replace_layer_(model, name, _bitsandbytes(way, layer, device=device, dtype=dtype))
        setattr(model, "is_loaded_in_8bit" if way == "stock-8bit" else "is_loaded_in_4bit", True)  # peft looks
    for name, layer in model.named_modules():
        _materialize_(layer, norm="layernorm" in name or name == "ln_f", device=device)
    return model.train()


def _bitsandbytes(way: str, layer: nn.Linear, *, device: str, dtype: torch.dtype) -> nn.Module:
    rows, columns = layer.weight.shape
    weight = torch.empty(rows, columns, device=device, dtype=dtype).normal_(0.0, WEIGHT_STD)
    quantized: Any
    if way == "stock-8bit":
        quantized = Linear8bitLt(columns, rows, has_fp16_weights=False, threshold=OUTLIERS, device="meta")
        codes, scales, _ = int8_vectorwise_quant(weight.half())
        quantized.weight = Int8Params(codes, requires_grad=False, has_fp16_weights=False, CB=codes, SCB=scales)
    else:
        quantized = Linear4bit(columns, rows, compute_dtype=dtype, quant_type="nf4", device="meta")
        packed: Any = Params4bit(weight, requires_grad=False, quant_type="nf4", module=quantized)
        quantized.weight = packed.to(device)
    quantized.bias = nn.Parameter(layer.bias.to(dtype), requires_grad=False)
    return cast(nn.Module, quantized)


@torch.no_grad()
def _materialize_(layer: nn.Module, *, norm: bool, device: str) -> None:
    """Give what `layer` itself holds on the meta device memory and values."""
    if isinstance(layer, Stored8bit):
        place = "cpu" if layer.on_host else device
        spread = float(code_table(layer.code).square().mean().sqrt())
        layer.codes = torch.empty(layer.codes.shape, dtype=torch.uint8, device=place).random_(0, 256)
        layer.absmax = torch.full(layer.absmax.shape, WEIGHT_STD / spread, device=place)
        layer.compute_dtype_like = torch.empty(0, dtype=layer.compute_dtype_like.dtype, device=device)
    for name, parameter in list(layer.named_parameters(recurse=False)):
        if parameter.is_meta:
            values = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
            values.normal_(1.0 if norm and name == "weight" else 0.0, WEIGHT_STD)
            setattr(layer, name, nn.Parameter(values, requires_grad=False))
