"""The contenders themselves: stock sentence-transformers + peft, and ours, on one checkpoint, lined up and checked."""

from __future__ import annotations

import re
import tempfile
import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from torch import nn
from transformers import BitsAndBytesConfig

import lacos_st
from benchmarks import synthetic
from benchmarks.contest import Contender, ContenderError, preload
from benchmarks.ways import REFERENCE, WAYS, check
from lacos_st.blockwise import BLOCK_SIZE, dequantize, quantize
from lacos_st.linear import storable_layers

RANK = 4
TARGETS = ("dense_h_to_4h", "dense_4h_to_h", "word_embeddings")
ADAPTER_STD = 0.02


def build(name: str, folder: str, *, rank: int = RANK, dtype: torch.dtype = torch.float32) -> SentenceTransformer:
    """The contender `name` on the checkpoint in `folder`, with LoRA of fixed values unless `rank` is 0.

    Args:
        name: of `WAYS`, or the reference.
        folder: of the checkpoint.
        rank: of the adapters; 0 for none.
        dtype: of all that is not quantised but the adapters, which are float32; "stock-bf16" has its own.
    """
    if name.startswith("ours"):
        code = None if name == "ours-float" else "dynamic"
        model = lacos_st.encoder(folder, lora_rank=rank, code=code, device="cpu", model_kwargs={"dtype": dtype})
        if name == "ours-dequantized":
            lacos_st.dequantize_(model)
    else:
        model = _stock(folder, **{"dtype": dtype, **_STOCK_OPTIONS.get(name, {})})
        if name == REFERENCE:
            _round_trip_(cast(Transformer, model[0]).model)
        model.requires_grad_(False)
        if rank:
            model.add_adapter(
                LoraConfig(r=rank, lora_alpha=rank, target_modules=list(TARGETS), task_type="FEATURE_EXTRACTION")
            )
    fill_adapters_(model)
    return model


_STOCK_OPTIONS: dict[str, dict[str, Any]] = {
    "stock-bf16": {"dtype": torch.bfloat16},
    "stock-8bit": {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)},
    "stock-nf4": {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
        )
    },
}


def _stock(folder: str, **options: Any) -> SentenceTransformer:
    module = Transformer(folder, model_kwargs=options)
    pooling = Pooling(module.get_embedding_dimension())
    return SentenceTransformer(modules=[module, pooling], device="cpu")


@torch.no_grad()
def _round_trip_(model: nn.Module) -> None:
    for _, layer in storable_layers(model):
        codes, absmax = quantize(layer.weight)
        layer.weight.copy_(dequantize(codes, absmax, block_size=BLOCK_SIZE, code="dynamic", dtype=torch.float32))


def adapters(model: nn.Module) -> dict[str, nn.Parameter]:
    """LoRA's weights by the name that they have below the transformer, whatever wraps it."""
    found = {}
    for name, parameter in model.named_parameters():
        if ".lora_" in name and (match := re.search(r"\b(word_embeddings|h\.\d+)\..*", name)):
            found[match[0]] = parameter
    return found


@torch.no_grad()
def fill_adapters_(model: nn.Module) -> None:
    """Give LoRA's weights values that depend on their names only: a fresh adapter would add nothing."""
    for name, parameter in adapters(model).items():
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * ADAPTER_STD)


def gradient_sketch(model: nn.Module, *, directions: int = 4) -> list[float]:
    """Products of each adapter weight's gradient, in the order of names, with a few fixed random directions."""
    sketch = []
    for name, parameter in sorted(adapters(model).items()):
        assert parameter.grad is not None, name
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) + 1)
        for _ in range(directions):
            direction = torch.randn(parameter.shape, generator=generator)
            sketch.append(float((parameter.grad.float() * direction).sum()))
    return sketch


def line_up(
    stack: ExitStack, factory: str, names: Sequence[str], **options: Any
) -> tuple[list[Contender], dict[str, dict[str, Any]]]:
    """Start contenders, each in its process, and check each against its reference.

    Args:
        stack: ends the processes.
        factory: "module:Class"; its method `check` returns what `check` here compares.
        names: of `WAYS`; "stock" is always among them.
        **options: of the class, which also gets `way`.

    Returns:
        Those that run, in the order of `WAYS`; and by name the differences found, or why it does not run.

    Raises:
        ValueError: one computes something else.
        ContenderError: a reference, or one of ours, does not run.
    """
    preload("benchmarks.contenders", "lacos_st.trainer", "sentence_transformers.sentence_transformer.losses")
    with Contender(REFERENCE, factory, way=REFERENCE, **options) as reference:
        checks = {REFERENCE: reference.ask("check")}
    alive: list[Contender] = []
    results: dict[str, dict[str, Any]] = {}
    for name in WAYS:
        if name not in names and name != "stock":
            continue
        try:
            contender = stack.enter_context(Contender(name, factory, way=name, **options))
            checks[name] = contender.ask("check")
        except ContenderError as error:
            if name == "stock" or name.startswith("ours"):
                raise
            results[name] = {"failed": str(error)}
            continue
        results[name] = {"differences": check(name, checks[name], checks[WAYS[name].reference])}
        alive.append(contender)
    return alive, results


def line_up_on(
    stack: ExitStack, factory: str, names: Sequence[str], *, shape: synthetic.Shape, rank: int
) -> tuple[list[Contender], dict[str, dict[str, Any]]]:
    """`line_up` on a random checkpoint of this shape, in a folder that goes when the stack ends."""
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    synthetic.write(Path(folder), shape)
    return line_up(stack, factory, names, folder=folder, words=shape.words, rank=rank)
