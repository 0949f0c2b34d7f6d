"""LoRA through peft: which layers it goes on, that nothing else is trained, and its weights in stock peft's files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from lacos_st.errors import UserError
from lacos_st.product import FusedLoRALinear
from lacos_st.stored import Stored8bit
from lacos_st.upstream import register_lora_layers

ADAPTER = "default"
"""Name of the one adapter of a model, peft's own default."""

ADAPTER_FOLDER = "adapter"
"""Where it is saved, in the model's folder."""

OF_BERT = (r"intermediate\.dense", r"layer\.\d+\.output\.dense")
OF_OPT = ("fc1", "fc2")
FUSED_GATE = ("gate_up_proj", "down_proj")
FEED_FORWARD = {
    "bert": OF_BERT,
    "bloom": ("dense_h_to_4h", "dense_4h_to_h"),
    "camembert": OF_BERT,
    "distilbert": ("lin1", "lin2"),
    "electra": OF_BERT,
    "glm": FUSED_GATE,
    "glm4": FUSED_GATE,
    "gpt_neox": ("dense_h_to_4h", "dense_4h_to_h"),
    "modernbert": (r"mlp\.Wi", r"mlp\.Wo"),
    "opt": OF_OPT,
    "phi": OF_OPT,
    "phi3": FUSED_GATE,
    "roberta": OF_BERT,
    "starcoder2": ("c_fc", "c_proj"),
    "xlm-roberta": OF_BERT,
}
"""Ends of the names (regular expressions) of the feed-forward layers, by `config.model_type`."""

GATED_FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")
"""The names that Llama, Qwen, Gemma, Mistral and their kin share; all of them, or the layers are not known."""


def lora_layers(model: PreTrainedModel, targets: str | Sequence[str] = "paper") -> list[str]:
    """Full names of the layers that LoRA goes on.

    Args:
        model: without adapters.
        targets: "paper": the feed-forward layers and the token embedding (LACoS-BLOOM, section 3); "recipe": every
            linear layer and the token embedding, which in Pythia are query_key_value, dense, dense_h_to_4h,
            dense_4h_to_h and embed_in (Ziarko et al. 2024, arXiv 2406.04165); "all-linear": every linear layer; or
            names, or ends of names, of layers.

    Raises:
        UserError: the architecture's feed-forward layers are not known, it has no linear layers, or a name fits none.
    """
    linear = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    if targets in ("paper", "recipe", "all-linear") and not linear:
        raise UserError(
            f"lora_targets={targets!r}: {type(model).__name__} ({model.config.model_type}) has no linear layers that "
            "LoRA is put on here (GPT-2's are Conv1D): take another base, or name its token embedding with "
            "lora_targets=[...]"
        )
    if targets == "all-linear":
        return linear
    embedding = model.get_input_embeddings()
    embeddings = [name for name, layer in model.named_modules() if layer is embedding]
    if targets == "recipe":
        return linear + embeddings
    if targets == "paper":
        ends = FEED_FORWARD.get(model.config.model_type, GATED_FEED_FORWARD)
        of_end = [[name for name in linear if re.search(rf"(^|\.){end}$", name)] for end in ends]
        found = [name for name in linear if any(name in names for names in of_end)]
        if not all(of_end):
            raise UserError(
                f"the feed-forward layers of {type(model).__name__} ({model.config.model_type}) are not known: "
                'name them with lora_targets=[...], or choose lora_targets="all-linear"'
            )
        return found + embeddings
    if isinstance(targets, str):
        targets = [targets]
    chosen = []
    for target in targets:
        fitting = [name for name in linear + embeddings if name == target or name.endswith("." + target)]
        if not fitting:
            raise UserError(f"lora_targets: {target!r} is no linear layer and no token embedding of the model")
        chosen.extend(fitting)
    return list(dict.fromkeys(chosen))


