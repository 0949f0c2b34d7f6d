"""Random damage to bytes, JSON, headers of safetensors and command lines, for `benchmarks.fuzz`."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 10**6, 10**12, 2**63, -(2**63), 10**30, 0.0, 1e-9, -0.5, 1e308, float("nan"),
    float("inf"), "", "x", "../x", "/", "\0", "\ud800", "a" * 5000, "bloom", "auto", "float16", "cuda:9", [], {}, [[]],
    ["x"], [None], {"x": 1}, {"": {}},
)  # fmt: skip
ODD_ARGUMENTS = (
    "", " ", "-", "--", "-1", "0", "1", "2", "1e999", "nan", "inf", "1e-400", "99999999999999999999", "0x10", "1_0",
    "none", "null", "true", "x", "x" * 5000, "a\nb", "\u2028", "\udc80", "%s", "{}", "[]", "@x", "no-such-file.tsv",
    "pairs.tsv", "base", "no/such", "a:b@c", "-v", "--help", "--x", "--batch-size", "bloom-1b", "16GiB", "cpu", "0.5",
)  # fmt: skip
"""No path that leaves the working folder: some of these become output folders."""

BYTES = (
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\r\n",
    b"\r",
    b"\n",
    b"\t",
    b'"',
    b",",
    b"{",
    b"}",
    b"[",
    b"-",
    b"\xe2\x80\xa8",
)


def mutate_bytes(rng: Random, data: bytes) -> bytes:
    """One change to `data`: bits, a cut, a piece taken out, put in, doubled or moved."""
    if not data:
        return rng.choice(BYTES)
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.choice((1, 2, 8, 64, 4096)))
    return rng.choice(
        (
            lambda: data[:start] + bytes([data[start] ^ (1 << rng.randrange(8))]) + data[start + 1 :],
            lambda: data[:start],
            lambda: data[:start] + data[end:],
            lambda: data[:end] + data[start:end] + data[end:],
            lambda: data[:start] + rng.choice(BYTES) + data[start:],
            lambda: data[:start] + rng.randbytes(end - start) + data[end:],
            lambda: data[end:] + data[:end],
            lambda: data + data[start:end],
        )
    )()


def mutate_json(rng: Random, data: bytes) -> bytes:
    """One change to a JSON text, which stays JSON: a value replaced, a key taken out, added or renamed, a list cut."""
    content = json.loads(data)
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            if len(places) < 2000:
                places.append((node, key))
                walk(node[key])

    walk(content)
    if not places or rng.random() < 0.02:
        return json.dumps(rng.choice(ODD_VALUES)).encode("utf-8", "surrogatepass")
    node, key = rng.choice(places)
    other = rng.choice(places)
    actions: tuple[Callable[[], Any], ...] = (
        lambda: node.__setitem__(key, rng.choice(ODD_VALUES)),
        lambda: node.__setitem__(key, _near(rng, node[key])),
        lambda: node.__setitem__(key, json.loads(json.dumps(other[0][other[1]]))),
        lambda: node.pop(key),
        lambda: (
            node.update({rng.choice(("", "x", "auto_map", "_commit_hash")): rng.choice(ODD_VALUES)})
            if isinstance(node, dict)
            else node.append(rng.choice(ODD_VALUES))
        ),
        lambda: node.__setitem__(key, _nested(rng)),
    )
    rng.choice(actions)()
    return json.dumps(content).encode("utf-8", "surrogatepass")


def _near(rng: Random, value: Any) -> Any:
    """A value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice((value + 1, value - 1, value * 2, -value, value // 2))
    if isinstance(value, float):
        return value * rng.choice((0.999, 2.0, -1.0, 1e-3))
    if isinstance(value, str):
        return rng.choice((value[1:], value + "x", value.upper(), value[::-1]))
    return value


def _nested(rng: Random) -> Any:
    value: Any = 0
    for _ in range(rng.choice((1, 10, 300))):
        value = [value] if rng.random() < 0.5 else {"x": value}
    return value


def mutate_header(rng: Random, data: bytes) -> bytes:
    """One change to a safetensors file: its length field, its JSON, or any of its bytes."""
    length = int.from_bytes(data[:8], "little")
    kind = rng.randrange(4)
    if kind == 0:
        new = rng.choice((0, 1, length - 1, length + 1, len(data), 2**31, 2**62, 2**64 - 1))
        return new.to_bytes(8, "little") + data[8:]
    if kind == 1:
        return mutate_bytes(rng, data)
    header = (mutate_json if kind == 2 else mutate_bytes)(rng, data[8 : 8 + length])
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def mutate_arguments(rng: Random, arguments: list[str]) -> list[str]:
    """One to three changes to a command line: an argument replaced, taken out, doubled, swapped or cut."""
    found = list(arguments)
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(found)) if found else 0
        kind = rng.randrange(6)
        if not found or kind == 0:
            found.insert(place, rng.choice(ODD_ARGUMENTS))
        elif kind == 1:
            del found[place]
        elif kind == 2:
            found.insert(place, found[place])
        elif kind == 3:
            found[place] = found[place][: rng.randrange(len(found[place]) + 1)]
        else:
            found[place] = rng.choice(ODD_ARGUMENTS)
    return found
