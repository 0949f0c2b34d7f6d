"""`lacos-st train`."""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import logging
import sys
import typing
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, TextIO

from lacos_st.commands.parsing import add_command, choices
from lacos_st.errors import UserError
from lacos_st.presets import PRESETS, without_filled
from lacos_st.settings import TrainConfig

logger = logging.getLogger(__name__)

OPTIONS = {field.name: field for field in dataclasses.fields(TrainConfig)}

EXAMPLES = (
    "lacos-st train --base bloom-nano --data pairs.tsv --output run",
    "lacos-st train --config run.yaml --lr 2e-5",
    "lacos-st train --output run --resume",
    "lacos-st train --base bigscience/bloom-560m --data sentence-transformers/all-nli:pair --output run --lora-rank 16",
)


def train(arguments: argparse.Namespace) -> None:
    """Train a sentence encoder: lacos, lora, full, freeze, bias or sbert."""
    from lacos_st.options import read_yaml
    from lacos_st.runs import RunFolder

    given = {name: value for name, value in vars(arguments).items() if name in OPTIONS}
    file = arguments.config
    if file is None and given.get("resume") and "output" in given:
        file = RunFolder(Path(given["output"])).config  # a run is resumed with its own options
        if not file.is_file():
            raise UserError(f"output {given['output']} holds no {file.name}: there is no run to resume")
    if arguments.quiet or arguments.json:
        given.setdefault("progress", False)
    values = {} if file is None else _for_preset(read_yaml(file), given, file=file)
    config = TrainConfig.from_mapping({**values, **given}, source="options" if file is None else str(file)).resolved()

    from lacos_st import ranks
    from lacos_st.training import train as run

    if not arguments.quiet:  # what it will take in memory, what the preset chose, what was read and left out of it
        for said in ("recipe", "training", "data", "negatives", "audit"):  # of several processes, one says it
            logging.getLogger(f"lacos_st.{said}").setLevel(logging.INFO if ranks.is_first() else logging.ERROR)
    with redirect_stdout(_elsewhere(arguments)):  # the trainer prints its log
        result = run(config)
    if not ranks.is_first():
        return
    if arguments.json:
        names = ("train_rows", "eval_rows", "steps", "train_loss", "best_metric", "best_step", "trainable_parameters")
        figures = {name: getattr(result, name) for name in (*names, "seconds")}
        print(json.dumps({"model": str(result.model_path), "best": result.best_by, **figures}, indent=2))
        return
    best = ""
    if result.best_metric is not None:
        best = f", best {result.best_by} {result.best_metric:.4f} at {result.best_step}"
    print(f"{result.train_rows} rows, {result.steps} steps in {result.seconds:.0f} s{best}: {result.model_path}")


def _for_preset(values: dict[str, Any], given: dict[str, Any], *, file: Path) -> dict[str, Any]:
    """The values of a file under the preset that the command line names: without what the file's own filled in."""
    new = given.get("preset", values.get("preset"))
    if new not in PRESETS or new == values.get("preset", OPTIONS["preset"].default):
        return values
    old = {name: value for name, value in given.items() if name != "preset"}
    kept, other = without_filled(values, TrainConfig.from_mapping({**old, **values}, source=str(file)), new=new)
    if others := [f"{name} {kept[name]}" for name in other if name not in given]:
        said = ", ".join(others)
        logger.warning(
            "of %s stays, in place of what preset %s says: %s; remove it there to change that", file, new, said
        )
    return kept


def _elsewhere(arguments: argparse.Namespace) -> TextIO:
    """Where what is printed during a run goes: JSON has standard output to itself, quiet runs print nothing."""
    return io.StringIO() if arguments.quiet else sys.stderr if arguments.json else sys.stdout


def add(commands: Any) -> None:
    """Add the command to the command line."""
    parser = add_command(commands, "train", train, examples=EXAMPLES)
    parser.add_argument(
        "--config",
        type=Path,
        metavar="YAML",
        help="file that holds options, such as a run's train.yaml; those given here go first, and another preset goes "
        "before what the file's own had filled in",
    )
    parser.add_argument("--json", action="store_true", help="what the run came to as JSON; its log on standard error")
    hints = typing.get_type_hints(TrainConfig)
    for name, field in OPTIONS.items():
        flag = "--" + name.replace("_", "-")
        default = "" if field.default in (None, dataclasses.MISSING, ()) else f" [{_text(field.default)}]"
        text = (field.metadata["help"] + default).replace("%", "%%")
        if hints[name] is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text)
        else:  # text: TrainConfig converts and checks it, the same way as a YAML file
            many = typing.get_origin(hints[name]) is tuple
            metavar = "|".join(map(str, choices(hints[name]))) or name.rpartition("_")[2].upper()
            parser.add_argument(
                flag, nargs="+" if many else None, metavar=metavar, default=argparse.SUPPRESS, help=text
            )


def _text(default: Any) -> str:
    return " ".join(default) if isinstance(default, tuple) else str(default).lower()
