"""`lacos-st serve`."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from lacos_st.commands.parsing import add_command
from lacos_st.options import build_options
from lacos_st.serve.options import ServeOptions

OPTIONS = {field.name: field for field in dataclasses.fields(ServeOptions)}

EXAMPLES = (
    "lacos-st serve run/model",
    "lacos-st serve bloom-nano --port 9000 --name my-model",
    "lacos-st serve run/model --host 0.0.0.0 --api-key-env LACOS_KEY",
)


def serve(arguments: argparse.Namespace) -> None:
    """Serve a model over HTTP: OpenAI's embeddings API, similarity, health, metrics and a page to try it."""
    given = {name: value for name, value in vars(arguments).items() if name in OPTIONS}
    options = build_options(ServeOptions, given, source="options")

    from lacos_st.serve.run import LOOPBACK
    from lacos_st.serve.run import serve as run

    def started(address: str) -> None:
        if arguments.quiet:
            return
        reach = "this machine only" if options.host in LOOPBACK else "whoever reaches this machine"
        print(f"{address} for {reach}: the page, {address}/v1/embeddings, /similarity, /health, /metrics", flush=True)
        if options.host not in LOOPBACK and options.api_key_env is None:
            print("no key is asked for: give --api-key-env where strangers can reach this address", flush=True)

    run(options, log_level="info" if arguments.verbose else "warning", on_start=started)


def add(commands: Any) -> None:
    """Add the command to the command line."""
    parser = add_command(commands, "serve", serve, examples=EXAMPLES)
    for name, field in OPTIONS.items():
        default = "" if field.default in (None, dataclasses.MISSING) else f" [{field.default}]"
        text = (field.metadata["help"] + default).replace("%", "%%")
        if field.default is dataclasses.MISSING:
            parser.add_argument(name, metavar=name.upper(), help=text)
        else:  # text: build_options converts and checks it
            parser.add_argument(
                "--" + name.replace("_", "-"),
                metavar=name.rpartition("_")[2].upper(),
                default=argparse.SUPPRESS,
                help=text,
            )
