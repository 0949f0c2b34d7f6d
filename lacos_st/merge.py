"""One model from adapters that were trained apart on the same base: their weighted mean.

The ranks are laid beside each other, so that the result's change of each weight is exactly the mean of the models'
changes: peft's `add_weighted_adapter(..., combination_type="cat")`, for models as `lacos-st train` saves them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer

from lacos_st.adapters import adapter_parameters
from lacos_st.atomic import whole_folder
from lacos_st.errors import UserError
from lacos_st.models import load_model
from lacos_st.text_encoder import OF_THE_WHOLE, tokenizer_hash
from lacos_st.transformer import LoRA8bit

OWN = ("lora_rank", "lora_alpha", "lora_dropout")
"""What the models may differ in, beside the weights of their adapters."""


def merge_folders(output: Path, folders: Sequence[str], weights: Sequence[float] | None = None) -> SentenceTransformer:
    """Write the weighted mean of saved models into a folder, which appears whole or not at all.

    At most two of them are in memory at a time.

    Args:
        output: a folder that is not there yet.
        folders: of models, as `lacos-st train --method lacos` saves them, of one base.
        weights: a factor for each, which need not sum to 1 [the same for each, their sum 1].

    Returns:
        the model that was written.

    Raises:
        UserError: the folder is there, a model can't be loaded, or they can't be merged: see `merge_adapters`.
    """
    if output.exists():
        raise UserError(f"{output} is there already: name another folder")
    weights = [1 / len(folders)] * len(folders) if weights is None else weights
    if len(weights) != len(folders):
        raise UserError(f"{len(weights)} weights for {len(folders)} models: give one for each")
    result = merge_adapters((load_model(folder, device="cpu") for folder in folders), weights)
    with whole_folder(output) as new:
        result.save_pretrained(str(new))
    return result


def merge_adapters(models: Iterable[SentenceTransformer], weights: Sequence[float]) -> SentenceTransformer:
    """The weighted mean of the adapters of `models`.

    Args:
        models: with a LoRA8bit each, of one base, stored alike, pooled alike, with the same tokenizer and prompts;
            given as a generator that loads them, no more than two are in memory at a time.
        weights: a factor for each, finite, which need not sum to 1.

    Returns:
        a model on the CPU whose rank is the sum of the models' ranks.

    Raises:
        UserError: another number of weights, one that is inf or nan, one model alone; a model without an adapter, with
            its base inside, or with weights in another module; models that differ in more than their adapters: base,
            8-bit storage, tokenizer, pooling, prompts, similarity, ...
    """
    if wrong := [weight for weight in weights if not math.isfinite(weight)]:
        raise UserError(f"a weight is {wrong[0]}: give finite numbers, 0.5 0.5 say")
    parts = [Part.of(model, place) for place, model in enumerate(models, start=1)]
    if len(parts) < 2 or len(weights) != len(parts):
        raise UserError(
            f"{len(weights)} weights for {len(parts)} models: expected two models or more, a weight for each"
        )
    names = dict.fromkeys(name for part in parts for name in part.facts)
    for name in names:
        values = [part.facts.get(name) for part in parts]
        if any(value != values[0] for value in values):
            raise UserError(f"the models differ in {name}: {', '.join(map(str, values))}")
    first = parts[0]
    options = first.options | {"lora_rank": sum(part.rank for part in parts), "lora_alpha": None, "lora_dropout": 0.0}
    hub = {} if first.revision is None else {"revision": first.revision}
    files: dict[str, Any] = {name: dict(hub) for name in ("model_kwargs", "config_kwargs", "processor_kwargs")}
    wide = first.kind(first.base_name, **options, **files)
    # not the base's tokenizer: the models' own may cut at the other end, or make small letters of capitals
    wide.processor, wide.input_formatter = copy.deepcopy(first.reader)
    if wide.base_sha256 != first.facts["base_sha256"]:
        raise UserError(f"{first.base_name} is not the base that the models were trained on any more")
    factors = [weight * part.scale for weight, part in zip(weights, parts, strict=True)]
    with torch.no_grad():
        for name, parameter in adapter_parameters(wide.model).items():
            found = [part.adapter[name] for part in parts]
            is_up = ".lora_B." in name or ".lora_embedding_B." in name
            scaled = [factor * one if is_up else one for factor, one in zip(factors, found, strict=True)]
            parameter.copy_(torch.cat(scaled, dim=1 if is_up else 0))
    return SentenceTransformer(
        modules=[wide, *first.others], device="cpu", **{name: first.facts[name] for name in OF_THE_WHOLE}
    )


@dataclass(frozen=True)
class Part:
    """What merging takes from a model.

    Attributes:
        kind: of its LoRA8bit.
        base_name: what its base is read from.
        revision: of that, on the hub.
        options: that its LoRA8bit was made with.
        reader: its processor, which holds its tokenizer, and what formats the processor's input.
        others: its modules but the first.
        rank: of its adapter.
        scale: what peft multiplies the adapter's change by, alpha / rank.
        adapter: copies of the adapter's weights, by name.
        facts: what has to be the same in all models.
    """

    kind: type[LoRA8bit]
    base_name: str
    revision: str | None
    options: dict[str, Any]
    reader: tuple[Any, Any]
    others: list[Any]
    rank: int
    scale: float
    adapter: dict[str, torch.Tensor]
    facts: dict[str, Any]

    @classmethod
    def of(cls, model: SentenceTransformer, place: int) -> Part:
        """Read a model.

        Args:
            model: of one adapter.
            place: among the models, counted from 1; for errors.

        Raises:
            UserError: it has no adapter, holds its base, or has weights in another module.
        """
        first: Any = model[0]
        if not isinstance(first, LoRA8bit) or not first.lora_rank:
            raise UserError(f"model {place} has no adapter: it cannot be merged")
        if first.self_contained:
            raise UserError(f"model {place} holds its base: save it without (self_contained=False) to merge it")
        options = first.get_config_dict() | {"max_seq_length": first.max_seq_length}
        others: list[Any] = list(model)[1:]
        for module in others:
            if next(module.parameters(), None) is not None:
                name = type(module).__name__
                raise UserError(f"model {place} has weights in its {name}, of which no mean is made: take it off first")
        return cls(
            kind=type(first),
            base_name=first.base_name,
            revision=first.base_revision,
            options=options,
            reader=(first.processor, first.input_formatter),
            others=others,
            rank=first.lora_rank,
            scale=(first.lora_rank if first.lora_alpha is None else first.lora_alpha) / first.lora_rank,
            adapter={name: each.detach().clone() for name, each in adapter_parameters(first.model).items()},
            facts={
                **{name: value for name, value in options.items() if name not in OWN},
                "the other modules": [(type(module).__name__, module.get_config_dict()) for module in others],
                "tokenizer": tokenizer_hash(first.tokenizer)[:12],
                "truncation_side": getattr(first.tokenizer, "truncation_side", None),
                **{name: getattr(model, name) for name in OF_THE_WHOLE},
                "base_sha256": first.base_sha256,  # last, as all that shapes its storage changes it too
            },
        )
