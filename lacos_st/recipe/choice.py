"""Rank, frozen blocks and learning rate for a base: those of the best measured run nearest by, or of the preset."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from lacos_st.options import read_yaml
from lacos_st.recipe.cost import parameters
from lacos_st.recipe.job import Method
from lacos_st.recipe.law import Law
from lacos_st.recipe.proposal import RECIPE, Proposal, Setting, preset_rate
from lacos_st.recipe.runs_table import Run, read_setting
from lacos_st.recipe.shapes import ModelShape
from lacos_st.settings import TrainConfig

RANKS = tuple(2**power for power in range(12))
"""That are tried where a law says what part of a model is best trained."""
OPTIONS = {field.name: field.type for field in fields(TrainConfig)}


@dataclass(frozen=True)
class Chosen:
    """A proposal, and the sentence that says why its size."""

    option: Proposal
    sentence: str


def chosen_setting(
    shape: ModelShape, method: Method, law: Law, runs: Sequence[Run], budget_flops: float
) -> Setting | None:
    """The setting of a method for a base; None where it has nothing to train.

    Args:
        shape: of the base.
        method: of training.
        law: of the method: says which part of a model of this size is best trained, S.
        runs: measured; none: S becomes a rank or frozen blocks, and the learning rate is the preset's.
        budget_flops: of the plan.
    """
    if method == "bias" and not shape.biases:
        return None
    lr, source = preset_rate(method, shape)
    mine = [run for run in runs if run.method == method and run.reached and run.loss is not None]
    if not mine:
        rank, blocks, said = _by_share(shape, method, law)
        return Setting(method, rank=rank, frozen_blocks=blocks, lr=lr, source=f"{said}learning rate {lr:g}, {source}")
    near = min(mine, key=lambda run: _distance(run, shape, budget_flops))
    cell = [run for run in mine if (run.parameters, run.budget_flops) == (near.parameters, near.budget_flops)]
    losses: dict[str, list[float]] = {}
    for run in cell:
        losses.setdefault(run.setting, []).append(math.log(run.loss or 1.0))
    text = min(losses, key=lambda setting: float(np.mean(losses[setting])))
    values = read_setting(text)
    rank, blocks, said = _by_share(shape, method, law)
    rank = int(values.pop("rank", rank))
    blocks = int(values.pop("frozen_blocks", blocks))
    if "frozen_share" in values:
        blocks = round(values.pop("frozen_share") * shape.layers)
    said = f"{text or 'nothing'}, which won among the measured runs nearest by (N = {near.parameters:,}, "
    said += f"{near.budget_flops:.3g} FLOP)"
    if "lr" not in values:
        said += f"; learning rate {lr:g}, {source}"
    lr = values.pop("lr", lr)
    others: dict[str, Any] = {
        name: int(value) if "int" in str(OPTIONS[name]) else value for name, value in values.items() if name in OPTIONS
    }
    return Setting(method, rank=rank, frozen_blocks=min(blocks, shape.layers - 1), lr=lr, source=said, others=others)


def conditions(table: Path) -> dict[str, Any]:
    """What all runs of a table were trained with, as `lacos-st sweep` writes it beside the table; empty without.

    Args:
        table: RUNS.csv; its conditions are in RUNS.conditions.yaml.

    Raises:
        UserError: the file is there and cannot be read, or an option is none of `lacos-st train`.
    """
    path = table.with_suffix(".conditions.yaml")
    if not path.is_file():
        return {}
    given = dict(str(option).partition("=")[::2] for option in read_yaml(path).get("train") or ())
    run = {"base": "b", "data": "d", "output": "o", "method": "full", **given}
    config = TrainConfig.from_mapping(run, source=str(path))
    return {name: getattr(config, name) for name in given}


def _distance(run: Run, shape: ModelShape, budget_flops: float) -> float:
    """By ratio, of sizes and of budgets."""
    of_size = math.log(run.parameters / shape.without_embedding)
    return of_size**2 + math.log(run.budget_flops / budget_flops) ** 2


def _by_share(shape: ModelShape, method: Method, law: Law) -> tuple[int, int, str]:
    """Rank and frozen blocks that train nearest to the part that the law's best settings train; and a phrase."""
    wanted = float(law.share(np.array([float(shape.without_embedding)]))[0])
    if method in ("lora", "lacos"):
        targets = RECIPE.values["lora_targets"]
        shares = {rank: _share(shape, method, rank=rank, targets=targets) for rank in RANKS}
        rank = min(shares, key=lambda each: abs(math.log(shares[each] / wanted)))
        return rank, 0, f"rank {rank}, which trains nearest to the law's {wanted:.2%} of the weights, "
    if method == "freeze":
        parts = {blocks: _share(shape, method, frozen_blocks=blocks) for blocks in range(shape.layers)}
        blocks = min(parts, key=lambda each: abs(parts[each] - wanted))
        return 1, blocks, f"{blocks} of {shape.layers} blocks frozen, nearest to the law's {wanted:.0%} trained, "
    return 1, 0, ""


def _share(shape: ModelShape, method: Method, **setting: Any) -> float:
    assert method != "encode"
    count = parameters(shape, method, **setting)
    return count.updated / count.forward
