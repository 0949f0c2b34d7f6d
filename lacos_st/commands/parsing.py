"""What the commands of the command line share: a parser that raises, and how options are shown."""

from __future__ import annotations

import argparse
import typing
from collections.abc import Callable
from typing import Any, Literal, NoReturn

from lacos_st.errors import UserError


class Parser(argparse.ArgumentParser):
    """An argument parser that raises UserError where argparse would exit."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "allow_abbrev": False})  # an abbreviation would break when options are added

    def error(self, message: str) -> NoReturn:
        """Raise instead of leaving the process."""
        raise UserError(f"{message} (see {self.prog} --help)")


def add_command(commands: Any, name: str, run: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
    """A command whose help is the docstring of its function, which is called with the parsed arguments."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
    parser.set_defaults(run=run)
    return parser


def choices(hint: Any) -> tuple[Any, ...]:
    """The values of a Literal, also of one that may be None."""
    if typing.get_origin(hint) is Literal:
        return typing.get_args(hint)
    return next((found for part in typing.get_args(hint) if (found := choices(part))), ())
