"""`lacos-st completion`."""

from __future__ import annotations

import argparse
from typing import Any

from lacos_st.commands.parsing import add_command
from lacos_st.errors import UserError

SHELLS = ("bash", "zsh", "tcsh")

EXAMPLES = (
    "lacos-st completion bash > ~/.local/share/bash-completion/completions/lacos-st",
    'lacos-st completion zsh > "${fpath[1]}/_lacos-st"',
)


def completion(arguments: argparse.Namespace) -> None:
    """A shell's completion of these commands and their options, to be saved where the shell looks for it."""
    try:
        import shtab
    except ImportError as error:
        raise UserError('completion needs shtab: pip install "lacos_st[completion]"') from error
    for action in _actions(arguments.parser):
        if action.nargs != 0 and action.choices is None:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(arguments.parser, arguments.shell))


def _actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Of a parser and its commands."""
    found = []
    for action in parser._actions:
        if isinstance(action.choices, dict):
            found += [inner for command in action.choices.values() for inner in _actions(command)]
        else:
            found.append(action)
    return found


def add(commands: Any) -> None:
    """Add the command to the command line."""
    parser = add_command(commands, "completion", completion, examples=EXAMPLES)
    parser.add_argument("shell", choices=SHELLS, help="whose completion")
