"""One model from adapters that were trained apart on the same base: their weighted mean.

    python -m benchmarks.multilingual.merge OUT MODEL MODEL... [--weights 0.5 0.5]

The ranks are laid beside each other, so that the result's change of each weight is exactly the mean of the models'
changes: peft's `add_weighted_adapter(..., combination_type="cat")`, for models as `lacos-st train` saves them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer

from lacos_st.adapters import adapter_parameters
from lacos_st.errors import UserError
from lacos_st.models import load_model
from lacos_st.transformer import LoRA8bit

SAME = ("code", "block_size", "lora_targets", "attention", "echo", "skip", "adapter_dtype", "base_sha256")


def merged(models: Sequence[SentenceTransformer], weights: Sequence[float]) -> SentenceTransformer:
    """The weighted mean of the adapters of `models`, with the pooling and the prompts of the first.

    Args:
        models: as `lacos-st train --method lacos` makes them, of one base.
        weights: a factor for each, which need not sum to 1.

    Raises:
        UserError: other modules than LoRA8bit, another number of weights, or models that differ in more than weights.
    """
    modules: list[Any] = [model[0] for model in models]
    if len(weights) != len(models):
        raise UserError(f"{len(weights)} weights for {len(models)} models")
    if any(not isinstance(module, LoRA8bit) or not module.lora_rank for module in modules):
        raise UserError("a model without an adapter cannot be merged")
    first = modules[0]
    for name in SAME:
        values = [getattr(module, name) for module in modules]
        if any(value != values[0] for value in values):
            raise UserError(f"the models differ in {name}: {', '.join(map(str, values))}")
    options = {name: getattr(first, name) for name in first.config_keys if name in first._init_options}
    options |= {"lora_rank": sum(module.lora_rank for module in modules), "lora_alpha": None}
    wide = type(first)(first.base_name, max_seq_length=first.max_seq_length, **options)
    parts = [adapter_parameters(module.model) for module in modules]
    scales = [
        weight * (module.lora_rank if module.lora_alpha is None else module.lora_alpha) / module.lora_rank
        for weight, module in zip(weights, modules, strict=True)
    ]
    with torch.no_grad():
        for name, parameter in adapter_parameters(wide.model).items():
            found = [part[name] for part in parts]
            is_up = ".lora_B." in name or ".lora_embedding_B." in name
            scaled = [scale * part if is_up else part for scale, part in zip(scales, found, strict=True)]
            parameter.copy_(torch.cat(scaled, dim=1 if is_up else 0))
    result = SentenceTransformer(modules=[wide, *list(models[0])[1:]], device="cpu")
    result.prompts, result.default_prompt_name = models[0].prompts, models[0].default_prompt_name
    return result


def main() -> None:
    """Merge and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, metavar="OUT")
    parser.add_argument("models", nargs="+", metavar="MODEL", help="folders that were saved")
    parser.add_argument("--weights", nargs="+", type=float, help="[the same for each, their sum 1]")
    options = parser.parse_args()
    weights = options.weights or [1 / len(options.models)] * len(options.models)
    try:
        if options.output.exists():
            raise UserError(f"{options.output} is there already")
        result = merged([load_model(model, device="cpu") for model in options.models], weights)
    except UserError as error:
        parser.error(str(error))
    result.save(str(options.output))
    print(f"{len(options.models)} adapters, rank {result[0].lora_rank}: {options.output}")


if __name__ == "__main__":
    main()
