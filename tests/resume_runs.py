"""Runs that are stopped after a step and resumed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lacos_st.runs import RunFolder
from lacos_st.settings import TrainConfig
from lacos_st.trainer import LacosTrainer
from lacos_st.training import TrainResult, train

WORDS = "a man plays guitar street is long and walks x the man's on in at by".split()


class Stop(Exception):
    """What a run is stopped with."""


def pairs(folder: Path, *, rows: int = 44) -> str:
    """Labelled rows for every method; the lengths differ, one sentence in four comes again.

    A fifth of the pairs share no sentence with others: a split finds validation rows among them that have negatives.
    """
    lines = []
    for i in range(rows):
        first = " ".join(WORDS[(i // 4 + j) % len(WORDS)] for j in range(2 + i // 4 % 5)) + f" {i // 4}"
        second = " ".join(WORDS[(3 * i + j) % len(WORDS)] for j in range(1 + i % 6)) + f" {i}"
        lines.append(f"{('entailment', 'neutral', 'contradiction', 'neutral')[i % 4]}\t{first}\t{second}")
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
