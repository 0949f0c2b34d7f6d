"""One model from adapters that were trained apart on the same base: their weighted mean.

    python -m benchmarks.merge OUT MODEL MODEL... [--weights 0.5 0.5]

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

OWN = ("lora_rank", "lora_alpha", "lora_dropout")
"""What the models may differ in, beside the weights of their adapters."""


def merged(models: Sequence[SentenceTransformer], weights: Sequence[float]) -> SentenceTransformer:
    """The weighted mean of the adapters of `models`.

    Args:
        models: as `lacos-st train --method lacos` makes them, of one base.
        weights: a factor for each, which need not sum to 1.

    Raises:
        UserError: other modules than LoRA8bit, another number of weights, or models that differ in more than their
            adapters: base, 8-bit storage, pooling, prompts, ...
    """
    modules: list[Any] = [model[0] for model in models]
    if len(weights) != len(models):
        raise UserError(f"{len(weights)} weights for {len(models)} models")
    if any(not isinstance(module, LoRA8bit) or not module.lora_rank for module in modules):
        raise UserError("a model without an adapter cannot be merged")
    first = modules[0]
    facts = [_facts(model) for model in models]
    for name in dict.fromkeys(name for each in facts for name in each):
        values = [each.get(name) for each in facts]
        if any(value != values[0] for value in values):
            raise UserError(f"the models differ in {name}: {', '.join(map(str, values))}")
    options = first.get_config_dict() | {"max_seq_length": first.max_seq_length, "lora_dropout": 0.0}
    options |= {"lora_rank": sum(module.lora_rank for module in modules), "lora_alpha": None}
    wide = type(first)(first.base_name, **options)
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


def _facts(model: SentenceTransformer) -> dict[str, Any]:
    """What models have to have in common; the base's hash last, as all that shapes its storage changes it too."""
    first: Any = model[0]
    shared = {name: value for name, value in first.get_config_dict().items() if name not in OWN}
    others: list[Any] = list(model)[1:]
    rest = [(type(module).__name__, module.get_config_dict()) for module in others]
    more = {"max_seq_length": first.max_seq_length, "the other modules": rest, "prompts": model.prompts}
    return shared | more | {"default_prompt_name": model.default_prompt_name, "base_sha256": first.base_sha256}


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
