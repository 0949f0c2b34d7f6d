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


VALUES: dict[str, dict[str, tuple[str, ...]]] = {
    "train": {
        "--base": ("base", "whole", "adapter", "bloom-nano"), "--data": ("pairs.tsv", "pairs.csv", "nli.jsonl", "."),
        "--method": ("lacos", "lora", "full", "freeze", "bias", "sbert"), "--pooling": ("weightedmean", "lasttoken",
        "cls", "max", "mean_sqrt_len_tokens", "median"), "--preset": ("paper", "recipe"),
        "--max-seq-length": ("1", "3", "64", "none", "0"), "--lora-rank": ("1", "2", "16", "64", "0"),
        "--lora-alpha": ("1", "0.5", "32", "-1", "1e30"), "--lora-dropout": ("0.1", "0.9", "1", "-0.1"),
        "--lora-targets": ("paper", "all-linear", "dense", "query_key_value", "x"), "--adapter-dtype": ("bfloat16",),
        "--code": ("linear", "dynamic"), "--block-size": ("16", "32", "64", "256", "7"),
        "--alibi": ("reference", "exact"), "--embedding-device": ("cpu", "none"), "--dtype": ("bfloat16", "float16"),
        "--frozen-blocks": ("0", "1", "2", "3"), "--scale": ("1", "100", "1e30", "1e-30", "nan"),
        "--optimizer": ("adamw", "adam8bit"), "--lr": ("1e-3", "1", "1e30", "1e-30", "0", "none"),
        "--batch-size": ("2", "3", "5", "1000", "1"), "--gradient-accumulation": ("2", "3", "100", "0"),
        "--epochs": ("0.1", "1", "3", "0"), "--warmup": ("0", "0.5", "1", "100", "-1"),
        "--scheduler": ("cosine", "constant_with_warmup", "linear"), "--weight-decay": ("0.1", "1e30", "-1"),
        "--max-grad-norm": ("0", "1e-30", "1e30"), "--autocast": ("bfloat16", "float16"),
        "--mini-batch-size": ("1", "2", "3", "1000", "0"), "--seed": ("0", "1", "4294967295", "99999999999", "-1"),
        "--max-rows": ("1", "2", "7", "1000", "0"), "--on-bad-row": ("skip", "error", "x"),
        "--exclude-sts": ("sts", "sts2", "none"), "--eval-rows": ("0", "1", "2", "1000", "-1"),
        "--eval-data": ("pairs.csv", "nli.jsonl"), "--eval-sts": ("graded.tsv", "pairs.tsv", "none"),
        "--eval-steps": ("1", "2", "1000", "0"), "--best": ("sts", "loss"), "--log-steps": ("1", "1000", "0"),
        "--output": ("out", "other/out", "pairs.tsv", "base", "\u00e9"), "--max-steps": ("1", "2"),
    },
    "evaluate": {
        "--data": ("sts", "sts2", ".", "base"), "--batch-size": ("1", "3", "1000", "0", "-1"),
        "--device": ("cpu", "cp", "cuda:9", "meta", "cpu:0"), "--tasks": ("graded", "Graded", "STS12"),
        "--output": ("out", "other/out", "pairs.tsv", "base"), "--baseline": ("whole", "base", "bloom-nano", "x"),
    },
    "encode": {
        "--column": ("anchor", "positive", "premise", "1", "2", "0", "9", "x", ""), "--device": ("cpu",
        "cp", "cuda:9", "meta", "cpu:0"), "--id-column": ("positive", "label", "2", "x"), "--format": ("npy", "parquet",
        "csv"), "--precision": ("float16", "int8", "uint8", "binary", "ubinary", "int4"), "--truncate-dim": ("1", "8",
        "64", "65", "0"), "--prompt": ("query: ", "", "%s"), "--prompt-name": ("query", "x"), "--on-bad-row": ("skip",
        "error", "x"), "--batch-size": ("1", "1000", "0"), "--shard-rows": ("1", "1000", "20", "0"),
        "--calibration-rows": ("1", "3", "1000", "0"), "--workers": ("1", "0", "-1"),
    },
    "memory": {
        "--batch-size": ("1", "1000000", "0"), "--length": ("1", "1e9", "0.5", "nan"), "--rank": ("1", "999", "0"),
        "--frozen-blocks": ("0", "1", "2", "99"), "--block-size": ("16", "1", "7", "0"), "--method": ("lora", "x"),
        "--mini-batch": ("1", "1000", "0"), "--dtype": ("bfloat16", "float16", "int8"), "--device": ("cuda", "cpu"),
        "--optimizer": ("adamw", "adam8bit"), "--embedding-device": ("cpu", "cuda"),
        "--budget": ("1MiB", "1KiB", "0", "16 GB", "1e30", "nan", "-1GiB"),
    },
    "cost": {
        "--pairs": ("1", "2e5", "200k", "0", "1e30", "nan"), "--tokens": ("1e9", "3B"), "--length": ("1", "1e9", "0"),
        "--batch-size": ("1", "1000000", "0"), "--rank": ("1", "999", "0"), "--frozen-blocks": ("0", "1", "2", "99"),
        "--targets": ("recipe", "all-linear", "dense", "x"), "--dtype": ("bfloat16", "float16"),
        "--cached": ("1", "1000", "0"), "--serve-tokens": ("1e12", "0", "-1"), "--method": ("freeze", "bias", "x"),
    },
    "plan": {
        "--flops": ("1e15", "2.5 EFLOP", "3 PFLOP-days", "1", "0", "-1", "nan", "1e40"), "--hours": ("1", "90min", "0"),
        "--gpu": ("h100", "a100", "x"), "--memory": ("16GiB", "1KiB", "0"), "--pairs": ("2e6", "1", "0", "nan"),
        "--serve-tokens": ("1e9", "1e30", "-1"), "--utilization": ("0.5", "0", "2"), "--length": ("1", "1e9", "0"),
        "--batch-size": ("1", "100000", "0"), "--dtype": ("bfloat16", "int8"), "--family": ("bloom", "base", "x"),
        "--law": ("paper", "runs.csv", "x"), "--runs": ("runs.csv", "pairs.tsv"), "--yaml": ("base", "pairs.tsv"),
        "--data": ("nli.jsonl", "x"), "--output": ("out", "base"),
    },
    "fit": {
        "--output": ("laws.json", "no/such/laws.json", "base", "pairs.tsv"), "--methods": ("full", "lacos", "x"),
        "--family": ("toy", "x", ""), "--forms": ("ND", "SND", "x"), "--bootstrap": ("1", "2", "0", "-1", "x"),
        "--seed": ("0", "7", "-1", "1e3"), "--budgets": ("1e13", "1e12", "1e30", "1", "0", "-1", "nan", "inf", "1P"),
    },
}  # fmt: skip
"""By command and option, values of which most are good: what a user may well write, and the edges of it."""

