"""`lacos-st demo`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lacos_st.commands.parsing import add_command

EXAMPLES = (
    "lacos-st demo --quick",
    "lacos-st demo --data DIR --output lacos-demo",
)


def demo(arguments: argparse.Namespace) -> None:
    """The paper in miniature, offline: train lacos and the sbert baseline on embedded models and compare them."""
    from lacos_st.demo import run

    for line in run(output=arguments.output, data=arguments.data, quick=arguments.quick, overwrite=arguments.overwrite):
        print(line, flush=True)


def add(commands: Any) -> None:
    """Add the command to the command line."""
    parser = add_command(commands, "demo", demo, examples=EXAMPLES)
    parser.add_argument("--data", type=Path, metavar="DIR", help="real data (nli/ and sts/) instead of the synthetic")
    parser.add_argument("--output", type=Path, default=Path("lacos-demo"), metavar="DIR", help="folder [lacos-demo]")
    parser.add_argument("--quick", action="store_true", help="a reduced setting that shows only that everything runs")
    parser.add_argument("--overwrite", action="store_true", help="replace the demo that the output folder holds")
