"""`lacos-st`: the commands put together, and what their errors become on a terminal."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib.metadata import PackageNotFoundError, version

from lacos_st.commands import (
    completion,
    cost,
    demo,
    doctor,
    encode,
    evaluate,
    export,
    fit,
    memory,
    merge,
    plan,
    push,
    quantization,
    report,
    serve,
    sweep,
    train,
)
from lacos_st.commands.parsing import Parser, add_logging
from lacos_st.errors import UserError

COMMANDS = (
    train,
    merge,
    evaluate,
    report,
    encode,
    export,
    push,
    serve,
    memory,
    cost,
    quantization,
    plan,
    sweep,
    fit,
    demo,
    doctor,
    completion,
)
TOUR = """a tour:
  lacos-st doctor                                             what works on this machine
  lacos-st demo --quick                                       everything once, offline
  lacos-st memory bloom-7b1 --budget 24GiB                    what fits, before anything is loaded
  lacos-st train --base bloom-nano --data pairs.tsv --output run
  lacos-st evaluate run/model bloom-nano --data DIR           scores side by side
  lacos-st report run scores                                  a page to look at, without a network
  lacos-st encode run/model sentences.tsv vectors --column 1  a corpus to embeddings
  lacos-st export run/model plain                             for other libraries, merged
  lacos-st serve run/model                                    an OpenAI-compatible API, and a page to try it
  lacos-st plan --flops 1e17                                  which base, data and method a budget buys

An interrupted train, encode or sweep goes on where it stopped: train --output run --resume; encode and sweep by the
same command. lacos-st COMMAND --help shows the options and examples of each.

exit status: 0 done; 2 something that you can mend, named in one line on standard error; 130 interrupted (Ctrl-C);
1 a defect of lacos-st itself, with a traceback."""
QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
}
USER_ERROR = 2  # exit status of whatever the user can mend, as argparse has it
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
SHOWN_NAME = 200  # characters of a path in a message


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; it raises UserError where argparse would exit."""
    parser = Parser(
        prog="lacos-st", description="Sentence embeddings from decoder language models, in 8 bits.", epilog=TOUR
    )
    parser.add_argument("--version", action="version", version=f"lacos-st {_version()}")
    add_logging(parser)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    for command in COMMANDS:
        command.add(commands)
    parser.set_defaults(parser=parser)  # for the command that describes them all
    return parser


def _version() -> str:
    try:
        return version("lacos_st")
    except PackageNotFoundError:
        return "(not installed)"


@contextmanager
def hushed() -> Iterator[None]:
    """Nothing is logged below errors and no library shows a bar of progress, here and in processes started then."""
    from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

    loggers = [logging.getLogger(), logging.getLogger("lacos_st")]
    levels = [logger.level for logger in loggers]
    before, bars = {name: os.environ.get(name) for name in QUIET}, is_progress_bar_enabled()
    os.environ.update(QUIET)
    disable_progress_bar()  # it was imported with the package, before these variables were set
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        if bars:
            enable_progress_bar()


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status: 0, 2 for what the user can mend, 130 when interrupted."""
    try:
        arguments = build_parser().parse_args(argv, argparse.Namespace(verbose=False, quiet=False))
        logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
        logging.getLogger("lacos_st").setLevel(logging.INFO if arguments.verbose else logging.WARNING)
        with hushed() if arguments.quiet else nullcontext():
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
