"""`lacos-st quantization`."""

from __future__ import annotations

import argparse
import json
from typing import Any

from lacos_st.commands.parsing import add_command
from lacos_st.errors import UserError

EXAMPLES = (
    "lacos-st quantization SmolLM2-135M-Instruct.Q4_1.gguf",
    "lacos-st quantization bigscience/bloom-560m --block-size 64 256 --json",
)


def quantization(arguments: argparse.Namespace) -> None:
    """What 8-bit storage would lose in each layer of a base, by code and block, and which code loses least."""
    from lacos_st.embedded import resolve
    from lacos_st.layer_errors import as_json, layer_errors, lines
    from lacos_st.loading import load_base, read_config
    from lacos_st.quantizer import UNUSED

    path = resolve(arguments.base)
    config = read_config(path)
    if getattr(config, "quantization_config", None) is not None:
        raise UserError(
            f"{arguments.base} is quantised already (quantization_config in its config.json): what it lost cannot be "
            "told any more: name the float base that it was made from"
        )
    model = load_base(path, config, quantization=None, dtype="auto").model
    try:
        report = layer_errors(model, block_sizes=arguments.block_size or (), skip=[*arguments.skip, *UNUSED])
    except ValueError as error:
        raise UserError(str(error)) from error
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
