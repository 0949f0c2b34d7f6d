"""By what two runs may differ: checkpoints, models and logs, bit by bit, without what is of the clock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from lacos_st.runs import RunFolder, read_log

CLOCK = ("runtime", "per_second", "flos", "train_loss", "total_flos", "_bytes", "measured", "predicted_at")
"""Ends of the names of figures that are of a call, not of a run."""


def figures(folder: Path) -> list[dict[str, Any]]:
    """The log, without what is of the clock or of a call."""
    kept = [
        {key: value for key, value in row.items() if not key.endswith(CLOCK)} for row in read_log(RunFolder(folder).log)
    ]
    return [row for row in kept if row.keys() - {"step", "epoch"}]


def state(folder: Path) -> dict[str, Any]:
    """All that the checkpoints and the model in a run's folder hold, by file."""
    found: dict[str, Any] = {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.suffix == ".safetensors":
            found[name] = load_file(file)
        elif file.name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            found[name] = torch.load(file, weights_only=False)
        elif file.name == "trainer_state.json":
            content = json.loads(file.read_text())
            history = [
                {key: value for key, value in row.items() if not key.endswith(CLOCK)} for row in content["log_history"]
            ]
            content |= {
                "log_history": history,
                "best_model_checkpoint": Path(str(content["best_model_checkpoint"])).name,
            }
            found[name] = content
    return found


def differences(left: Any, right: Any, at: str = "") -> list[str]:
    """Where two nested values are not bit-equal."""
    if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
        same = left.dtype == right.dtype and left.shape == right.shape and torch.equal(left, right)
        return [] if same else [at]
    if isinstance(left, dict) and isinstance(right, dict):
        lone = [f"{at}/{key}: in one only" for key in left.keys() ^ right.keys()]
        return lone + [
            d for key in left.keys() & right.keys() for d in differences(left[key], right[key], f"{at}/{key}")
        ]
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        if len(left) != len(right):
            return [f"{at}: {len(left)} and {len(right)} entries"]
        return [d for i, (a, b) in enumerate(zip(left, right, strict=True)) for d in differences(a, b, f"{at}/{i}")]
    same = (left == right).all() if hasattr(left, "all") else left == right
    return [] if same else [f"{at}: {str(left)[:60]} and {str(right)[:60]}"]
