"""The headers of safetensors files, read and judged before anything is allocated for what they announce."""

from __future__ import annotations

import json
import math
from pathlib import Path

from lacos_st.errors import UserError

HEADER_LIMIT_BYTES = 16 * 2**20
"""Longest header that is read. BLOOM's largest, 176 billion weights in 8 bits, would need a tenth of it."""

MOST_DIMENSIONS = 64
"""More than any tensor has; with sizes below 2^63 it bounds the time that multiplying them takes."""

BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "U16": 16, "I16": 16, "F16": 16,
    "BF16": 16, "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
"""Bits of a value, by the format's names of dtypes."""


def read_header(file: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors in a file, by name; not more of it is read than its header.

    What is checked is what safetensors' format says: the offsets are those of the shapes, cover the rest of the file
    and do not overlap. So no shape stands for more bytes than the file has.

    Raises:
        UserError: the file is missing, truncated, too long, or its header is too large, no JSON or contradicts itself.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if size < 8 or length > min(size - 8, HEADER_LIMIT_BYTES):
                raise ValueError(
                    f"truncated or no safetensors: it has {size} bytes and announces a header of {length}; "
                    f"at most {HEADER_LIMIT_BYTES} are read"
                )
            content = json.loads(opened.read(length))
        return _shapes(content, size - 8 - length)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(f"{file} is missing or broken ({error}): restore it, or fetch or write it again") from error


def _shapes(content: dict[str, dict[str, list[int]]], data_bytes: int) -> dict[str, tuple[int, ...]]:
    """The shapes in a header over `data_bytes` of data; ValueError, TypeError, ... where it contradicts itself."""
    shapes: dict[str, tuple[int, ...]] = {}
    spans = []
    for name, entry in content.items():
        if name == "__metadata__":
            continue
        shape, (begin, end) = tuple(entry["shape"]), entry["data_offsets"]
        bits = BITS.get(str(entry["dtype"]))
        if len(shape) > MOST_DIMENSIONS or any(
            type(value) is not int or not 0 <= value < 2**63 for value in (*shape, begin, end)
        ):
            raise ValueError(
                f"the header's entry for {name[:80]!r} has a shape or an offset that is no whole number "
                "below 2^63, or too many dimensions"
            )
        if bits is None:
            raise ValueError(f"{name[:80]!r} has the dtype {str(entry['dtype'])[:20]!r}, which is not known")
        if math.prod(shape) * bits != (end - begin) * 8:
            raise ValueError(f"the header gives {name[:80]!r} {end - begin} bytes, which its shape does not take")
        spans.append((begin, end))
        shapes[name] = shape
    at = 0
    for begin, end in sorted(spans):
        if begin != at:
            raise ValueError(f"the header leaves a gap or an overlap at byte {at} of the data")
        at = end
    if at != data_bytes:
        damage = "truncated" if at > data_bytes else "too long"
        raise ValueError(f"{damage}: the header announces {at} bytes of data, the file holds {data_bytes}")
    return shapes