SWITCHES = {
    "train": (
        "--no-cpu",
        "--overwrite",
        "--allow-duplicates",
        "--gradient-checkpointing",
        "--fit",
        "--force",
        "--resume",
    ),
    "evaluate": ("--overwrite",),
    "encode": ("--normalize", "--keep-text", "--header", "--no-header", "--resume", "--overwrite", "--quiet"),
    "memory": ("--checkpointing",),
    "cost": ("--checkpointing", "--json"),
    "plan": ("--extrapolate", "--json", "--overwrite"),
    "fit": ("--extrapolate", "--json", "--overwrite"),
}


def vary_arguments(rng: Random, arguments: list[str]) -> list[str]:
    """One change to a command line that leaves it a sensible one: an option with another value, one more, one less.

    Args:
        rng: Chooses.
        arguments: A command of `VALUES` and its arguments.
    """
    found = list(arguments)
    values = VALUES[found[0]]
    given = [option for option in values if option in found]
    kind = rng.randrange(10)
    if kind == 0 and given:
        place = found.index(rng.choice(given))
        del found[place : place + 2]
    elif kind == 1:
        found.append(rng.choice(SWITCHES[found[0]]))
    else:
        option = rng.choice(given if kind < 5 and given else list(values))
        value = rng.choice(values[option])
        if option in found:
            found[found.index(option) + 1] = value
        else:
            found += [option, value]
    return found
