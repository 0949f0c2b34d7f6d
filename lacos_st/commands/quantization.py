"""`lacos-st quantization`."""

from __future__ import annotations

import argparse
import json
from typing import Any

from lacos_st.commands.parsing import add_command

EXAMPLES = (
    "lacos-st quantization SmolLM2-135M-Instruct.Q4_1.gguf",
    "lacos-st quantization bigscience/bloom-560m --block-size 64 256 --json",
)


def quantization(arguments: argparse.Namespace) -> None:
    """What 8-bit storage would lose in each layer of a base, by code and block, and which code loses least."""
    from lacos_st.base_errors import base_errors
    from lacos_st.layer_errors import as_json, lines

    report = base_errors(arguments.base, block_sizes=arguments.block_size or (), skip=arguments.skip)
    if arguments.json:
        print(json.dumps({"base": arguments.base, "layers": as_json(report)}, indent=2))
        return
    print(f"{arguments.base}: relative error in %, of the Frobenius norm (of the largest value)")
    for line in lines(report):
        print(line)


def add(commands: Any) -> None:
    """Add the command to the command line."""
    parser = add_command(commands, "quantization", quantization, examples=EXAMPLES)
    parser.add_argument("base", metavar="BASE", help="with float weights: folder, hub name or GGUF file")
    parser.add_argument(
        "--block-size",
        type=int,
        nargs="+",
        metavar="N",
        help="weights per absmax [64 and the largest up to 256 that divides every width]",
    )
    parser.add_argument(
        "--skip", nargs="+", metavar="NAME", default=[], help="names, or their ends, of layers left out"
    )
    parser.add_argument("--json", action="store_true", help="plain numbers, for other programs")
