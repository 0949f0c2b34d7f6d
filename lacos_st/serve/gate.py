"""What every request passes: whether it has the key, and that it is counted."""

from __future__ import annotations

import hmac
import time
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lacos_st.serve.errors import ApiError
from lacos_st.serve.metrics import Metrics

OPEN = ("/health", "/")
"""Paths that need no key."""


class Gate:
    """Answers 401 where the key is missing, and counts each request with its status and time.

    Args:
        app: behind it.
        metrics: that count.
        key: that clients have to send as `Authorization: Bearer KEY`; None for none.
        paths: that are counted by their names; strangers shall add none.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics, key: str | None, paths: Collection[str]) -> None:
        self._app, self._metrics, self._key, self._paths = app, metrics, key, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        path = scope["path"]
        known = path if path in self._paths else "other"

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":  # counted before anybody has the answer
                self._metrics.request(known, message["status"], time.perf_counter() - start)
            await send(message)

        if self._key is None or path in OPEN or _has_key(Headers(scope=scope), self._key):
            try:
                await self._app(scope, receive, noted)
            except Exception:  # which becomes an answer further out
                self._metrics.request(known, 500, time.perf_counter() - start)
                raise
            return
        error = ApiError(
            "the key is missing or wrong: send the header Authorization: Bearer KEY",
            status=401,
            kind="authentication_error",
            code="invalid_api_key",
        )
        await JSONResponse(error.body(), error.status)(scope, receive, noted)


def _has_key(headers: Headers, key: str) -> bool:
    kind, _, given = headers.get("authorization", "").partition(" ")
    return kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), key.encode())
