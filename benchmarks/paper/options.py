"""The command lines of the experiments: what they share, and what a run is told where its user says nothing."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import rows
from benchmarks.paper.names import BLOOM, ENGLISH_NLI, ENGLISH_NLI_HELD_OUT, MBERT, label
from benchmarks.paper.study import Study, parse_settings, synthetic
from lacos_st.commands.parsing import Parser
from lacos_st.errors import UserError
from lacos_st.evaluation import MTEB_DEFAULTS

QUICK_BASES, QUICK_BASELINE = ("bloom-nano",), "bert-nano"
QUICK_TRAIN = {"max_steps": 4, "batch_size": 16, "max_seq_length": 32, "eval_steps": 2}


@dataclass(frozen=True)
class Defaults:
    """What the paper used, which a user's options take the place of.

    Attributes:
        bases: to be trained.
        data: to train on.
        eval_data: of the validation loss.
        tasks: of mteb; none: the experiment scores nothing.
        own: options of a training that the experiment has its own option for.
    """

    bases: tuple[str, ...] = BLOOM
    data: tuple[str, ...] = ENGLISH_NLI
    eval_data: tuple[str, ...] = ENGLISH_NLI_HELD_OUT
    tasks: tuple[str, ...] = MTEB_DEFAULTS
    own: tuple[str, ...] = ()


def parser(name: str, about: str | None, defaults: Defaults, *, baseline: bool = False) -> argparse.ArgumentParser:
    """A command's options that it has in common with the others.

    Args:
        name: of the command.
        about: its module's docstring.
        defaults: the paper's.
        baseline: whether SBERT is trained beside the bases.
    """
    made = Parser(
        prog=f"python -m benchmarks.paper.{name}",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--bases", nargs="+", metavar="BASE", help=f"hub names, folders, GGUF files {shown(defaults.bases)}"
    )
    if baseline:
        made.add_argument("--baseline", metavar="BASE", help=f"that SBERT is trained on [{MBERT}]")
    made.add_argument("--data", nargs="+", metavar="DATA", help=f"files, folders, hub names {shown(defaults.data)}")
    made.add_argument(
        "--eval-data",
        nargs="+",
        metavar="DATA",
        help=f"rows of the validation loss [a split of --data; without it {' '.join(defaults.eval_data)}]",
    )
    if defaults.tasks:
        made.add_argument(
            "--sts",
            type=Path,
            metavar="DIR",
            help="folder of graded pairs, whose sentences are not trained on [mteb fetches the tasks]",
        )
        made.add_argument(
            "--tasks",
            nargs="+",
            metavar="TASK",
            help=f"names of tasks [those of --sts; of mteb {' '.join(defaults.tasks)}]",
        )
    made.add_argument("--max-steps", type=int, metavar="N", help="steps of each training, at most [an epoch]")
    made.add_argument("--epochs", type=float, metavar="N", help="passes over the data [1]")
    made.add_argument(
        "--train",
        nargs="+",
        default=[],
        metavar="OPTION=VALUE",
        help="options of lacos-st train, for all methods or one: batch_size=64 lacos.lora_rank=16 sbert.lr=1e-4",
    )
    made.add_argument(
        "--output", type=Path, metavar="DIR", help=f"the trainings; the same again goes on [runs/paper/{name}]"
    )
    made.add_argument("--results", type=Path, metavar="DIR", help="rows, table and plot [benchmarks/results]")
    made.add_argument(
        "--quick",
        action="store_true",
        help="the embedded models, synthetic text and four steps where nothing else is said; results go into --output",
    )
    return made


def shown(names: Sequence[str]) -> str:
    """Defaults for a line of help: no more than five of them."""
    return f"[{' '.join(names[:5])}{' ...' if len(names) > 5 else ''}]"


def study(name: str, arguments: argparse.Namespace, defaults: Defaults) -> Study:
    """The experiment that the options ask for; of a quick one the text is written.

    Raises:
        UserError: an option is malformed, or needs another one.
    """
    given = vars(arguments)
    quick = arguments.quick
    output = arguments.output or rows.ROOT / "runs" / "paper" / ("quick" if quick else "") / name
    train, by_method = parse_settings(arguments.train, own=defaults.own)
    train = {**(QUICK_TRAIN if quick else {}), **train}
    for option in ("max_steps", "epochs"):
        if given[option] is not None:
            train[option] = given[option]
    if quick and arguments.epochs is not None and arguments.max_steps is None:
        del train["max_steps"]
    data, eval_data = arguments.data, arguments.eval_data
    sts, tasks = given.get("sts"), tuple(given.get("tasks") or ())
    if data is None and quick:
        nli, graded = synthetic(output / "data")
        data = [str(nli)]
        sts = graded if defaults.tasks and sts is None else sts
    elif data is None:
        data = defaults.data
        eval_data = defaults.eval_data if eval_data is None else eval_data
    if sts is None:
        tasks = tasks or defaults.tasks
    names = [label(base) for base in arguments.bases or ()]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(
            f"--bases has {twice[0]} twice: rows and tables name a base so; give it once, or rename a folder"
        )
    return Study(
        name=name,
        bases=tuple(arguments.bases or (QUICK_BASES if quick else defaults.bases)),
        baseline=given.get("baseline") or (QUICK_BASELINE if quick else MBERT),
        data=tuple(data),
        eval_data=tuple(eval_data or ()),
        sts=sts,
        tasks=tasks,
        train=train,
        by_method=by_method,
        output=output,
        results=arguments.results or (output if quick else rows.RESULTS),
        quick=quick,
    )


def main(run: Callable[[list[str] | None], Any], arguments: list[str] | None = None) -> None:
    """Run a command; what its user can mend is one line and exit code 2, as of lacos-st."""
    try:
        run(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
