"""`lacos-st`: the commands put together, and what their errors become on a terminal."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from lacos_st.commands import cost, demo, encode, evaluate, fit, memory, plan, sweep, train
from lacos_st.commands.parsing import Parser
from lacos_st.errors import UserError

COMMANDS = (train, evaluate, encode, memory, cost, plan, sweep, fit, demo)
USER_ERROR = 2  # exit status of whatever the user can mend, as argparse has it
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
SHOWN_NAME = 200  # characters of a path in a message


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; it raises UserError where argparse would exit."""
    parser = Parser(prog="lacos-st", description="Sentence embeddings from decoder language models, in 8 bits.")
    parser.add_argument("--version", action="version", version=f"lacos-st {_version()}")
    parser.add_argument("-v", "--verbose", action="store_true", help="log what is done")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    for command in COMMANDS:
        command.add(commands)
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
    except OSError as error:
        if error.filename is None:
            raise
        name = str(error.filename)
        name = name if len(name) <= SHOWN_NAME else f"{name[:SHOWN_NAME]}..."
        print(
            f"lacos-st: error: {name!r}: {error.strerror}: check the path, who may read and write it, and its disk",
            file=sys.stderr,
        )
        return USER_ERROR
    except KeyboardInterrupt:
        print("lacos-st: interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0
