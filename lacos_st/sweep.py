"""`sweep`: the runs of a grid that its table has no row of yet, one after the other, or several at a time."""

from __future__ import annotations

import dataclasses
import logging
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lacos_st.bench import Bench
from lacos_st.errors import UserError
from lacos_st.locks import hold
from lacos_st.options import read_yaml
from lacos_st.recipe.grid import Grid
from lacos_st.recipe.runs_table import Run, append_run, read_runs
from lacos_st.recipe.trials import Trial, remaining, trials
from lacos_st.recipe.workers import Outcome, work

logger = logging.getLogger(__name__)

COMPARABLE = ("family", "held_out_batch", "sts_rows", "train")
"""Options without which two rows of one table could not be compared; the held-out pairs are known by their hash."""


@dataclass(frozen=True)
class Sweep:
    """A grid, and what is left of it.

    Attributes:
        grid: as given.
        planned: every run of it.
        left: those without a row.
        commit: of the code that will run.
        conditions: what all rows of the table have in common.
    """

    grid: Grid
    planned: tuple[Trial, ...]
    left: tuple[Trial, ...]
    commit: str
    conditions: dict[str, Any]

    @classmethod
    def of(cls, grid: Grid) -> tuple[Sweep, Bench]:
        """Load the data, plan every run and look at the table; nothing is written.

        Raises:
            UserError: see `Bench` and `trials`; or the table cannot be read, or was made under other conditions.
        """
        if grid.threads is None:
            grid = dataclasses.replace(grid, threads=max(1, (os.cpu_count() or 1) // grid.jobs))
        commit = code_version()
        bench = Bench(grid, commit)
        planned = trials(
            grid,
            {base: bench.shape(base) for base in grid.bases},
            bench.supply,
        )
        conditions = {name: getattr(grid, name) for name in COMPARABLE} | {"held_out_sha256": bench.held_out_sha256}
        conditions = {name: sorted(value) if isinstance(value, tuple) else value for name, value in conditions.items()}
        table = Path(grid.output)
        runs = read_runs(table) if table.exists() else []
        _check_conditions(conditions, conditions_file(table), has_rows=bool(runs))
        return cls(grid, tuple(planned), tuple(remaining(planned, runs)), commit, conditions), bench

    def run(self, bench: Bench) -> Iterator[Outcome[Trial, Run]]:
        """Do what is left; every row is in the table when its outcome is yielded, and a failed run has none.

        Args:
            bench: that `of` came with; other processes make their own.

        Raises:
            UserError: another sweep is writing to the table.
        """
        table = Path(self.grid.output)
        # before the others: what is known without training
        short = [trial for trial in self.left if not trial.reached]
        rest = [trial for trial in self.left if trial.reached]
        start = (lambda: bench.run) if self.grid.jobs == 1 else partial(_start, self.grid, self.commit)
        with _alone(table, self.conditions):
            for items, how, processes in ((short, lambda: bench.run, 1), (rest, start, self.grid.jobs)):
                for outcome in work(items, how, processes=processes):
                    if outcome.result is not None:
                        append_run(table, outcome.result)
                    yield outcome


def conditions_file(table: Path) -> Path:
    """Beside a table, what all of its rows have in common."""
    return table.with_suffix(".conditions.yaml")


@contextmanager
def _alone(table: Path, conditions: dict[str, Any]) -> Iterator[None]:
    """Write the conditions, and hold them so that no other sweep trains the same runs for the same table."""
    import yaml

    table.parent.mkdir(parents=True, exist_ok=True)
    with conditions_file(table).open("a+", encoding="utf-8") as file:
        refusal = f"another sweep is writing to {table}: wait for it, or write to another table with --output"
        hold(file, refusal=refusal)
        file.truncate(0)
        file.write(yaml.safe_dump(conditions, sort_keys=False))
        file.flush()
        yield


def _start(grid: Grid, commit: str) -> Any:
    return Bench(grid, commit).run


def _check_conditions(conditions: dict[str, Any], file: Path, *, has_rows: bool) -> None:
    if not has_rows:
        return
    if not file.is_file():
        raise UserError(
            f"the table has rows but {file} is missing, which says under what conditions they were made: "
            "put it back, or write to another table with --output"
        )
    before = read_yaml(file)
    changed = [
        f"{name} {before.get(name)!r} -> {value!r}" for name, value in conditions.items() if before.get(name) != value
    ]
    if changed:
        raise UserError(
            f"the rows of the table were made under other conditions ({'; '.join(changed)}) and cannot be compared "
            f"with new ones: go back to those in {file}, or write to another table with --output"
        )


def code_version() -> str:
    """The commit of a checkout, with a + where the package was changed since; of an installed package its version."""
    folder = Path(__file__).parent
    try:
        head = _git(folder, "rev-parse", "--short", "HEAD")
        return head + "+" * bool(_git(folder, "status", "--porcelain", "--untracked-files=no", "--", "."))
    except (OSError, subprocess.CalledProcessError):
        try:
            return f"v{version('lacos_st')}"
        except PackageNotFoundError:
            return "unknown"


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()
