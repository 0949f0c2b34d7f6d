"""Mixed precision: where it would not be done it is refused, and a trained model does not keep it."""

from __future__ import annotations

from typing import Any

from lacos_st.errors import UserError
from lacos_st.recipe.machine import training_device
from lacos_st.upstream import forget_preparation_


def check_autocast(autocast: str | None, *, cpu: bool) -> None:
    """That the device of a run computes in the dtype that was asked for.

    Args:
        autocast: "bfloat16", "float16" or None, as `TrainConfig` has it.
        cpu: whether the run is told to use the CPU.

    Raises:
        UserError: float16 on a CPU, which accelerate ignores in silence.
    """
    if autocast == "float16" and training_device(cpu=cpu) == "cpu":
        raise UserError("autocast float16 is for a GPU, a CPU would compute in float32: use bfloat16, or leave it out")


def without_autocast_(model: Any, accelerator: Any) -> None:
    """Give a trained model its own `forward` back: under accelerate's, it embeds otherwise than once it is loaded.

    Args:
        model: as the trainer has it; it can be trained again, with autocast or without.
        accelerator: of that trainer.
    """
    accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    forget_preparation_(model)
