"""`lacos-st`: one function per command; the logic, and its heavy imports, lie behind them."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
import typing
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, NoReturn

from lacos_st.errors import UserError
from lacos_st.settings import TrainConfig

USER_ERROR = 2  # exit status of whatever the user can mend, as argparse has it
INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def train(arguments: argparse.Namespace) -> None:
    """Train a sentence encoder: lacos, lora, full or sbert."""
    from lacos_st.options import read_yaml
    from lacos_st.runs import RunFolder

    given = {name: value for name, value in vars(arguments).items() if name in TRAIN_OPTIONS}
    file = arguments.config
    if file is None and given.get("resume") and "output" in given:
        file = RunFolder(Path(given["output"])).config  # a run is resumed with its own options
        if not file.is_file():
            raise UserError(f"output {given['output']} holds no {file.name}: there is no run to resume")
    values = {} if file is None else read_yaml(file)
    config = TrainConfig.from_mapping({**values, **given}, source="options" if file is None else str(file)).resolved()

    from lacos_st.training import train as run

    logging.getLogger("lacos_st.recipe").setLevel(logging.INFO)  # what it will take in memory is said in any case
    result = run(config)
    best = "" if result.best_metric is None else f", best {config.best} {result.best_metric:.4f} at {result.best_step}"
    print(f"{result.train_rows} rows, {result.steps} steps in {result.seconds:.0f} s{best}: {result.model_path}")


def evaluate(arguments: argparse.Namespace) -> None:
    """Score models side by side on STS and cross-lingual STS, or hand them to mteb."""
    from lacos_st.evaluation import EvaluationOptions, run

    names = [field.name for field in dataclasses.fields(EvaluationOptions)]
    given = {name: value for name, value in vars(arguments).items() if name in names}
    options: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in given.items()}
    print(run(EvaluationOptions(**options)))


def demo(arguments: argparse.Namespace) -> None:
    """The paper in miniature, offline: train lacos and the sbert baseline on embedded models and compare them."""
    from lacos_st.demo import run

    for line in run(output=arguments.output, data=arguments.data, quick=arguments.quick, overwrite=arguments.overwrite):
        print(line, flush=True)


def memory(arguments: argparse.Namespace) -> None:
    """What encoding and training take in memory, from a configuration alone: nothing is loaded."""
    from lacos_st.embedded import resolve
    from lacos_st.loading import read_config
    from lacos_st.recipe.fit import table
    from lacos_st.recipe.job import METHODS, Job
    from lacos_st.recipe.shapes import published, shape_of
    from lacos_st.recipe.units import parse_bytes

    budget = None if arguments.budget is None else parse_bytes(arguments.budget)
    names = [field.name for field in dataclasses.fields(Job)]
    given = {name: value for name, value in vars(arguments).items() if name in names}
    job = Job(**{"method": "lacos", **given})
    config = published(arguments.base) or read_config(resolve(arguments.base))
    methods = METHODS if arguments.methods is None else arguments.methods
    unit = "sentences or pairs"
    print(
        f"{arguments.base} in {job.dtype} on {job.device}, {job.batch_size} {unit} of {job.length:g} tokens a sentence"
    )
    for line in table(shape_of(config), job, methods=methods, budget_bytes=budget):
        print(line)
    print("Python and its libraries come on top; in training on a CPU also freed memory that the heap holds for reuse.")


TRAIN_OPTIONS = {field.name: field for field in dataclasses.fields(TrainConfig)}


class _Parser(argparse.ArgumentParser):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "allow_abbrev": False})  # an abbreviation would break when options are added

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


def _add_train(commands: Any) -> None:
    parser = _add_command(commands, "train", train)
    parser.add_argument(
        "--config", type=Path, metavar="YAML", help="file that holds options; those given here go first"
    )
    hints = typing.get_type_hints(TrainConfig)
    for name, field in TRAIN_OPTIONS.items():
        flag = "--" + name.replace("_", "-")
        default = "" if field.default in (None, dataclasses.MISSING, ()) else f" [{_text(field.default)}]"
        text = (field.metadata["help"] + default).replace("%", "%%")
        if hints[name] is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text)
        else:  # text: TrainConfig converts and checks it, the same way as a YAML file
            many = typing.get_origin(hints[name]) is tuple
            metavar = "|".join(map(str, _choices(hints[name]))) or name.rpartition("_")[2].upper()
            parser.add_argument(
                flag, nargs="+" if many else None, metavar=metavar, default=argparse.SUPPRESS, help=text
            )


def _choices(hint: Any) -> tuple[Any, ...]:
    """The values of a Literal, also of one that may be None."""
    if typing.get_origin(hint) is Literal:
        return typing.get_args(hint)
    return next((found for part in typing.get_args(hint) if (found := _choices(part))), ())


def _text(default: Any) -> str:
    return " ".join(default) if isinstance(default, tuple) else str(default).lower()


def _add_evaluate(commands: Any) -> None:
    parser = _add_command(commands, "evaluate", evaluate)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="folders, hub names, or bloom-nano and bert-nano")
    parser.add_argument("--baseline", metavar="MODEL", help="the model that the others are compared with")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of graded pairs; without: tasks from mteb")
    parser.add_argument("--tasks", nargs="+", metavar="TASK", default=argparse.SUPPRESS, help="names of STS tasks")
    parser.add_argument(
        "--mteb", nargs="+", metavar="TASK", default=argparse.SUPPRESS, help="run these tasks with mteb's own runner"
    )
    parser.add_argument("--output", type=Path, dest="output_dir", metavar="DIR", help="for results.json and results.md")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="sentences in a batch [32]")
    parser.add_argument("--overwrite", action="store_true", help="write into a folder that is not empty")
    parser.add_argument("--device", metavar="NAME", help="torch device, such as cpu or cuda")


def _add_demo(commands: Any) -> None:
    parser = _add_command(commands, "demo", demo)
    parser.add_argument("--data", type=Path, metavar="DIR", help="real data (nli/ and sts/) instead of the synthetic")
    parser.add_argument("--output", type=Path, default=Path("lacos-demo"), metavar="DIR", help="folder [lacos-demo]")
    parser.add_argument("--quick", action="store_true", help="a reduced setting that shows only that everything runs")
    parser.add_argument("--overwrite", action="store_true", help="replace the demo that the output folder holds")


def _add_memory(commands: Any) -> None:
    parser = _add_command(commands, "memory", memory)
    parser.add_argument(
        "base", metavar="BASE", help="folder with a config.json, embedded or hub name, or a size: bloom-7b1, pythia-1b"
    )
    for flag, kind, metavar, text in (
        ("--batch-size", int, "N", "pairs in a training batch, sentences in one to encode [32]"),
        ("--length", float, "TOKENS", "of a sentence, on average [32]"),
        ("--rank", int, "R", "rank of the adapters [4]"),
        ("--block-size", int, "N", "weights per absmax [256]"),
        ("--mini-batch", int, "N", "pairs that the cached loss embeds at a time"),
    ):
        parser.add_argument(flag, type=kind, metavar=metavar, default=argparse.SUPPRESS, help=text)
    for flag, choices, text in (
        ("--dtype", _choices(typing.get_type_hints(TrainConfig)["dtype"]), "of what is not stored in 8 bits [float32]"),
        ("--optimizer", ("adam8bit", "adamw"), "[adam8bit]"),
        ("--device", ("cpu", "cuda"), "[cpu]"),
        ("--embedding-device", ("cpu", "cuda"), "where the token embedding stays"),
    ):
        parser.add_argument(flag, choices=choices, default=argparse.SUPPRESS, help=text)
    parser.add_argument("--method", dest="methods", nargs="+", metavar="METHOD", help="these rows only")
    parser.add_argument("--checkpointing", action="store_true", help="rows with gradient checkpointing only")
    parser.add_argument(
        "--budget", metavar="SIZE", help="such as 16GiB: the largest batch that fits, or what would help"
    )


def _add_command(commands: Any, name: str, run: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
    parser.set_defaults(run=run)
    return parser


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; it raises UserError where argparse would exit."""
    parser = _Parser(prog="lacos-st", description="Sentence embeddings from decoder language models, in 8 bits.")
    parser.add_argument("--version", action="version", version=f"lacos-st {_version()}")
    parser.add_argument("-v", "--verbose", action="store_true", help="log what is done")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    for add in (_add_train, _add_evaluate, _add_memory, _add_demo):
        add(commands)
    return parser


def _version() -> str:
    try:
        return version("lacos_st")
    except PackageNotFoundError:
        return "(not installed)"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status: 0, 2 for what the user can mend, 130 when interrupted."""
    try:
        arguments = build_parser().parse_args(argv)
        logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
        logging.getLogger("lacos_st").setLevel(logging.INFO if arguments.verbose else logging.WARNING)
        arguments.run(arguments)
    except UserError as error:
        print(f"lacos-st: error: {' '.join(str(error).split())}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("lacos-st: interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0
