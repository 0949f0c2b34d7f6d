"""`lacos-st cost`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import typing
from typing import Any

from lacos_st.commands.parsing import add_command, choices
from lacos_st.errors import UserError
from lacos_st.settings import TrainConfig

MINI_BATCH = 32  # pairs, the stock loss's own default

EXAMPLES = (
    "lacos-st cost bloom-560m --pairs 1e6",
    "lacos-st cost pythia-1b --tokens 2e9 --method lora --rank 128 --json",
)


def cost(arguments: argparse.Namespace) -> None:
    """What training costs in floating-point operations, term by term, from a configuration alone: nothing is loaded."""
    from lacos_st.embedded import resolve
    from lacos_st.loading import read_config
    from lacos_st.recipe.bill import as_json, bills, lines
    from lacos_st.recipe.job import METHODS, Job
    from lacos_st.recipe.published import published
    from lacos_st.recipe.shapes import shape_of
    from lacos_st.recipe.units import parse_count

    if (arguments.pairs is None) == (arguments.tokens is None):
        raise UserError(
            "the data are not given, or twice: give either --pairs (and --length), or --tokens of both sides"
        )
    names = [field.name for field in dataclasses.fields(Job)]
    job = Job(**{"method": "lacos", **{name: value for name, value in vars(arguments).items() if name in names}})
    if arguments.pairs is not None:
        tokens = 2 * job.length * parse_count(arguments.pairs, name="--pairs")
    else:
        tokens = parse_count(arguments.tokens, name="--tokens")
    serve = 0.0 if arguments.serve_tokens is None else parse_count(arguments.serve_tokens, name="--serve-tokens")
    shape = shape_of(published(arguments.base) or read_config(resolve(arguments.base)))
    methods = arguments.methods
    if methods is None:
        methods = [method for method in METHODS if method not in ("encode", "sbert")]
        methods = [method for method in methods if method != "bias" or shape.biases]
        methods = [method for method in methods if method != "freeze" or "frozen_blocks" in arguments]
    elif "freeze" in methods and "frozen_blocks" not in arguments:
        raise UserError("method freeze needs --frozen-blocks: how many of the first blocks stay as they are")
    found = bills(shape, job, tokens=tokens, serve_tokens=serve, methods=methods)
    if arguments.json:
        print(json.dumps(as_json(arguments.base, shape, found), indent=2))
        return
    print(arguments.base)
    for line in lines(shape, found):
        print(line)


def add(commands: Any) -> None:
    """Add the command to the command line."""
    parser = add_command(commands, "cost", cost, examples=EXAMPLES)
    parser.add_argument(
        "base", metavar="BASE", help="folder with a config.json, embedded or hub name, or a size: bloom-7b1, pythia-1b"
    )
    parser.add_argument(
        "--method", dest="methods", nargs="+", metavar="METHOD", help="these only: lacos lora full freeze bias sbert"
    )
    parser.add_argument("--pairs", metavar="N", help="pairs that are trained on, epochs included: 200000, 2e5, 200k")
    parser.add_argument("--tokens", metavar="D", help="instead: tokens of both sides of the pairs")
    for flag, kind, metavar, text in (
        ("--length", float, "TOKENS", "of a sentence, on average; attention depends on it [32]"),
        ("--batch-size", int, "N", "pairs in a batch: each step reads all 8-bit weights anew [32]"),
        ("--rank", int, "R", "rank of the adapters [4]"),
        ("--frozen-blocks", int, "K", "first blocks that stay as they are (freeze)"),
    ):
        parser.add_argument(flag, type=kind, metavar=metavar, default=argparse.SUPPRESS, help=text)
    parser.add_argument(
        "--targets",
        nargs="+",
        metavar="NAME",
        default=argparse.SUPPRESS,
        help="layers with adapters: paper (feed-forward and embedding), recipe (all), all-linear, or names [paper]",
    )
    parser.add_argument(
        "--dtype",
        choices=choices(typing.get_type_hints(TrainConfig)["dtype"]),
        default=argparse.SUPPRESS,
        help="of the activations: in 16 bits the lean BLOOM layer computes more of them twice [float32]",
    )
    parser.add_argument("--checkpointing", action="store_true", help="with gradient checkpointing")
    parser.add_argument(
        "--cached",
        dest="mini_batch",
        nargs="?",
        type=int,
        const=MINI_BATCH,
        metavar="N",
        help=f"with a cached loss that embeds N pairs at a time [{MINI_BATCH}]",
    )
    parser.add_argument("--serve-tokens", metavar="T", help="tokens that the trained model will embed: 1e12, 3B")
    parser.add_argument("--json", action="store_true", help="plain numbers, for other programs")
