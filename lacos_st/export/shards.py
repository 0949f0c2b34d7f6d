"""Safetensors files written row by row: no more of a tensor is in memory than the rows at hand.

The safetensors package writes a file from whole tensors, and copies each: twice the 2 GB of BLOOM-7b1's embedding. The
format is short: the length of the header, the header (JSON) and the values, one tensor after the other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import torch

from lacos_st.errors import UserError
from lacos_st.export.folding import Slot
from lacos_st.folder import INDEX, WEIGHTS

SHARD_BYTES = 2 * 10**9
"""Largest size of a shard that holds more than one tensor."""

NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64", torch.bool: "BOOL"}
ALIGNMENT = 8


def write_shards(
    folder: Path,
    slots: Sequence[Slot],
    tensors: Iterable[tuple[Slot, Iterator[torch.Tensor]]],
    *,
    dtype: torch.dtype,
    shard_bytes: int = SHARD_BYTES,
) -> int:
    """Write tensors as one safetensors file, or as shards and their index.

    Args:
        folder: to write into.
        slots: what will come, in order.
        tensors: that, each with its rows.
        dtype: that floats are written in.
        shard_bytes: see `SHARD_BYTES`.

    Returns:
        Bytes of all tensors.

    Raises:
        UserError: a value is beyond the range of `dtype`.
    """
    shards = _shards(slots, dtype, shard_bytes)
    names = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    names = [WEIGHTS] if len(shards) == 1 else names
    coming = iter(tensors)
    for name, shard in zip(names, shards, strict=True):
        with (folder / name).open("wb") as file:
            file.write(_header(shard, dtype))
            for slot in shard:
                found, rows = next(coming)
                assert found is slot
                _write(file, slot, rows, dtype)
    assert next(coming, None) is None  # and what comes after the last tensor has been done
    total = sum(_bytes(slot, dtype) for slot in slots)
    if len(shards) > 1:
        places = {slot.name: name for name, shard in zip(names, shards, strict=True) for slot in shard}
        text = json.dumps({"metadata": {"total_size": total}, "weight_map": places}, indent=2)
        (folder / INDEX).write_text(text + "\n", encoding="utf-8")
    return total


def _write(file: BinaryIO, slot: Slot, rows: Iterator[torch.Tensor], dtype: torch.dtype) -> None:
    wanted, written = _dtype(slot, dtype), 0
    for part in rows:
        values = part.to(wanted)
        if values.is_floating_point() and not bool(values.isfinite().all()):
            raise UserError(
                f"{slot.name} holds a value that {str(dtype).removeprefix('torch.')} cannot hold "
                f"({float(part.abs().max()):.3g}): choose --dtype bfloat16 or float32"
            )
        written += values.nbytes
        file.write(values.contiguous().view(-1).view(torch.uint8).numpy().data)
    assert written == _bytes(slot, dtype), slot.name


def _shards(slots: Sequence[Slot], dtype: torch.dtype, limit: int) -> list[list[Slot]]:
    shards: list[list[Slot]] = [[]]
    size = 0
    for slot in slots:
        more = _bytes(slot, dtype)
        if shards[-1] and size + more > limit:
            shards.append([])
            size = 0
        shards[-1].append(slot)
        size += more
    return shards


def _header(shard: Sequence[Slot], dtype: torch.dtype) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for slot in shard:
        end = at + _bytes(slot, dtype)
        entries[slot.name] = {"dtype": NAMES[_dtype(slot, dtype)], "shape": slot.shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _dtype(slot: Slot, dtype: torch.dtype) -> torch.dtype:
    return dtype if slot.dtype.is_floating_point else slot.dtype


def _bytes(slot: Slot, dtype: torch.dtype) -> int:
    return math.prod(slot.shape) * _dtype(slot, dtype).itemsize
