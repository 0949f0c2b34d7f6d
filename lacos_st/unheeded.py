"""Options that say nothing of a run's method: they are named, not refused, as runs to compare share their options."""

from __future__ import annotations

import dataclasses

from lacos_st.presets import PRESETS
from lacos_st.settings import ADAPTER_METHODS, TrainConfig

METHODS = {
    **dict.fromkeys(("lora_alpha", "lora_dropout", "lora_targets", "adapter_dtype"), ADAPTER_METHODS),
    **dict.fromkeys(("code", "block_size"), ("lacos",)),
    "scale": ("lacos", "lora", "full", "freeze", "bias"),
}
"""By option, the methods that it is for; what would contradict a method is refused by `TrainConfig.resolved`."""


def unheeded(config: TrainConfig) -> list[str]:
    """Names of the options that somebody gave and that have no effect with the run's method.

    Args:
        config: of the run; what is a default or the preset's was not given.
    """
    filled = PRESETS[config.preset].values
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    return [
        name
        for name, methods in METHODS.items()
        if config.method not in methods and getattr(config, name) not in (defaults[name], filled.get(name))
    ]
