"""The sentences that `lacos-st encode` is tested on, and what it wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

WORDS = ["a", "man", "plays", "guitar", "the", "street", "is", "long"]
SENTENCES = [" ".join(WORDS[(i * j) % 8] for j in range(1 + i * 5 % 13)) for i in range(50)]
SENTENCES[7] = SENTENCES[30] = ""
SENTENCES[9] = 'say "hé\u2028llo", दो'
LIMIT = 9


def read(folder: str = "out") -> pyarrow.Table:
    return pyarrow.concat_tables(pyarrow.parquet.read_table(path) for path in sorted(Path(folder).glob("*.parquet")))


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def vectors(table: pyarrow.Table) -> np.ndarray:
    return np.array(table["embedding"].to_pylist())


def contents(folder: str = "out") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.name.startswith("shard-")}
