"""What the commands of the command line share: a parser that raises, and how options are shown."""

from __future__ import annotations

import argparse
import typing
from collections.abc import Callable, Sequence
from typing import Any, Literal, NoReturn

from lacos_st.errors import UserError


class Help(argparse.HelpFormatter):
    """Help whose texts of several lines, as examples are, stay as they were written."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)


class Parser(argparse.ArgumentParser):
    """An argument parser that raises UserError where argparse would exit."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", Help)
        super().__init__(**{**kwargs, "allow_abbrev": False})  # an abbreviation would break when options are added

    def error(self, message: str) -> NoReturn:
        """Raise instead of leaving the process."""
        raise UserError(f"{message} (see {self.prog} --help)")


def add_command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], None], *, examples: Sequence[str]
) -> argparse.ArgumentParser:
    """A command whose help is the docstring of its function, which is called with the parsed arguments.

    Args:
        commands: what argparse's `add_subparsers` returned.
        name: of the command.
        run: what it does.
        examples: command lines, shown below the options.
    """
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=run.__doc__, description=run.__doc__, epilog="\n  ".join(["examples:", *examples])
    )
    parser.set_defaults(run=run)
    add_logging(parser)
    return parser


def add_logging(parser: argparse.ArgumentParser) -> None:
    """Add how much is said, which may stand before the command's name as well as behind it."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("-v", "--verbose", action="store_true", default=argparse.SUPPRESS, help="log what is done")
    group.add_argument(
        "-q", "--quiet", action="store_true", default=argparse.SUPPRESS, help="errors and results only: no progress"
    )


def choices(hint: Any) -> tuple[Any, ...]:
    """The values of a Literal, also of one that may be None."""
    if typing.get_origin(hint) is Literal:
        return typing.get_args(hint)
    return next((found for part in typing.get_args(hint) if (found := choices(part))), ())
