"""`lacos-st sweep`."""

from __future__ import annotations

import argparse
import dataclasses
import signal
import typing
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

from lacos_st.commands.parsing import add_command
from lacos_st.errors import UserError
from lacos_st.recipe.grid import Grid

OPTIONS = {field.name: field for field in dataclasses.fields(Grid)}

EXAMPLES = (
    "lacos-st sweep --config grid.yaml --dry-run",
    "lacos-st sweep --config grid.yaml --jobs 2",
)


def sweep(arguments: argparse.Namespace) -> None:
    """Train a grid of bases, budgets, methods and seeds, and write a row for each run; goes on where it stopped."""
    given = {name: value for name, value in vars(arguments).items() if name in OPTIONS}
    file = arguments.config
    grid = Grid.from_mapping(given) if file is None else Grid.from_yaml(file, **given)
    handler = signal.signal(signal.SIGTERM, _interrupt)
    try:
        _run(grid, dry_run=arguments.dry_run)
    finally:
        signal.signal(signal.SIGTERM, handler)


def _run(grid: Grid, *, dry_run: bool) -> None:
    from lacos_st.sweep import Sweep

    plan, bench = Sweep.of(grid)
    short = sum(not trial.reached for trial in plan.planned)
    count, total = len(plan.planned) - len(plan.left), len(plan.planned)
    unreached = f", {short} have too little data for their budget" * bool(short)
    print(f"{total} runs: {count} have their row, {len(plan.left)} are left{unreached}", flush=True)
    if dry_run:
        for trial in plan.left:
            print(f"{_name(trial)}: {trial.tokens:,.0f} tokens{'' if trial.reached else ', more than there are'}")
        return
    failed: Counter[str] = Counter()
    for outcome in plan.run(bench):
        count += 1
        trial, run = outcome.item, outcome.result
        if run is None:
            failed[str(outcome.reason)] += 1
            said = f"FAILED: {outcome.reason}"
        elif run.loss is None:
            said = f"not trained: {trial.tokens:,.0f} tokens are wanted, {run.tokens:,.0f} are there"
        else:
            sts = "" if run.sts_dev is None else f", STS {run.sts_dev:.2f}"
            said = f"loss {run.loss:.4f}{sts}, {run.tokens:,.0f} tokens in {run.seconds:.0f} s"
        print(f"[{count}/{total}] {_name(trial)}: {said}", flush=True)
    if failed:
        reason, times = failed.most_common(1)[0]
        raise UserError(
            f"{failed.total()} of {total} runs failed and have no row ({times} times: {reason}): mend that, or leave "
            "them out of the grid, and run the same command again"
        )
    print(f"complete: {grid.output}")


def _name(trial: Any) -> str:
    base = Path(trial.base).name
    return f"{base}, {trial.method} {trial.setting}".rstrip() + f", {trial.budget_flops:g} FLOP, seed {trial.seed}"


def _interrupt(*_: Any) -> NoReturn:
    raise KeyboardInterrupt


def add(commands: Any) -> None:
    """Add the command to the command line."""
    parser = add_command(commands, "sweep", sweep, examples=EXAMPLES)
    parser.add_argument(
        "--config", type=Path, metavar="YAML", help="file that holds options; those given here go first"
    )
    parser.add_argument("--dry-run", action="store_true", help="show the runs that are left, and stop")
    hints = typing.get_type_hints(Grid)
    for name, field in OPTIONS.items():
        default = "" if field.default in (None, dataclasses.MISSING, ()) else f" [{_text(field.default)}]"
        options: dict[str, Any] = {
            "default": argparse.SUPPRESS,
            "help": (field.metadata["help"] + default).replace("%", "%%"),
        }
        if hints[name] is bool:
            options["action"] = argparse.BooleanOptionalAction
        else:
            options["metavar"] = name.rpartition("_")[2].upper()
            options["nargs"] = "+" if typing.get_origin(hints[name]) is tuple else None
        parser.add_argument("--" + name.replace("_", "-"), **options)


def _text(default: Any) -> str:
    return " ".join(default) if isinstance(default, tuple) else str(default).lower()
