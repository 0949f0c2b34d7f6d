"""The header of a GGUF file: its architecture, its values, and where its tensors lie.

The gguf package's own reader makes several objects of each of a vocabulary's entries: 0.6 GiB and half a minute for
Gemma's 262,144. Here they are passed over. Format: the specification in ggml's repository, docs/gguf.md.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAGIC = b"GGUF"
VERSIONS = (2, 3)
STRING, ARRAY = 8, 9
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""The specification's numbers of the types of values, as `struct` names them."""

ALIGNMENT = 32
"""Bytes that the data of tensors is aligned to where the file does not say otherwise."""

MOST_DIMENSIONS = 4
LEAST_BYTES = 24
"""A tensor takes at least so many in the header: lengths of its name, dimensions and offset."""


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies.

    Attributes:
        name: in the file.
        shape: in the order of torch, rows first.
        kind: of its values, a number of the gguf package's `GGMLQuantizationType`.
        start: byte of the file at which it begins.
    """

    name: str
    shape: tuple[int, ...]
    kind: int
    start: int

    @property
    def values(self) -> int:
        """How many it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """What a file says of its model.

    Attributes:
        architecture: llama.cpp's name of it.
        tensors: in the order of the file.
        fields: its values by their keys; None for an array, which is not read.
    """

    architecture: str
    tensors: list[StoredTensor]
    fields: dict[str, Any]


def read_header(file: Path) -> Header:
    """The header of a file; what its tensors hold is not read.

    Raises:
        ValueError: it is no GGUF file, or damaged.
        OSError: it cannot be read.
    """
    if file.stat().st_size < LEAST_BYTES:
        raise ValueError(f"it has {file.stat().st_size} bytes, fewer than the shortest header")
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return _Reader(content).header()


class _Reader:
    """A place in the header that moves on with what is read."""

    def __init__(self, content: mmap.mmap):
        self.content = content
        self.place = 0

    def header(self) -> Header:
        if self._bytes(4) != MAGIC:
            raise ValueError(f"it does not begin with {MAGIC.decode()}")
        version = self._number("I")
        if version not in VERSIONS:
            raise ValueError(f"its format has the version {version}, known are {' and '.join(map(str, VERSIONS))}")
        tensors, fields = self._number("Q"), self._number("Q")
        if tensors > len(self.content) // LEAST_BYTES:
            raise ValueError(f"it announces {tensors} tensors in {len(self.content)} bytes")
        found: dict[str, Any] = {}
        for _ in range(fields):
            key = self._text()
            found[key] = self._value(self._number("I"))
        known = [self._tensor() for _ in range(tensors)]
        architecture, alignment = found.get("general.architecture"), found.get("general.alignment", ALIGNMENT)
        if not isinstance(architecture, str):
            raise ValueError("it names no architecture (general.architecture)")
        if not isinstance(alignment, int) or alignment < 1:
            raise ValueError(f"its tensors are aligned to {alignment!r} bytes")
        if len({tensor.name for tensor in known}) < len(known):
            raise ValueError("two of its tensors have one name")
        data = -(-self.place // alignment) * alignment
        placed = [StoredTensor(each.name, each.shape, each.kind, data + each.start) for each in known]
        return Header(architecture, placed, found)

    def _tensor(self) -> StoredTensor:
        name = self._text()
        dimensions = self._number("I")
        if dimensions > MOST_DIMENSIONS:
            raise ValueError(f"{name} has {dimensions} dimensions")
        shape = tuple(reversed([self._number("Q") for _ in range(dimensions)]))
        kind = self._number("I")
        return StoredTensor(name, shape, kind, self._number("Q"))

    def _value(self, kind: int) -> Any:
        """A value; None for an array, which is passed over."""
        if kind == STRING:
            return self._text()
        if kind == ARRAY:
            return self._pass_array()
        if kind not in SCALARS:
            raise ValueError(f"a value has the unknown type {kind}")
        return self._number(SCALARS[kind])

    def _pass_array(self) -> None:
        kind, count = self._number("I"), self._number("Q")
        if kind == STRING:
            for _ in range(count):
                self._bytes(self._number("Q"))
        elif kind in SCALARS:
            self._bytes(count * struct.calcsize("<" + SCALARS[kind]))
        else:
            raise ValueError(f"an array holds values of the unknown type {kind}")

    def _text(self) -> str:
        return self._bytes(self._number("Q")).decode()

    def _number(self, code: str) -> Any:
        return struct.unpack("<" + code, self._bytes(struct.calcsize("<" + code)))[0]

    def _bytes(self, count: int) -> bytes:
        end = self.place + count
        if end > len(self.content):
            raise ValueError(f"it ends after {len(self.content)} bytes, within its header")
        taken = self.content[self.place : end]
        self.place = end
        return taken
