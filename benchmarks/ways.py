"""The ways to train and encode that are compared, and that they compute the same thing.

All carry LoRA on the same layers with the same values. Float ways must agree with stock float32 to 1e-4; ours in 8 bits
with stock float32 on the same de-quantised weights, to the same tolerance; the others within what their format loses.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch


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


def options_parser(
    description: str | None, *, ways: Sequence[str], default: Sequence[str] | None = None, repetitions: int
) -> argparse.ArgumentParser:
    """The options that contests of ways have in common.

    Args:
        description: the module's docstring.
        ways: that can be chosen.
        default: those that run; None for all.
        repetitions: how often by default.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small model and little work, in seconds")
    parser.add_argument("--ways", nargs="+", choices=ways, default=default or ways)
    parser.add_argument("--repetitions", type=int, default=repetitions, help=f"turns (default: {repetitions})")
    parser.add_argument("--rank", type=int, default=0, help="of the adapters (default: none)")
    return parser


def report_failures(results: Mapping[str, dict[str, Any]]) -> None:
    """Print why contenders did not run."""
    for name, found in results.items():
        if "failed" in found:
            print(f"{WAYS[name].label} did not run: {found['failed']}")
