"""Embeddings in the precision of the shards: floats, or sentence-transformers' own quantisation with fixed ranges."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from lacos_st.corpus.options import Precision
from lacos_st.errors import UserError

logger = logging.getLogger(__name__)

RANGED = ("int8", "uint8")
PACKED = ("binary", "ubinary")
DTYPES = {"float32": "float32", "float16": "float16", "int8": "int8", "uint8": "uint8"}
DTYPES |= {"binary": "int8", "ubinary": "uint8"}
FLOATS = ("float32", "float16")
FEW_ROWS = 100
"""Calibration rows below which sentence-transformers' `quantize_embeddings` warns."""


def width(precision: Precision, dimension: int) -> int:
    """Numbers that an embedding of `dimension` takes: an eighth, rounded up, where its signs are packed into bytes."""
    return -(-dimension // 8) if precision in PACKED else dimension


def ranges_of(sample: np.ndarray) -> np.ndarray:
    """Least and greatest value of each dimension, float32 (2, H), of a sample (n, H), n at least 1."""
    return np.stack([sample.min(0), sample.max(0)]).astype(np.float32)


def check_ranges(ranges: np.ndarray, *, rows: int) -> None:
    """Refuse ranges that hold nothing; warn where they are of few rows.

    Args:
        ranges: float32 (2, H) of `ranges_of`.
        rows: that they are of.

    Raises:
        UserError: The least value of a dimension is its greatest: every embedding would have one code there.
    """
    flat = int((ranges[0] >= ranges[1]).sum())
    if flat:
        raise UserError(
            f"{flat} of {ranges.shape[1]} dimensions do not vary in the {rows} calibration rows, so that int8 and "
            "uint8 would say nothing there: calibrate on more, or more varied, rows (--calibration-rows), or choose "
            "float16"
        )
    if rows < FEW_ROWS:
        logger.warning(
            "the ranges of int8 and uint8 are those of %d rows, and what lies outside them is clipped: calibrate on "
            "%d or more (--calibration-rows), or choose float16",
            rows,
            FEW_ROWS,
        )


def convert(embeddings: np.ndarray, precision: Precision, ranges: np.ndarray | None) -> tuple[np.ndarray, int]:
    """Embeddings as a shard stores them.

    Args:
        embeddings: float32 (n, H).
        precision: what is wanted.
        ranges: float32 (2, H) of `ranges_of`, for int8 and uint8.

    Returns:
        (n, `width`) in the dtype of `DTYPES`; and how many values lay outside the ranges and were clipped.

    Raises:
        UserError: A value is beyond what float16 holds.
    """
    from sentence_transformers.util import quantize_embeddings

    if precision == "float32":
        return np.ascontiguousarray(embeddings, dtype=np.float32), 0
    if precision == "float16":
        half = embeddings.astype(np.float16)
        if not np.isfinite(half).all():
            raise UserError(f"an embedding reaches {np.abs(embeddings).max():g}, beyond float16: choose float32")
        return half, 0
    options: dict[str, Any] = {}
    clipped = 0
    if precision in RANGED:
        assert ranges is not None, "int8 and uint8 have ranges"
        options["ranges"] = ranges
        clipped = int(((embeddings < ranges[0]) | (embeddings > ranges[1])).sum())
    stored: Any = quantize_embeddings(np.asarray(embeddings, dtype=np.float32), precision=precision, **options)
    return np.ascontiguousarray(stored), clipped