def add_lora_(
    model: PreTrainedModel,
    *,
    rank: int = 4,
    alpha: float | None = None,
    dropout: float = 0.0,
    targets: str | Sequence[str] = "paper",
    dtype: torch.dtype = torch.float32,
) -> None:
    """Put a fresh LoRA adapter, which changes nothing yet, on `model` and freeze all else.

    Args:
        model: gets peft layers in the places of the target layers.
        rank: r, at least 1.
        alpha: the adapter's product is scaled by alpha / rank; None for alpha = rank, the paper's W + W_down·W_up.
        dropout: probability of dropping an adapter's input.
        targets: see `lora_layers`.
        dtype: of the adapter's weights.

    Raises:
        UserError: a rank below 1, or see `lora_layers`.
    """
    if rank < 1:
        raise UserError(f"lora_rank={rank}: expected at least 1 (the paper: 1, 2, 4, 8 or 16)")
    config = LoraConfig(
        r=rank,
        lora_alpha=rank if alpha is None else alpha,  # type: ignore[arg-type]
        lora_dropout=dropout,
        target_modules=lora_layers(model, targets),
        task_type="FEATURE_EXTRACTION",
    )
    register_lora_layers(config, {nn.Linear: FusedLoRALinear})  # how they are computed, not what is saved
    model.add_adapter(config, adapter_name=ADAPTER)
    for parameter in adapter_parameters(model).values():
        parameter.data = parameter.data.to(dtype)
    check_frozen(model)


def adapter_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The LoRA weights below `model`, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if ".lora_" in name}


def base_first(stock: Callable[..., Iterator[nn.Parameter]]) -> Callable[..., Iterator[nn.Parameter]]:
    """The stock method `parameters`, which gives a base's weights before its adapter's, whose dtype may be another.

    sentence-transformers casts the modules behind to the dtype of the first; the base's is that of what they are given.

    Args:
        stock: `parameters` of a module.
    """

    def parameters(module: nn.Module, *args: Any, **kwargs: Any) -> Iterator[nn.Parameter]:
        own = {id(parameter) for parameter in adapter_parameters(module).values()}
        yield from sorted(stock(module, *args, **kwargs), key=lambda parameter: id(parameter) in own)

    return parameters


def is_quantized(model: nn.Module) -> bool:
    """Whether any layer below `model` is stored in 8 bits."""
    return any(isinstance(layer, Stored8bit) for layer in model.modules())


def check_frozen(model: nn.Module) -> None:
    """That a model stored in 8 bits, or carrying LoRA, trains its adapters and nothing else.

    Raises:
        UserError: an 8-bit model has no adapters, or something else is trainable.
    """
    adapters = adapter_parameters(model)
    if not adapters:
        if is_quantized(model):
            raise UserError(
                "a model stored in 8 bits has no weights to train: give it adapters (lora_rank=4), or train it "
                "un-quantised (code=None)"
            )
        return
    others = [name for name, parameter in model.named_parameters() if parameter.requires_grad and name not in adapters]
    if others:
        raise UserError(
            f"{len(others)} tensors of the frozen base are trainable, the first is {others[0]}: call "
            ".requires_grad_(False) on them"
        )


def save_adapter(model: PreTrainedModel, folder: Path, *, base_name: str, revision: str | None) -> None:
    """Write the adapter as stock peft does: adapter_config.json and adapter_model.safetensors.

    Args:
        model: with one adapter from `add_lora_`.
        folder: made if missing.
        base_name: of the base model, for peft's config.
        revision: of the base model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = get_peft_model_state_dict(model, adapter_name=ADAPTER, save_embedding_layers=False)
    weights = {f"base_model.model.{name}": tensor.detach().contiguous() for name, tensor in weights.items()}
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = cast(LoraConfig, model.peft_config[ADAPTER])
    config.base_model_name_or_path, config.revision = base_name, revision
    was = config.inference_mode
    config.inference_mode = True
    config.save_pretrained(str(folder))
    config.inference_mode = was


def load_adapter_(model: PreTrainedModel, folder: Path) -> None:
    """Copy the weights that `save_adapter` wrote into the adapter of `model`.

    Raises:
        UserError: the file is missing or broken, or its tensors are not exactly those of the model's adapter.
    """
    file = folder / "adapter_model.safetensors"
    try:
        weights = load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"the adapter {file} is missing or broken ({error}): restore it, or train again") from error
    weights = {name.removeprefix("base_model.model."): tensor for name, tensor in weights.items()}
    expected = get_peft_model_state_dict(model, adapter_name=ADAPTER, save_embedding_layers=False)
    missing, extra = expected.keys() - weights.keys(), weights.keys() - expected.keys()
    wrong = [name for name in expected.keys() & weights.keys() if expected[name].shape != weights[name].shape]
    if missing or extra or wrong:
        raise UserError(
            f"the adapter {file} does not fit: {_some(missing)} missing, {_some(extra)} unknown, {_some(wrong)} of "
            "another shape; it belongs to another base, rank or choice of layers"
        )
    set_peft_model_state_dict(model, weights, adapter_name=ADAPTER)


def _some(names: Iterable[str]) -> str:
    names = sorted(names)
    return f"{len(names)} tensors ({names[0]}, ...)" if names else "none"
