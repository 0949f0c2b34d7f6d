"""The ways to store a model's weights that `benchmarks.eight_bits` compares, and the models with weights stored so.

Every way but the stock ones starts from the same float32 model: its weights are stored in 8-bit blocks, or rounded to
what such blocks would hold; an adapter, which is trained and never quantised, is put on afterwards.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Transformer
from torch import nn
from transformers import BitsAndBytesConfig

from benchmarks.models import MODELS, find
from lacos_st import adapters
from lacos_st.adapters import ADAPTER_FOLDER
from lacos_st.blockwise import CODES, dequantize, fitting_block, quantization_error, quantize
from lacos_st.checkpoint import MANIFEST_FILE, Manifest, check_adapter_hash
from lacos_st.embedded import EMBEDDED
from lacos_st.encoders import encoder
from lacos_st.errors import UserError
from lacos_st.linear import quantize_, storable_layers
from lacos_st.models import load_model
from lacos_st.pooling import Pooling
from lacos_st.quantizer import UNUSED
from lacos_st.transformer import LoRA8bit
from lacos_st.upstream import text_modality

OF_STORAGE = ("lora_rank", "lora_alpha", "lora_dropout", "lora_targets", "adapter_dtype", "block_size", "code", "skip")
NOT_OF_THE_MODEL = {*OF_STORAGE, "self_contained", "embedding_device", "transformer_task"}
"""Options of a saved model that do not say what it computes."""


@dataclass(frozen=True)
class Way:
    """How weights are stored.

    Attributes:
        label: for tables.
        code: "dynamic" or "linear"; "auto" for whichever loses less of a tensor; None for no blocks of ours.
        block_size: that is asked for; the largest one below that divides every width is taken, but where `across`.
        across: blocks run over the ends of rows, as bitsandbytes has them; our storage has no such blocks, so the
            weights are rounded to what they would hold.
        stock: options of bitsandbytes' configuration; None for one of ours.
    """

    label: str
    code: str | None = None
    block_size: int = 0
    across: bool = False
    stock: dict[str, Any] | None = None


WAYS: dict[str, Way] = {
    "float32": Way("float32"),
    "dynamic-64": Way("dynamic, block 64", "dynamic", 64),
    "dynamic-256": Way("dynamic, block 256", "dynamic", 256),
    "dynamic-256-across": Way("dynamic, block 256 across rows", "dynamic", 256, across=True),
    "dynamic-4096-across": Way("dynamic, block 4096 across rows", "dynamic", 4096, across=True),
    "linear-256": Way("linear, block 256", "linear", 256),
    "auto-256": Way("the better code for each tensor, block 256", "auto", 256),
    "stock-8bit": Way("stock load_in_8bit", stock={"load_in_8bit": True}),
    "stock-nf4": Way(
        "stock NF4",
        stock={"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32},
    ),
}


@dataclass(frozen=True)
class Source:
    """A model to measure.

    Attributes:
        name: in rows and tables.
        base: what `lacos_st.encoder` takes for its float weights.
        folder: of the saved model with its adapter; None for a base as it is.
        identity: tells a model that was trained again from the one before; "" for a base.
    """

    name: str
    base: str
    folder: Path | None = None
    identity: str = ""


def source(given: str) -> Source:
    """What a name on the command line stands for.

    Args:
        given: a name of `benchmarks.models`, an embedded base, or NAME=PATH or PATH of a base, of a saved model or of
            a run's folder.

    Raises:
        UserError: there is no such model, or the run has no trained model yet.
    """
    if given in MODELS:
        return Source(given, str(find(given)))
    if given in EMBEDDED:
        return Source(given, given)
    name, _, place = given.rpartition("=")
    path = Path(place).expanduser()
    if not path.exists():
        raise UserError(f"model {given!r}: no such file or folder; known names: {', '.join((*MODELS, *EMBEDDED))}")
    path = path.resolve()
    name = name or path.name
    if (path / "train.yaml").is_file():  # a run's folder
        if not (path / "model").is_dir():
            raise UserError(
                f"the run {place} has no model/ yet: wait for it, or name one of its checkpoints/checkpoint-N"
            )
        path = path / "model"
    if not (path / MANIFEST_FILE).is_file():
        return Source(name, str(path))
    manifest = Manifest.read(path / MANIFEST_FILE)
    if manifest.lora is None:
        return Source(name, str(path), None, manifest.base_sha256[:12])
    return Source(name, manifest.base, path, (manifest.adapter_sha256 or "")[:12])


def block_of(way: Way, model: nn.Module) -> int | None:
    """The block that a way takes in a float model; None without blocks."""
    if way.code is None or way.across:
        return way.block_size or None
    widths = [layer.weight.shape[1] for _, layer in storable_layers(model, skip=UNUSED)]
    return fitting_block(widths, at_most=way.block_size)


def round_trip(weight: torch.Tensor, *, code: str, block_size: int) -> torch.Tensor:
    """A weight (rows, columns) as blocks that run over the ends of its rows would hold it, the last one shorter."""
    flat = weight.flatten()
    padded = nn.functional.pad(flat, (0, -len(flat) % block_size))[None]  # zeros change no block's absmax
    codes, absmax = quantize(padded, block_size=block_size, code=code)
    return dequantize(codes, absmax, block_size=block_size, code=code)[0, : len(flat)].view_as(weight)


@torch.no_grad()
def store_(model: nn.Module, way: Way) -> dict[str, int]:
    """Store or round the weights of a float model, in place.

    Returns:
        How many tensors got which code.
    """
    layers = list(storable_layers(model, skip=UNUSED))
    block = block_of(way, model)
    if way.code is None or block is None:
        return {}
    if way.across:
        for _, layer in layers:
            layer.weight.copy_(round_trip(layer.weight, code=way.code, block_size=block))
        return {way.code: len(layers)}
    if way.code != "auto":
        quantize_(model, block_size=block, code=way.code, skip=UNUSED)
        return {way.code: len(layers)}
    chosen = {name: best_code(layer.weight, block_size=block) for name, layer in layers}
    for code in CODES:
        others = [name for name, found in chosen.items() if found != code]
        quantize_(model, block_size=block, code=code, skip=[*others, *UNUSED])
    return {code: sum(found == code for found in chosen.values()) for code in CODES}


def best_code(weight: torch.Tensor, *, block_size: int) -> str:
    """The code with the least relative error."""
    return min(CODES, key=lambda code: quantization_error(weight, block_size=block_size, code=code).relative_rms)


def _encoder(given: Source) -> SentenceTransformer:
    """The model with float32 weights, without its adapter: all else that the saved one computes with is there."""
    if given.folder is None:
        return encoder(given.base, lora_rank=0, code=None, device="cpu")
    saved = load_model(str(given.folder), device="cpu")
    if len(saved) != 2 or not isinstance(saved[1], Pooling):
        raise UserError(f"{given.name}: only a pooling layer may follow the transformer, modules.json has more")
    options = cast(LoRA8bit, saved[0]).get_config_dict()
    options = {name: value for name, value in options.items() if name not in NOT_OF_THE_MODEL}
    options["max_seq_length"] = saved.max_seq_length  # the tokenizer's, not among the options
    model = encoder(given.base, lora_rank=0, code=None, device="cpu", **options)
    model[1] = saved[1]
    model.prompts, model.default_prompt_name = saved.prompts, saved.default_prompt_name
    return model


def build(given: Source, name: str) -> tuple[SentenceTransformer, dict[str, Any]]:
    """A model whose weights are stored in one of the ways.

    Args:
        given: the model.
        name: of `WAYS`.

    Returns:
        The model, and `block_size` and `tensors` (how many got which code), for the row.

    Raises:
        UserError: the model cannot be loaded.
        Exception: whatever a stock way raises where it does not run.
    """
    way = WAYS[name]
    model = _encoder(given)
    module = cast(LoRA8bit, model[0])
    if way.stock is not None:
        return _stock(given, model, way.stock), {"block_size": None, "tensors": {}}
    block = block_of(way, module.model)
    tensors = store_(module.model, way)
    module.model.requires_grad_(False)
    if given.folder is not None:
        _add_adapter_(module, given.folder)
    return model.eval(), {"block_size": block, "tensors": tensors}


def _add_adapter_(module: LoRA8bit, folder: Path) -> None:
    manifest = Manifest.read(folder / MANIFEST_FILE)
    assert manifest.lora is not None
    lora = manifest.lora
    adapters.add_lora_(
        module.model, rank=lora["rank"], alpha=lora["alpha"], dropout=0.0, targets=lora["targets"], dtype=torch.float32
    )
    adapters.load_adapter_(module.model, folder / ADAPTER_FOLDER)
    check_adapter_hash(module.model, manifest, folder / ADAPTER_FOLDER)


def _stock(given: Source, model: SentenceTransformer, options: dict[str, Any]) -> SentenceTransformer:
    """The same weights through transformers' own loader and sentence-transformers' own module, padded batches.

    Raises:
        UserError: the model reads its texts in a way that stock modules do not know.
    """
    ours = cast(LoRA8bit, model[0])
    if ours.echo or ours.attention != "causal":
        raise UserError("stock modules read a text once, and look both ways in encoders alone")
    modality, output = text_modality()  # plain text, whatever template the tokenizer has
    with tempfile.TemporaryDirectory() as folder:
        ours.save(folder)
        limit, pooling = model.max_seq_length, model[1]
        model[0] = nn.Identity()  # the float weights go before the others come
        quantized = {"quantization_config": BitsAndBytesConfig(**options), "dtype": torch.float32}
        module = Transformer(
            folder, model_kwargs=quantized, modality_config=modality, module_output_name=output, max_seq_length=limit
        )
    if getattr(module.model, "pooler", None) is not None:
        module.model.pooler = None  # over one token, without weights in the files: token embeddings do not pass it
    if given.folder is not None:
        module.model.load_adapter(str(given.folder / ADAPTER_FOLDER))
    stock = SentenceTransformer(modules=[module, pooling], device="cpu").eval()
    stock.prompts, stock.default_prompt_name = model.prompts, model.default_prompt_name
    return stock


def stored_bytes(model: nn.Module) -> int:
    """Bytes of all weights, scales included, adapters left out."""
    seen: list[Any] = [
        tensor for name, tensor in (*model.named_parameters(), *model.named_buffers()) if ".lora_" not in name
    ]
    states = [getattr(tensor, "quant_state", None) for tensor in seen]
    scales = [state.absmax for state in states if state is not None]
    scales += [tensor.SCB for tensor in seen if getattr(tensor, "SCB", None) is not None]
    return sum(math.prod(tensor.shape) * tensor.element_size() for tensor in [*seen, *scales])
