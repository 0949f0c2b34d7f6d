"""Runs that are stopped after a step and resumed, and everything by which two runs may differ."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lacos_st.runs import RunFolder
from lacos_st.settings import TrainConfig
from lacos_st.trainer import LacosTrainer
from lacos_st.training import TrainResult, train

WORDS = "a man plays guitar street is long and walks x the man's on in at by".split()
TIMES = ("runtime", "per_second", "flos", "train_loss", "total_flos")  # of a call, not of a run


class Stop(Exception):
    """What a run is stopped with."""


def pairs(folder: Path, *, rows: int = 44) -> str:
    """Labelled rows for every method; the lengths differ, one sentence in four comes again."""
    lines = []
    for i in range(rows):
        first = " ".join(WORDS[(i // 4 + j) % len(WORDS)] for j in range(2 + i // 4 % 5)) + f" {i // 4}"
        second = " ".join(WORDS[(3 * i + j) % len(WORDS)] for j in range(1 + i % 6)) + f" {i}"
        lines.append(f"{('entailment', 'neutral', 'contradiction')[i % 3]}\t{first}\t{second}")
        lines.append(f"entailment\t{first} so\t{second} too")
    file = folder / "nli.tsv"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(file)


def stop_after(config: TrainConfig, step: int, patch: pytest.MonkeyPatch) -> None:
    """Train `config` and break off when step `step` is done with all that belongs to it, before the next begins."""
    stock = LacosTrainer.training_step

    def step_or_stop(self: LacosTrainer, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.state.global_step >= step:
            raise Stop
        return stock(self, *args, **kwargs)

    with patch.context() as inner:
        inner.setattr(LacosTrainer, "training_step", step_or_stop)
        # a killed process clears nothing away behind it
        inner.setattr(RunFolder, "clear", lambda self, *, and_folder: None)
        with pytest.raises(Stop):
            train(config)


def resume(config: TrainConfig) -> TrainResult:
    return train(replace(config, resume=True))


def figures(folder: Path) -> list[dict[str, Any]]:
    """The log, without what is of the clock or of a call."""
    rows = [json.loads(line) for line in RunFolder(folder).log.read_text(encoding="utf-8").splitlines()]
    kept = [{key: value for key, value in row.items() if not key.endswith(TIMES)} for row in rows]
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
                {key: value for key, value in row.items() if not key.endswith(TIMES)} for row in content["log_history"]
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
