"""`lacos-st merge`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lacos_st.commands.parsing import add_command

EXAMPLES = (
    "lacos-st merge both german/model english/model",
    "lacos-st merge both german/model english/model --weights 0.7 0.3",
)


def merge(arguments: argparse.Namespace) -> None:
    """One model from several that were trained apart on the same base: the weighted mean of their adapters."""
    from lacos_st.merge import merge_folders

    result: Any = merge_folders(Path(arguments.output), arguments.models, arguments.weights)
    print(f"{len(arguments.models)} adapters, rank {result[0].lora_rank}: {arguments.output}")


def add(commands: Any) -> None:
    """Add the command to the command line."""
    parser = add_command(commands, "merge", merge, examples=EXAMPLES)
    parser.add_argument("output", metavar="OUT", help="a folder that is not there yet")
    parser.add_argument("models", nargs="+", metavar="MODEL", help="folders of models, saved without their base")
    parser.add_argument("--weights", nargs="+", type=float, metavar="W", help="one for each [the same, their sum 1]")
