"""What a request may hold, and its answer as OpenAI's API has it."""

from __future__ import annotations

import base64
from typing import Any, Literal

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict

from lacos_st.serve.errors import ApiError
from lacos_st.serve.options import ServeOptions


class EmbeddingsRequest(BaseModel):
    """The body of `/v1/embeddings`."""

    model_config = ConfigDict(extra="ignore", strict=True)

    input: str | list[str] | list[int] | list[list[int]]
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None


class SimilarityRequest(BaseModel):
    """The body of `/similarity`: each of `a` against each of `b`, or of itself."""

    model_config = ConfigDict(extra="forbid", strict=True)

    a: list[str]
    b: list[str] | None = None


def texts_of(given: str | list[str] | list[int] | list[list[int]], options: ServeOptions, *, param: str) -> list[str]:
    """The texts of a field, within the limits.

    Raises:
        ApiError: none, too many, too long, empty ones, half a surrogate pair, or tokens of a tokenizer that is not the
            model's.
    """
    if isinstance(given, str):
        given = [given]
    if not given:
        raise ApiError(f"{param} is empty: expected at least one text", param=param)
    if len(given) > options.max_texts:
        raise ApiError(
            f"{param} holds {len(given)} texts: at most {options.max_texts} in one request",
            param=param,
            code="too_many",
        )
    texts: list[str] = []
    for place, text in enumerate(given):
        if not isinstance(text, str):
            raise ApiError(
                f"{param} holds tokens: expected texts, as this model's tokens are not OpenAI's (LangChain's "
                "OpenAIEmbeddings sends texts with check_embedding_ctx_length=False)",
                param=param,
                code="tokens_not_supported",
            )
        if not text:
            raise ApiError(f"{param}[{place}] is an empty text", param=param)
        if len(text) > options.max_characters:
            raise ApiError(
                f"{param}[{place}] has {len(text)} characters: at most {options.max_characters}",
                param=param,
                code="too_long",
            )
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ApiError(
                f"{param}[{place}] holds half of a surrogate pair ({text[error.start]!a}), which is no character: send "
                "whole characters",
                param=param,
                code="not_unicode",
            ) from error
        texts.append(text)
    return texts


def shortened(embeddings: np.ndarray, dimensions: int | None) -> np.ndarray:
    """The first dimensions of embeddings, of length 1 again, as OpenAI's `dimensions` has it.

    Args:
        embeddings: float32 (n, d).
        dimensions: at most d; None leaves them as they are.

    Raises:
        ApiError: out of that range.
    """
    if dimensions is None:
        return embeddings
    width = embeddings.shape[1]
    if not 1 <= dimensions <= width:
        raise ApiError(f"dimensions is {dimensions}: the model has {width}", param="dimensions")
    first = embeddings[:, :dimensions]
    return first / np.maximum(np.linalg.norm(first, axis=1, keepdims=True), 1e-12)


def embeddings_answer(embeddings: np.ndarray, *, encoding: str, model: str, tokens: int) -> dict[str, Any]:
    """The body of the answer, for `as_json`.

    Args:
        embeddings: float32 (n, d).
        encoding: "float" for lists of numbers, "base64" for little-endian float32.
        model: its name.
        tokens: of all texts.
    """
    rows: Any = np.ascontiguousarray(embeddings, dtype="<f4")
    if encoding == "base64":
        rows = [base64.b64encode(row.tobytes()).decode("ascii") for row in rows]
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": place, "embedding": row} for place, row in enumerate(rows)],
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def as_json(values: dict[str, Any]) -> bytes:
    """JSON in UTF-8, arrays included: a float32 in the fewest digits that are read as the same float32 again."""
    return orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)
