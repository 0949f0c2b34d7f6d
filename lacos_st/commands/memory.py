"""`lacos-st memory`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import typing
from typing import Any

from lacos_st.commands.parsing import add_command, choices
from lacos_st.settings import TrainConfig

EXAMPLES = (
    "lacos-st memory bloom-7b1",
    "lacos-st memory bloom-7b1 --batch-size 64 --budget 24GiB --device cuda --dtype bfloat16",
    "lacos-st memory bloom-560m --method lacos lora --json",
)


def memory(arguments: argparse.Namespace) -> None:
    """What encoding and training take in memory, from a configuration alone: nothing is loaded."""
    from lacos_st.embedded import resolve
    from lacos_st.loading import read_config
    from lacos_st.recipe.fit import figures, table
    from lacos_st.recipe.job import Job
    from lacos_st.recipe.published import published
    from lacos_st.recipe.shapes import shape_of
    from lacos_st.recipe.units import parse_bytes

    budget = None if arguments.budget is None else parse_bytes(arguments.budget)
    names = [field.name for field in dataclasses.fields(Job)]
    given = {name: value for name, value in vars(arguments).items() if name in names}
    job = Job(**{"method": "lacos", **given})
    config = published(arguments.base) or read_config(resolve(arguments.base))
    if arguments.json:
        found = figures(shape_of(config), job, methods=arguments.methods, budget_bytes=budget)
        print(json.dumps({"base": arguments.base, "budget_bytes": budget, "rows": found}, indent=2))
        return
    unit = "sentences or pairs"
    print(
        f"{arguments.base} in {job.dtype} on {job.device}, {job.batch_size} {unit} of {job.length:g} tokens a sentence"
    )
    for line in table(shape_of(config), job, methods=arguments.methods, budget_bytes=budget):
        print(line)
    print("Python and its libraries come on top; in training on a CPU also freed memory that the heap holds for reuse.")


def add(commands: Any) -> None:
    """Add the command to the command line."""
    parser = add_command(commands, "memory", memory, examples=EXAMPLES)
    parser.add_argument(
        "base", metavar="BASE", help="folder with a config.json, embedded or hub name, or a size: bloom-7b1, pythia-1b"
    )
    for flag, kind, metavar, text in (
        ("--batch-size", int, "N", "pairs in a training batch, sentences in one to encode [32]"),
        ("--length", float, "TOKENS", "of a sentence, on average [32]"),
        ("--rank", int, "R", "rank of the adapters [4]"),
        ("--frozen-blocks", int, "K", "first blocks that stay as they are (freeze) [0]"),
        ("--block-size", int, "N", "weights per absmax [256]"),
        ("--mini-batch", int, "N", "pairs that the cached loss embeds at a time"),
    ):
        parser.add_argument(flag, type=kind, metavar=metavar, default=argparse.SUPPRESS, help=text)
    for flag, allowed, text in (
        ("--dtype", choices(typing.get_type_hints(TrainConfig)["dtype"]), "of what is not stored in 8 bits [float32]"),
        ("--optimizer", ("adam8bit", "adamw"), "[adam8bit]"),
        ("--device", ("cpu", "cuda"), "[cpu]"),
        ("--embedding-device", ("cpu", "cuda"), "where the token embedding stays"),
    ):
        parser.add_argument(flag, choices=allowed, default=argparse.SUPPRESS, help=text)
    parser.add_argument("--method", dest="methods", nargs="+", metavar="METHOD", help="these rows only")
    parser.add_argument("--checkpointing", action="store_true", help="rows with gradient checkpointing only")
    parser.add_argument(
        "--budget", metavar="SIZE", help="such as 16GiB: the largest batch that fits, or what would help"
    )
    parser.add_argument("--json", action="store_true", help="plain numbers, for other programs")
