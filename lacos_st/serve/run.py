"""One server: the model loaded, the port opened, requests served until it is told to stop."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from lacos_st.errors import UserError
from lacos_st.serve.options import ServeOptions

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def serve(options: ServeOptions, *, log_level: str = "warning", on_start: Callable[[str], None] | None = None) -> None:
    """Serve a model until SIGINT or SIGTERM; what was asked before is answered first.

    Args:
        options: what is served, and where.
        log_level: of the server's own log.
        on_start: told the address when it listens.

    Raises:
        UserError: the model cannot be loaded, the address is taken, a key is named that is not set or that no client
            could send, or the packages of the extra `serve` are missing.
    """
    try:
        import uvicorn

        from lacos_st.serve.app import create_app
    except ImportError as error:
        raise UserError(f'a server needs {error.name}: pip install "lacos_st[serve]"') from error
    from lacos_st.serve.own_thread import OwnThread
    from lacos_st.text_encoder import TextEncoder

    key = None if options.api_key_env is None else _key(options.api_key_env)
    with _listen(options) as listening:
        load = partial(
            TextEncoder.load,
            options.model,
            device=options.device,
            batch_size=options.batch_size,
            prompt=options.prompt,
            prompt_name=options.prompt_name,
        )
        encoder = OwnThread(load)
        app = create_app(encoder, options, key=key)
        server = uvicorn.Server(uvicorn.Config(app, log_level=log_level, access_log=False))
        host, port = listening.getsockname()[:2]
        if on_start is not None:
            on_start(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        with suppress(KeyboardInterrupt):  # Ctrl-C is how a server is stopped: no error
            server.run(sockets=[listening])


def _key(name: str) -> str:
    """The key in an environment variable, without the blanks and line ends around it, which no header would keep."""
    key = os.environ.get(name, "").strip()
    if not key:
        raise UserError(f"the environment variable {name} is not set, or blank: put the key there")
    if not (key.isascii() and key.isprintable()):
        raise UserError(
            f"the key in the environment variable {name} holds what a header cannot: choose one of printable ASCII"
        )
    return key


def _listen(options: ServeOptions) -> socket.socket:
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        return socket.create_server((options.host, options.port), family=family)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"cannot listen on {options.host}, port {options.port} ({error}): choose another --port (0: any that is "
            "free), or a --host of this machine"
        ) from error
