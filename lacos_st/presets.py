"""Presets: what a run is told where its user says nothing: each of the two papers', and what won in ours.

Ours is of recipes that read a text once: `benchmarks/results/recipes.md`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lacos_st.settings import TrainConfig

ADAPTER_OPTIONS = ("lora_rank", "lora_targets")
"""Options that only methods with adapters have."""


@dataclass(frozen=True)
class Preset:
    """What one source says of a training run.

    Attributes:
        source: where its values come from.
        values: options of TrainConfig in place of their defaults.
        lora_rank: of the adapters.
        lr: peak learning rate by method; None: by the base's size, see `learning_rate`. A method that is not named is
            none of the source's.
    """

    source: str
    values: Mapping[str, Any]
    lora_rank: int
    lr: Mapping[str, float | None]


PRESETS: dict[str, Preset] = {
    "paper": Preset(
        source="LACoS-BLOOM, arXiv 2305.06404",
        values={},  # TrainConfig's defaults are this paper's
        lora_rank=4,  # the best rank at 560m
        # lacos, lora: the highest of the paper's grid {1e-4, 2e-5, 5e-5}, as adapters bear more than whole models do.
        # full: the paper gives no rate for its full fine-tuning; 2e-5 is the one of its grid that SBERT uses too.
        # freeze, bias: not in the paper; freeze as full, which it is a part of, bias as the other few weights.
        # sbert: Reimers & Gurevych 2019, section 3.1.
        lr={"lacos": 1e-4, "lora": 1e-4, "full": 2e-5, "freeze": 2e-5, "bias": 1e-4, "sbert": 2e-5},
    ),
    "recipe": Preset(
        source="the compute-optimal recipe, arXiv 2406.04165",
        values={
            "pooling": "mean",
            "max_seq_length": 75,
            "lora_targets": ("recipe",),
            "scale": 40.0,  # a temperature of 0.025
            "symmetric": True,
            "optimizer": "adamw",
            "batch_size": 1024,
            "warmup": 0.1,
            "scheduler": "cosine",
            "weight_decay": 0.1,
        },
        lora_rank=128,  # "32 or 128, around 128"
        # lacos, not in the paper, as the LoRA that it is
        lr={"full": None, "freeze": None, "bias": None, "lora": 1e-3, "lacos": 1e-3},
    ),
    "best": Preset(
        source="what won on STS-B dev at equal compute, each text read once: benchmarks/results/recipes.md",
        values={
            "pooling": "lasttoken",
            "lora_targets": ("all-linear",),
            "scale": 50.0,
            "symmetric": True,
            "batch_size": 64,
            "scheduler": "cosine",
        },
        lora_rank=16,
        lr={"lacos": 1.6e-3, "lora": 1.6e-3},  # measured with lacos; lora is the same but for the base's float weights
    ),
}

LEARNING_RATES = (
    ("pythia-14m", 1_189_888, 1e-4),
    ("pythia-31m", 4_739_072, 1e-4),
    ("pythia-70m", 18_915_328, 1e-4),
    ("pythia-160m", 85_056_000, 6e-5),
    ("pythia-410m", 302_311_424, 3e-5),
    ("pythia-1b", 805_736_448, 3e-5),
    ("pythia-1.4b", 1_208_602_624, 2e-5),
    ("pythia-2.8b", 2_517_652_480, 1.6e-5),
)
"""The recipe paper's peak rates, a tenth of Pythia's own: model, parameters without embeddings, rate."""


def fill(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` of TrainConfig, and beside them what their preset says of those that are not given."""
    preset = PRESETS.get(values.get("preset", "paper"))
    return {**(preset.values if preset else {}), **values}


def without_filled(values: Mapping[str, Any], config: TrainConfig, *, new: str) -> tuple[dict[str, Any], list[str]]:
    """`values` of a file for a run by another preset: what the file's own preset filled in gives way.

    A run's `train.yaml` holds every option, so that it would leave nothing for another preset to say.

    Args:
        values: as the file has them.
        config: of the same values, converted, by the file's own preset.
        new: name of the other preset.

    Returns:
        The values but for those that are what the file's preset fills in (a learning rate by size: any of
        `LEARNING_RATES`) and are said by either preset; and the names of those that stay and are not the new one's.
    """
    old, other = PRESETS[config.preset], PRESETS[new]
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    rates: Any = old.lr.get(config.method)
    filled = {name: {old.values.get(name, defaults[name])} for name in {**old.values, **other.values}}
    filled["lr"] = {None, rates} if rates is not None else {None, *(rate for _, _, rate in LEARNING_RATES)}
    filled["lora_rank"] = {None, 0, old.lora_rank}  # 0 of a method without adapters
    chosen = {**other.values, "lr": other.lr.get(config.method), "lora_rank": other.lora_rank}
    kept = {name: value for name, value in values.items() if getattr(config, name) not in filled.get(name, ())}
    return kept, [name for name in kept if name in chosen and getattr(config, name) != chosen[name]]


def learning_rate(parameters: int) -> tuple[float, str]:
    """The recipe paper's peak rate for training a base's own weights, and the Pythia that it was used with.

    Args:
        parameters: of the base, without embeddings: those of the Pythia that is nearest by ratio decide.
    """
    name, _, lr = min(LEARNING_RATES, key=lambda row: abs(math.log(parameters / row[1])))
    return lr, name


def described(config: TrainConfig, *, adapters: bool, nearest: str | None = None) -> str:
    """What a run has from its preset, what it has otherwise, and where the preset is from.

    Args:
        config: resolved, its `lr` filled in.
        adapters: whether the method has them.
        nearest: the Pythia whose learning rate was taken.
    """
    preset = PRESETS[config.preset]
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    names = {name: None for other in PRESETS.values() for name in other.values}
    said = {name: preset.values.get(name, defaults[name]) for name in names}
    said |= {"lora_rank": preset.lora_rank, "lr": preset.lr[config.method]}
    chosen: list[str] = []
    other: list[str] = []
    for name, value in said.items():
        if name in ADAPTER_OPTIONS and not adapters:
            continue
        found = getattr(config, name)
        by_size = name == "lr" and value is None and nearest is not None
        shown = f"{name} {_text(found)}" + (f" (that of {nearest}, the nearest in size)" if by_size else "")
        (chosen if found == value or by_size else other).append(shown)
    text = f"preset {config.preset} ({preset.source}): {', '.join(chosen) or 'nothing'}"
    return text + (f"; given instead: {', '.join(other)}" if other else "")


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
