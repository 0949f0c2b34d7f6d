"""Rows of a corpus: each once and in order, whatever the file."""

from __future__ import annotations

import csv
import gzip
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from written import SENTENCES

from lacos_st.corpus.rows import BadRows, Corpus
from lacos_st.errors import UserError


def write(path: Path, texts: list[str]) -> Path:
    """The sentences, and an id before each, in the format of the file's ending."""
    path.parent.mkdir(exist_ok=True)
    rows = [{"key": f"k{i}", "text": text} for i, text in enumerate(texts)]
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    out = io.StringIO(newline="")
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=7)
        return path
    if kind == "jsonl":
        out.writelines(json.dumps(row, ensure_ascii=i % 2 == 0) + "\n" for i, row in enumerate(rows))
    elif kind == "csv":
        csv.writer(out).writerows([["key", "text"], *(row.values() for row in rows)])
    elif kind == "tsv":
        out.writelines("\t".join(row) + "\r\n" for row in (["key", "text"], *(row.values() for row in rows)))
    else:
        out.writelines(row["text"] + "\n" for row in rows)
    data = out.getvalue().encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


KINDS = ["a.tsv", "a.csv", "a.jsonl", "a.parquet", "a.txt", "a.tsv.gz", "a.csv.gz", "a.jsonl.gz", "a.txt.gz"]


@pytest.mark.parametrize("name", KINDS)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, SENTENCES)
    plain = ".txt" in name
    bad = BadRows()
    found = list(Corpus(path, column=None if plain else "text", id_column=None if plain else "key").rows(bad))
    assert [row.text for row in found] == SENTENCES
    assert [row.id for row in found] == [None if plain else f"k{i}" for i in range(50)]
    assert {row.file for row in found} == {name}
    assert bad.count == 0
    if not plain:
        by_number = list(Corpus(path, column="2", header=True).rows(bad))
        assert [row.text for row in by_number] == SENTENCES


def test_a_folder_is_its_files_in_order(tmp_path: Path) -> None:
    for place, name in enumerate(("a.tsv", "b/c.jsonl", "z.parquet")):
        write(tmp_path / name, SENTENCES[place * 10 : place * 10 + 10])
    write(tmp_path / ".hidden.tsv", SENTENCES)
    (tmp_path / "README").write_text("no data")
    found = list(Corpus(tmp_path, column="text").rows(BadRows()))
    assert [row.text for row in found] == SENTENCES[:30]
    assert [(row.file, row.line) for row in found[9:11]] == [("a.tsv", 11), ("b/c.jsonl", 1)]


sentence = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.lists(sentence, min_size=1, max_size=8), st.sampled_from(["a.csv", "a.jsonl", "a.parquet"]))
def test_random_text_comes_back(tmp_path_factory: pytest.TempPathFactory, texts: list[str], name: str) -> None:
    if name == "a.csv":  # the reader's line ends are \n, and a mark at a line's start is dropped
        texts = [text.replace("\r", "").replace("\ufeff", "") for text in texts]
    path = write(tmp_path_factory.mktemp("random") / name, texts)
    bad = BadRows()
    assert [row.text for row in Corpus(path, column="text").rows(bad)] == texts
    assert bad.count == 0


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.jsonl", "A.JSONL.gz"])
@pytest.mark.parametrize("header", [True, False, None])
def test_what_has_no_names_has_no_header(tmp_path: Path, name: str, header: bool | None) -> None:
    lists = "json" in name.lower()
    data = b'["text"]\n["second"]\n' if lists else b"text\nsecond\n"
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    corpus = Corpus(tmp_path / name, header=header)
    assert [row.text for row in corpus.rows(BadRows())] == ["text", "second"]
    assert [row.text for row in replace(corpus, column="1").rows(BadRows())] == ["text", "second"]
    for options in ({"column": "text"}, {"id_column": "text"}):
        with pytest.raises(UserError, match=f"no column 'text': its {'rows are lists' if lists else 'lines are'}"):
            list(replace(corpus, **options).rows(BadRows()))


@pytest.mark.parametrize("name", ["a.tsv", "a.CSV", "a.tsv.gz", "a.csv.GZ"])
def test_a_header_of_tsv_and_csv(tmp_path: Path, name: str) -> None:
    data = b"text\nsecond\n"
    (tmp_path / name).write_bytes(gzip.compress(data) if name.lower().endswith(".gz") else data)
    for header, column, found in ((True, None, 1), (None, "text", 1), (False, None, 2), (None, None, 2)):
        corpus = Corpus(tmp_path / name, header=header, column=column)
        assert len(list(corpus.rows(BadRows()))) == found


def test_an_id_that_is_no_text(tmp_path: Path) -> None:
    rows = ['{"id": "a", "text": "hello"}', '{"id": "\\ud800", "text": "world"}', '{"id": 3, "text": "again"}']
    (tmp_path / "a.jsonl").write_text("\n".join(rows) + "\n")
    bad = BadRows()
    found = list(Corpus(tmp_path / "a.jsonl", column="text", id_column="id").rows(bad))
    assert [(row.line, row.id) for row in found] == [(1, "a"), (3, "3")]
    assert bad.count == 1 and r"a.jsonl, line 2: the id '\ud800' holds half of" in bad.shown[0]


@pytest.mark.parametrize(
    ("content", "options", "said"),
    [
        ("a\tb\nc\td\n", {}, ("2 columns", "--column")),
        ("a\tb\nc\td\n", {"column": "3"}, ("no column '3'", "--header")),
        ("a\tb\nc\td\n", {"column": "²"}, ("no column '²'", "a, b")),
        ("a\tb\nc\td\n", {"column": "a", "id_column": "²"}, ("no column '²'",)),
        ("a\tb\nc\td\n", {"column": "text"}, ("no column 'text'", "a, b")),
        ("a\tb\nc\td\n", {"column": "a", "id_column": "x"}, ("no column 'x'",)),
    ],
)
def test_columns_that_are_not_there(tmp_path: Path, content: str, options: Any, said: tuple[str, ...]) -> None:
    (tmp_path / "a.tsv").write_text(content)
    with pytest.raises(UserError) as caught:
        list(Corpus(tmp_path / "a.tsv", **options).rows(BadRows()))
    assert all(part in str(caught.value) for part in said)
