"""The ways to train and encode that are compared: stock sentence-transformers + peft, and ours.

All carry LoRA on the same layers with the same values. Float ways must agree with stock float32 to 1e-4; ours in 8 bits
with stock float32 on the same de-quantised weights, to the same tolerance; the others within what their format loses.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, cast

import torch
from peft import LoraConfig
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from torch import nn
from transformers import BitsAndBytesConfig

import lacos_st
from benchmarks.contest import Contender, ContenderError, preload
from lacos_st.blockwise import BLOCK_SIZE, dequantize, quantize
from lacos_st.linear import storable_layers

RANK = 4
TARGETS = ("dense_h_to_4h", "dense_4h_to_h", "word_embeddings")
ADAPTER_STD = 0.02


@dataclass(frozen=True)
class Way:
    """One contender.

    Attributes:
        label: for tables.
        reference: the contender whose embeddings, loss and gradients it must reproduce.
        tolerance: largest relative L2 difference of embeddings, and of the loss; gradients may differ by ten times
            that, as they pass through every layer twice.
        reason: of a tolerance above 1e-4.
    """

    label: str
    reference: str = "stock"
    tolerance: float = 1e-4
    reason: str = ""


WAYS: dict[str, Way] = {
    "stock": Way("stock + peft, float32"),
    "stock-bf16": Way("stock + peft, bf16", tolerance=0.05, reason="bf16 keeps 8 bits of each activation"),
    "stock-8bit": Way(
        "stock + load_in_8bit + peft", tolerance=0.1, reason="LLM.int8 rounds weights and activations to 8 bits"
    ),
    "stock-nf4": Way("stock + NF4 + peft", tolerance=0.5, reason="NF4 rounds weights to 4 bits, about 9 % of each"),
    "ours-8bit": Way("ours, 8-bit", reference="dequantized"),
    "ours-dequantized": Way("ours, 8-bit after dequantize_", reference="dequantized"),
    "ours-float": Way("ours, not quantised"),
}
TRAINED = tuple(name for name in WAYS if name != "ours-dequantized")
"""Those that differ in training."""

REFERENCE = "dequantized"
"""Stock float32 on weights that were quantised and de-quantised: takes no turns."""


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


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, float]:
    """Relative L2 difference of each figure: a number, a list or a list of lists."""
    if ours.keys() != theirs.keys():
        raise ValueError(f"figures {sorted(ours)} cannot be compared with {sorted(theirs)}")
    result = {}
    for key in sorted(ours):
        a, b = (torch.tensor(values[key], dtype=torch.float64).flatten() for values in (ours, theirs))
        result[key] = float((a - b).norm() / b.norm())
    return result


def check(name: str, ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, float]:
    """That a contender computes what its reference does.

    Args:
        name: of the contender.
        ours: its figures: "embeddings", and in training "loss" and "gradients".
        theirs: its reference's.

    Returns:
        The relative differences.

    Raises:
        ValueError: one is above the contender's tolerance, or is no number.
    """
    way = WAYS[name]
    found = differences(ours, theirs)
    for key, value in found.items():
        allowed = way.tolerance * (10 if key == "gradients" else 1)
        if not value <= allowed:
            raise ValueError(
                f"{way.label} does not compute what {way.reference} does: its {key} differ by {value:.2g} relative, "
                f"allowed {allowed:.2g}"
            )
    return {key: float(f"{value:.2g}") for key, value in found.items()}


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


def report_failures(results: Mapping[str, dict[str, Any]]) -> None:
    """Print why contenders did not run."""
    for name, found in results.items():
        if "failed" in found:
            print(f"{WAYS[name].label} did not run: {found['failed']}")
