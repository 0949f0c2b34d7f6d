"""`lacos-st encode`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import typing
from typing import Any

from lacos_st.commands.parsing import add_command, choices
from lacos_st.corpus.options import EncodeOptions
from lacos_st.options import build_options

OPTIONS = {field.name: field for field in dataclasses.fields(EncodeOptions)}

EXAMPLES = (
    "lacos-st encode run/model sentences.tsv vectors --column text",
    "lacos-st encode run/model corpus/ vectors --precision int8 --workers 4",
)


def encode(arguments: argparse.Namespace) -> None:
    """Encode a corpus, files in and shards out: each row once and in order, resumable after a kill."""
    given = {name: value for name, value in vars(arguments).items() if name in OPTIONS}
    options = build_options(EncodeOptions, given, source="options")

    from lacos_st.corpus.run import encode_corpus

    done = encode_corpus(options, show_progress=not (arguments.quiet or arguments.json))
    if arguments.json:
        print(json.dumps(dataclasses.asdict(done), indent=2, default=str))
        return
    if arguments.quiet:
        return
    speed = f", {done.new_rows / done.seconds:,.0f} sentences/s" if done.new_rows else ""
    speed += f", {done.new_tokens / done.seconds:,.0f} tokens/s" if done.new_tokens else ""
    before = f", {done.rows - done.new_rows:,} of them there before" if done.new_rows < done.rows else ""
    print(f"{done.rows:,} rows{before}, {done.shards} shards in {done.seconds:.1f} s{speed}: {done.output}")
    for count, text in (
        (done.empty, "empty sentences, kept"),
        (done.cut, f"sentences longer than the model's limit of {done.limit} tokens, cut; the longest: {done.longest}"),
        (done.bad_rows, "malformed rows left out"),
        (done.clipped, "values outside the ranges of the calibration rows, clipped"),
    ):
        if count:
            print(f"{count:,} {text}")


def add(commands: Any) -> None:
    """Add the command to the command line."""
    parser = add_command(commands, "encode", encode, examples=EXAMPLES)
    hints = typing.get_type_hints(EncodeOptions)
    for name, field in OPTIONS.items():
        default = "" if field.default in (None, dataclasses.MISSING, (), False) else f" [{field.default}]"
        text = (field.metadata["help"] + default).replace("%", "%%")
        flag = "--" + name.replace("_", "-")
        if field.default is dataclasses.MISSING:
            parser.add_argument(name, metavar={"source": "IN", "output": "OUT"}.get(name, name.upper()), help=text)
        elif name == "ray":
            parser.add_argument(
                flag,
                nargs="?",
                const="local",
                metavar="ADDRESS",
                default=argparse.SUPPRESS,
                help=text + "; alone: one here",
            )
        elif name == "header":
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text)
        elif hints[name] is bool:
            parser.add_argument(flag, action="store_true", default=argparse.SUPPRESS, help=text)
        else:  # text: build_options converts and checks it
            many = typing.get_origin(hints[name]) is tuple
            metavar = "|".join(map(str, choices(hints[name]))) or name.rpartition("_")[2].upper()
            parser.add_argument(
                flag, nargs="+" if many else None, metavar=metavar, default=argparse.SUPPRESS, help=text
            )
    parser.add_argument("--json", action="store_true", help="the summary as JSON, for other programs; no progress")
