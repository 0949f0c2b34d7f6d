"""Rows of training data as files, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets

ROWS = [
    ("entailment", "A cat naps.", "A cat sleeps."),
    ("neutral", "A cat naps.", "It dreams."),
    ("contradiction", "A", "B"),
]
PAIR = {"anchor": "A cat naps.", "positive": "A cat sleeps."}


def put(path: Path, text: str) -> str:
    path.write_bytes(text.encode("utf-8", errors="surrogateescape"))
    return str(path)


def tsv(rows: list[tuple[str, ...]]) -> str:
    return "".join("\t".join(row) + "\n" for row in rows)


def rows_of(data: datasets.Dataset) -> set[tuple[Any, ...]]:
    return {tuple(row.values()) for row in data}
