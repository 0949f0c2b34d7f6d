"""The application: paths to answers."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any, Protocol

import numpy as np
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.routing import Route

from lacos_st.serve.batching import Batcher, Busy
from lacos_st.serve.errors import ApiError, of_validation
from lacos_st.serve.gate import Gate
from lacos_st.serve.limits import BodyLimit
from lacos_st.serve.metrics import Metrics
from lacos_st.serve.options import ServeOptions
from lacos_st.serve.requests import (
    EmbeddingsRequest,
    SimilarityRequest,
    as_json,
    embeddings_answer,
    shortened,
    texts_of,
)


class Encoder(Protocol):
    """What the application needs of a model."""

    dimension: int
    limit: int | None

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings, float32 (n, dimension)."""

    def count(self, texts: Sequence[str]) -> np.ndarray:
        """Tokens of each text, uncut."""


def create_app(encoder: Encoder, options: ServeOptions, *, key: str | None = None) -> FastAPI:
    """The application for one model.

    Args:
        encoder: of texts; called by one thread.
        options: names and limits.
        key: that clients have to send as `Authorization: Bearer KEY`; None for none.
    """
    name = options.name or options.model.rstrip("/").rpartition("/")[2]
    metrics = Metrics(lambda: batcher.waiting)
    batcher = Batcher(encoder.encode, most=options.max_batch, room=options.max_waiting, on_batch=metrics.batch)
    counts = Batcher(encoder.count, most=options.max_batch, room=sys.maxsize)  # what the model takes, is counted

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(batcher.close)
        await asyncio.to_thread(counts.close)

    app = FastAPI(title="lacos-st", lifespan=lifespan)
    app.add_middleware(BodyLimit, most=options.max_body_mib * 2**20)
    paths: set[str] = set()
    app.add_middleware(Gate, metrics=metrics, key=key, paths=paths)  # outermost: what BodyLimit refuses is counted too
    page = files("lacos_st.serve").joinpath("page.html").read_text(encoding="utf-8")

    async def embed(texts: list[str]) -> tuple[np.ndarray, int]:
        try:
            waiting = batcher.submit(texts)
        except Busy as error:
            raise ApiError(str(error), status=429, kind="rate_limit_error", code="busy") from error
        counted = asyncio.wrap_future(counts.submit(texts))
        found, tokens = await asyncio.gather(asyncio.wrap_future(waiting), counted)
        metrics.tokens.inc(int(tokens.sum()))
        return found, int(tokens.sum())

    @app.post("/v1/embeddings")
    async def embeddings(body: EmbeddingsRequest) -> Response:
        if body.model not in (None, name):
            raise ApiError(
                f"model is {body.model!r}: this server has {name!r}", status=404, param="model", code="model_not_found"
            )
        texts = texts_of(body.input, options, param="input")
        shortened(np.empty((0, encoder.dimension)), body.dimensions)  # refused before anything is computed
        found, tokens = await embed(texts)
        found = shortened(found, body.dimensions)
        answer = embeddings_answer(found, encoding=body.encoding_format, model=name, tokens=tokens)
        return Response(as_json(answer), media_type="application/json")

    @app.post("/similarity")
    async def similarity(body: SimilarityRequest) -> Response:
        a = texts_of(body.a, options, param="a")
        b = a if body.b is None else texts_of(body.b, options, param="b")
        found, tokens = await embed(a if body.b is None else [*a, *b])
        unit = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
        cosine = unit[: len(a)] @ unit[-len(b) :].T
        answer = {"similarity": np.ascontiguousarray(cosine), "model": name, "usage": {"total_tokens": tokens}}
        return Response(as_json(answer), media_type="application/json")

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": name, "object": "model", "owned_by": "lacos_st"}]}

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {
            "status": "ok",
            "model": name,
            "dimensions": encoder.dimension,
            "max_tokens": encoder.limit,
            "waiting_texts": batcher.waiting,
        }

    @app.get("/metrics")
    async def counters() -> Response:
        return Response(metrics.text(), media_type=metrics.media_type)

    @app.get("/")
    async def playground() -> Response:
        return HTMLResponse(page)

    @app.exception_handler(ApiError)
    async def refused(_: Request, error: ApiError) -> Response:
        return JSONResponse(error.body(), error.status, headers={"Retry-After": "1"} if error.status == 429 else None)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        said = of_validation(error.errors())
        return JSONResponse(said.body(), said.status)

    @app.exception_handler(HTTPException)
    async def of_http(request: Request, error: HTTPException) -> Response:
        said = ApiError(f"{request.method} {request.url.path}: {error.detail}", status=error.status_code)
        return JSONResponse(said.body(), said.status, headers=error.headers)

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        said = ApiError(f"the model failed: {type(error).__name__}", status=500, kind="server_error")
        return JSONResponse(said.body(), said.status)

    paths |= {route.path for route in app.routes if isinstance(route, Route)}
    return app
