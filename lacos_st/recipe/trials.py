"""The runs of a sweep: what base, budget, method, setting and seed cost a token, and so how many tokens they have."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lacos_st.errors import UserError
from lacos_st.recipe.cost import MULTIPLY_ADD, Parameters, parameters
from lacos_st.recipe.grid import FROZEN_SHARE, Grid, parse_method
from lacos_st.recipe.runs_table import Run, show_setting
from lacos_st.recipe.shapes import ModelShape
from lacos_st.recipe.units import show_flops
from lacos_st.settings import TrainConfig


@dataclass(frozen=True)
class Supply:
    """The data at hand, as a run reads it.

    Attributes:
        pairs: to train on.
        tokens: of both sides of all of them, cut off as in training.
    """

    pairs: int
    tokens: int

    @property
    def pair_tokens(self) -> float:
        """Of a pair, on average."""
        return self.tokens / self.pairs


@dataclass(frozen=True)
class Trial:
    """One run that a grid asks for.

    Attributes:
        family: of the bases.
        base: that is trained.
        parameters: of it, N.
        count: N_F, N_B, N_U.
        method: of training.
        setting: as the table of runs shows it.
        budget_flops: of the run.
        tokens: D that the budget buys.
        reached: whether there is as much data; if not, nothing is trained.
        seed: of pairs, order and adapters.
        config: training options; its `data` and `output` are the sweep's.
    """

    family: str
    base: str
    parameters: int
    count: Parameters
    method: str
    setting: str
    budget_flops: float
    tokens: float
    reached: bool
    seed: int
    config: TrainConfig

    @property
    def key(self) -> tuple[str, int, str, str, float, int]:
        """That of its row: see `Run.key`."""
        return self.family, self.parameters, self.method, self.setting, self.budget_flops, self.seed

    def row(self, *, tokens: float, commit: str, **measured: Any) -> Run:
        """Its row of the table.

        Args:
            tokens: that were trained on; those at hand where the budget was not reached.
            commit: of the code.
            **measured: `loss`, `sts_dev`, `seconds`; None where nothing was.
        """
        return Run(
            family=self.family,
            parameters=self.parameters,
            forward=self.count.forward,
            backward=self.count.backward,
            updated=self.count.updated,
            tokens=tokens,
            method=self.method,
            setting=self.setting,
            budget_flops=self.budget_flops,
            seed=self.seed,
            commit=commit,
            reached=self.reached,
            **{name: measured.get(name) for name in ("loss", "sts_dev", "seconds")},
        )


def flops_per_token(count: Parameters) -> float:
    """Of training, as the paper counts: 2·N_F + 2·N_B + 2·N_U."""
    return float(MULTIPLY_ADD * (count.forward + count.backward + count.updated))


def trials(grid: Grid, shapes: Mapping[str, ModelShape], supply: Callable[[TrainConfig], Supply]) -> list[Trial]:
    """Every run of a grid, smaller budgets first, then by seed, size and method.

    D = C / (2·N_F + 2·N_B + 2·N_U): the paper's cost, without what it leaves out.

    Args:
        grid: checked.
        shapes: of the bases, by their names in the grid.
        supply: the data as a run's tokenizer counts it, with its prompt, its limit, and twice with echo.

    Raises:
        UserError: two bases of one size, a setting that a base cannot have, or a budget too small for `min_steps`
            steps, unless `leave_out_small`; then only where no run is left.
    """
    by_size: dict[int, str] = {}
    for base in grid.bases:
        size = shapes[base].without_embedding
        if (other := by_size.setdefault(size, base)) != base:
            raise UserError(
                f"{base} and {other} both have {size:,} parameters without embeddings: in a family sizes differ; "
                "leave one of them out"
            )
    ordered = sorted(grid.bases, key=lambda base: shapes[base].without_embedding)
    found = [
        _trial(grid, base, shapes[base], supply, method=text, budget_flops=budget, seed=seed)
        for budget in grid.budget_flops
        for seed in grid.seed_numbers
        for base in ordered
        for text in grid.methods
    ]
    unique = {trial.key: trial for trial in found}
    if len(unique) < len(found):
        raise UserError(
            "two settings come to the same for a base (a frozen_share of few blocks?): "
            f"{', '.join(sorted(_repeated(found)))}; leave one of them out"
        )
    return _large_enough(found, grid, supply)


def _trial(
    grid: Grid,
    base: str,
    shape: ModelShape,
    supply: Callable[[TrainConfig], Supply],
    *,
    method: str,
    budget_flops: float,
    seed: int,
) -> Trial:
    name, setting = parse_method(method)
    config = grid.config(base=base, method=name, setting=setting, seed=seed)
    if FROZEN_SHARE in setting:
        blocks = round(setting.pop(FROZEN_SHARE) * shape.layers)
        setting["frozen_blocks"] = blocks
        config = replace(config, frozen_blocks=blocks)
    count = parameters(
        shape,
        config.method,
        rank=config.lora_rank or 1,
        targets=config.lora_targets[0] if len(config.lora_targets) == 1 else config.lora_targets,
        frozen_blocks=config.frozen_blocks or 0,
    )
    tokens = budget_flops / flops_per_token(count)
    return Trial(
        family=grid.family,
        base=base,
        parameters=shape.without_embedding,
        count=count,
        method=name,
        setting=show_setting(setting),
        budget_flops=budget_flops,
        tokens=tokens,
        reached=tokens <= supply(config).tokens,
        seed=seed,
        config=config,
    )


def _repeated(found: Sequence[Trial]) -> set[str]:
    seen: dict[Any, int] = {}
    for trial in found:
        seen[trial.key] = seen.get(trial.key, 0) + 1
    return {f"{trial.method} {trial.setting} on {trial.base}" for trial in found if seen[trial.key] > 1}


def _large_enough(found: list[Trial], grid: Grid, supply: Callable[[TrainConfig], Supply]) -> list[Trial]:
    """Those whose budget allows `min_steps` steps."""

    def needed(trial: Trial) -> float:
        tokens = grid.min_steps * trial.config.batch_size * supply(trial.config).pair_tokens
        return tokens * flops_per_token(trial.count)

    small = [trial for trial in found if trial.budget_flops < needed(trial)]
    large = [trial for trial in found if trial.budget_flops >= needed(trial)]
    if small and (not large or not grid.leave_out_small):
        worst, least = max(small, key=needed), min(small, key=needed)
        steps = "one step" if grid.min_steps == 1 else f"{grid.min_steps} steps"
        advice = "" if not large else ", or leave such runs out with leave_out_small (--leave-out-small)"
        raise UserError(
            f"{len(small)} of {len(found)} runs have a budget too small for {steps} of {worst.config.batch_size} pairs "
            f"({worst.method} {worst.setting} on {worst.base} at {show_flops(worst.budget_flops)}, ...): the smallest "
            f"budget that works for all is {show_flops(_up(needed(worst)))}, for one of them "
            f"{show_flops(_up(needed(least)))}; raise budgets, lower batch_size or min_steps{advice}"
        )
    return large


def _up(flops: float) -> float:
    """Up to the next number of two digits, so that it works as it is shown."""
    unit = 10.0 ** (len(f"{flops:.0f}") - 2)
    return unit * -(-flops // unit)


def remaining(found: Iterable[Trial], runs: Iterable[Run]) -> list[Trial]:
    """The trials that a table has no row of, in their order."""
    done = {run.key for run in runs}
    return [trial for trial in found if trial.key not in done]
