"""Rank, frozen blocks and learning rate for a base: those of the best measured run nearest by, or of the preset."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from lacos_st.options import read_yaml
from lacos_st.presets import PRESETS
from lacos_st.recipe.cost import parameters
from lacos_st.recipe.grid import SHORT, training_options
from lacos_st.recipe.job import Method
from lacos_st.recipe.law import Law
from lacos_st.recipe.proposal import Proposal, Request, Setting, preset_rate
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
    shape: ModelShape, method: Method, law: Law, runs: Sequence[Run], request: Request
) -> Setting | None:
    """The setting of a method for a base; None where it has nothing to train.

    Args:
        shape: of the base.
        method: of training.
        law: of the method: says which part of a model of this size is best trained, S.
        runs: measured; none: S becomes a rank or frozen blocks, and the learning rate is the preset's.
        request: what is planned; what its `common` says stands where the best run's own setting says nothing.
    """
    if method == "bias" and not shape.biases:
        return None
    lr, source = preset_rate(method, shape, request.common)
    mine = [run for run in runs if run.method == method and run.reached and run.loss is not None]
    if not mine:
        rank, blocks, said = _by_share(shape, method, law, request)
        return Setting(method, rank=rank, frozen_blocks=blocks, lr=lr, source=f"{said}learning rate {lr:g}, {source}")
    near = min(mine, key=lambda run: _distance(run, shape, request.budget.flops))
    cell = [run for run in mine if (run.parameters, run.budget_flops) == (near.parameters, near.budget_flops)]
    losses: dict[str, list[float]] = {}
    for run in cell:
        losses.setdefault(run.setting, []).append(math.log(run.loss or 1.0))
    text = min(losses, key=lambda setting: float(np.mean(losses[setting])))
    values = {SHORT.get(name, name): value for name, value in read_setting(text).items()}
    rank, blocks, _ = _by_share(shape, method, law, request)
    if (common := request.common) is not None:  # what a setting does not name was the same in all runs
        rank = common.lora_rank or PRESETS[common.preset].lora_rank
        blocks = common.frozen_blocks or 0
    rank = int(values.pop("lora_rank", rank))
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
    """What all runs of a table were told, their preset too, as `lacos-st sweep` writes it beside the table.

    Args:
        table: RUNS.csv; its conditions are in RUNS.conditions.yaml. Empty where that file is missing.

    Raises:
        UserError: the file is there and cannot be read, or an option is none of `lacos-st train`.
    """
    path = table.with_suffix(".conditions.yaml")
    if not path.is_file():
        return {}
    given = training_options([str(option) for option in read_yaml(path).get("train") or ()])
    config = common_config(given, source=str(path))
    return {name: getattr(config, name) for name in ("preset", *given)}


def common_config(given: Mapping[str, Any], *, source: str = "conditions") -> TrainConfig:
    """The options that runs have in common, their preset's filled in; base, data, output and method stand for any.

    Raises:
        UserError: an option is none of `lacos-st train`, or its value is none of it.
    """
    return TrainConfig.from_mapping({"base": "b", "data": "d", "output": "o", "method": "full", **given}, source=source)


def as_read(length: float, common: TrainConfig) -> float:
    """Tokens of a sentence that runs read: cut off at their limit, and twice with echo.

    Args:
        length: of a sentence, on average.
        common: see `common_config`.
    """
    return min(length, common.max_seq_length or math.inf) * (1 + common.echo)


def _distance(run: Run, shape: ModelShape, budget_flops: float) -> float:
    """By ratio, of sizes and of budgets."""
    of_size = math.log(run.parameters / shape.without_embedding)
    return of_size**2 + math.log(run.budget_flops / budget_flops) ** 2


def _by_share(shape: ModelShape, method: Method, law: Law, request: Request) -> tuple[int, int, str]:
    """Rank and frozen blocks that train nearest to the part that the law's best settings train; and a phrase."""
    wanted = float(law.share(np.array([float(shape.without_embedding)]))[0])
    if method in ("lora", "lacos"):
        targets = request.told["lora_targets"]
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
