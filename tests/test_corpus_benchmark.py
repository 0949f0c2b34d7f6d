"""The benchmark of `lacos-st encode`: its check finds lost, doubled and exchanged rows; its quick form runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # for benchmarks, which are not installed

from benchmarks import corpus, readme, rows  # noqa: E402

ROWS = 8


class Model:
    def encode(self, sentences: list[str]) -> np.ndarray:
        return np.array([[len(text)] for text in sentences], dtype=np.float32)


def shard(path: Path, numbers: list[int]) -> None:
    vectors = [[float(len(corpus.sentence(number)))] for number in numbers]
    columns = {"row": numbers, "line": [number + 1 for number in numbers]}
    item = pyarrow.list_(pyarrow.float32(), 1)
    pyarrow.parquet.write_table(pyarrow.table({**columns, "embedding": pyarrow.array(vectors, item)}), path)


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([0, 1, 2, 3, 4, 5, 6, 7], (8, 0)),
        ([0, 1, 2, 3, 5, 6, 7], (7, 6)),  # lost: this one, and all after it are out of place
        ([0, 1, 2, 2, 3, 4, 5, 6, 7], (9, 12)),
        ([0, 2, 1, 3, 4, 5, 6, 7], (8, 4)),
    ],
)
def test_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, numbers: list[int], expected: tuple[int, int]
) -> None:
    monkeypatch.setattr("lacos_st.models.load_model", lambda name: Model())
    monkeypatch.setattr(corpus, "SAMPLE", 1)
    shard(tmp_path / "shard-000000.parquet", numbers[:3])
    shard(tmp_path / "shard-000001.parquet", numbers[3:])
    found = corpus.check(tmp_path, ROWS)
    assert (found["rows"], found["out_of_order"]) == expected
    if expected == (ROWS, 0):
        assert found["max_difference"] == 0


def test_sentences_are_their_rows() -> None:
    assert corpus.sentence(5) == corpus.sentence(5) != corpus.sentence(6)
    assert corpus.sentence(3000) == ""
    assert {len(corpus.sentence(number).split()) for number in range(1, 300)} == set(range(3, 8))


def test_what_readme_says() -> None:
    one = {"sentences_per_second": 1234.5, "tokens_per_second": 8000.1, "peak_bytes": 700 * 2**20}
    runs = {"10": {**one, "killed_after_shards": None}, "1000": {**one, "killed_after_shards": 10}}
    check: dict[str, Any] = {"rows": 1000, "rows_expected": 1000, "out_of_order": 0, "max_difference": 1e-6}
    row = {"model": "bloom-nano", "shards": 20, "runs": runs, "check": check}
    said = " ".join(value for line in readme.corpus_lines(row) for value in line)
    assert "1,234 sentences/s" in said
    assert "700 / 700 MiB" in said
    assert "every row once and in order" in said
    check["out_of_order"] = 1
    assert "**rows lost or out of order**" in " ".join(value for line in readme.corpus_lines(row) for value in line)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_quick_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    row = corpus.main(["--quick"])
    assert row["check"]["rows"] == row["check"]["rows_expected"] == corpus.QUICK[-1]
    assert row["check"]["out_of_order"] == 0
    assert row["check"]["max_difference"] < 1e-5
    assert row["runs"][str(corpus.QUICK[-1])]["killed_after_shards"] >= corpus.SHARDS // 2
