"""`lacos-st push`."""

from __future__ import annotations

import argparse
from typing import Any

from lacos_st.commands.parsing import add_command

EXAMPLES = ("lacos-st push plain me/encoder --private",)


def push(arguments: argparse.Namespace) -> None:
    """Upload a saved or exported model's folder to the hub, with its model card filled in."""
    from lacos_st.export.push import push_folder

    address = push_folder(
        arguments.model,
        arguments.repository,
        private=arguments.private,
        exist_ok=arguments.exist_ok,
        results=arguments.results,
        license=arguments.license,
    )
    print(f"{arguments.model} is at {address}")


def add(commands: Any) -> None:
    """Add the command to the command line."""
    parser = add_command(commands, "push", push, examples=EXAMPLES)
    parser.add_argument("model", metavar="MODEL", help="folder that lacos-st export or save_pretrained wrote")
    parser.add_argument("repository", metavar="REPO", help="OWNER/NAME on the hub; made if it is not there")
    parser.add_argument("--private", action="store_true", help="a new repository is seen by its owners alone")
    parser.add_argument("--exist-ok", action="store_true", help="the repository may be there: its files are replaced")
    parser.add_argument(
        "--results", metavar="FILE", help="results.json of lacos-st evaluate, for a card to be filled in"
    )
    parser.add_argument("--license", metavar="ID", help="for a card to be filled in, such as apache-2.0")
