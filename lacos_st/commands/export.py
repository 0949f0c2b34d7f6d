"""`lacos-st export`."""

from __future__ import annotations

import argparse
import dataclasses
import typing
from typing import Any

from lacos_st.commands.parsing import add_command, choices
from lacos_st.export.options import ExportOptions
from lacos_st.options import build_options

OPTIONS = {field.name: field for field in dataclasses.fields(ExportOptions)}
GIB = 2**30

EXAMPLES = (
    "lacos-st export run/model plain",
    "lacos-st export run/model adapter --format adapter",
    "lacos-st export run/model graph --format onnx --results results/",
)


def export(arguments: argparse.Namespace) -> None:
    """Write a trained model in a form that other libraries load without this one, and compare the two."""
    given = {name: value for name, value in vars(arguments).items() if name in OPTIONS}
    options = build_options(ExportOptions, given, source="options").checked()

    from transformers.utils import logging

    logging.disable_progress_bar()  # of each of several loadings
    logging.set_verbosity_error()

    from lacos_st.export.run import export_model

    done = export_model(options)
    what = f"{done.format}, {done.dtype}" if done.dtype else done.format
    print(f"{done.output}: {what}, {done.bytes / GIB:.3f} GiB in {done.seconds:.1f} s; base weights: {done.weights}")
    print(f"least cosine to the trained model over the probe sentences: {done.fidelity}")
    if done.onnx_cosine is not None:
        print(f"the same of the graph in onnxruntime: {done.onnx_cosine:.6f}")


def add(commands: Any) -> None:
    """Add the command to the command line."""
    parser = add_command(commands, "export", export, examples=EXAMPLES)
    hints = typing.get_type_hints(ExportOptions)
    for name, field in OPTIONS.items():
        default = "" if field.default in (None, dataclasses.MISSING, False) else f" [{field.default}]"
        text = (field.metadata["help"] + default).replace("%", "%%")
        if field.default is dataclasses.MISSING:
            parser.add_argument(name, metavar={"output": "OUT"}.get(name, name.upper()), help=text)
        elif hints[name] is bool:
            parser.add_argument(f"--{name}", action="store_true", default=argparse.SUPPRESS, help=text)
        else:  # text: build_options converts and checks it
            metavar = "|".join(choices(hints[name])) or name.upper()
            parser.add_argument(f"--{name}", metavar=metavar, default=argparse.SUPPRESS, help=text)
