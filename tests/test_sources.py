"""Parsers: on random tables no row is lost, none is invented, and each malformed one is named by its line."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lacos_st.errors import UserError
from lacos_st.nli import Examples, read_examples
from lacos_st.sources import open_source

QUICK = settings(max_examples=80, deadline=None)
character = st.characters(exclude_categories=["Cs"])
cell = st.text(character, max_size=6)
plain = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\n\r"), max_size=6)
sentence = st.text("ab \u00e9\u2028\x0b\x85'", min_size=1, max_size=5).map(str.strip).filter(bool)
quoted = st.text('ab", \n', min_size=1, max_size=5).map(str.strip).filter(bool)


def rows_in(data: bytes, name: str) -> list[tuple[int, Any]]:
    """What the parser makes of a file with this content, plain and zipped."""
    with tempfile.TemporaryDirectory() as folder:
        path, zipped = Path(folder, name), Path(folder, name + ".gz")
        path.write_bytes(data)
        zipped.write_bytes(gzip.compress(data))
        (table,), (again,) = open_source(str(path)), open_source(str(zipped))
        rows = list(table.rows)
        assert list(again.rows) == rows
        return rows


def read(data: bytes, name: str) -> Examples:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, name).write_bytes(data)
        (table,) = open_source(str(Path(folder, name)))
        return read_examples(table, on_bad_row="skip")


@given(st.lists(st.lists(plain, min_size=1, max_size=4)), st.sampled_from(["\n", "\r\n"]), st.booleans())
@QUICK
def test_every_row_of_a_tsv_comes_back(table: list[list[str]], end: str, mark: bool) -> None:
    lines = ["\t".join(row) for row in table]
    data = ("\ufeff" * mark + "".join(line + end for line in lines)).encode()
    wanted = [line.removeprefix("\ufeff") for line in lines]  # a mark of joined files, at any line's start
    if mark and lines:
        wanted[0] = lines[0]  # the mark before it is the one taken off
    assert rows_in(data, "a.tsv") == [(n, line.split("\t")) for n, line in enumerate(wanted, 1) if line]


@given(st.lists(st.lists(cell, min_size=2, max_size=4)), st.sampled_from(["\n", "\r\n"]))
@QUICK
def test_every_row_of_a_csv_comes_back_with_the_line_it_starts_at(table: list[list[str]], end: str) -> None:
    text, wanted = io.StringIO(newline=""), []
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator=end)
    for row in table:
        wanted.append((text.getvalue().count("\n") + 1, row))
        writer.writerow(row)
    assert rows_in(text.getvalue().encode(), "a.csv") == wanted


json_value = st.one_of(st.lists(cell, max_size=3), st.dictionaries(cell, st.one_of(cell, st.none(), st.integers())))


@given(st.lists(json_value), st.booleans())
@QUICK
def test_every_row_of_a_jsonl_comes_back(values: list[Any], ascii_only: bool) -> None:
    text = "".join(json.dumps(value, ensure_ascii=ascii_only) + "\n" for value in values)
    assert rows_in(text.encode(), "a.jsonl") == list(enumerate(values, 1))


@given(
    st.one_of(
        st.binary(max_size=60),
        st.lists(st.sampled_from([b"a", b'"', b",", b"\t", b"\n", b"\r", b"\xff", b"{"])).map(b"".join),
    ),
    st.sampled_from(["a.tsv", "a.csv", "a.jsonl"]),
)
@settings(max_examples=200, deadline=None)
def test_every_line_of_any_bytes_is_a_row_or_named(data: bytes, name: str) -> None:
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff"))
    try:
        rows = rows_in(data, name)
    except UserError:
        refused = True
    else:
        refused = False
    assert wide <= refused <= (wide or (name == "a.csv" and b'"' in data))
    if refused:
        return
    numbers = [number for number, _ in rows]
    assert numbers == sorted(set(numbers))
    lines = [line for line in data.split(b"\n")]
    blank = (lambda line: not line.strip()) if name == "a.jsonl" else (lambda line: not line.rstrip(b"\r"))
    full = [n for n, line in enumerate(lines, 1) if not blank(line.removeprefix(b"\xef\xbb\xbf"))]
    if name == "a.csv" and b'"' in data:
        assert set(numbers) <= set(range(1, len(lines) + 1))
    elif name == "a.jsonl":
        assert set(numbers) <= set(full)
        unicode_blank = {n for n in full if n not in numbers}  # white space that is not ASCII
        assert all(not lines[n - 1].decode("utf-8-sig").strip() for n in unicode_blank)
    else:
        assert numbers == full


@given(st.lists(st.tuples(quoted, quoted), min_size=1, max_size=6), st.integers(0, 200))
@example([("a", '"\na')], 2)  # the quote after `a,` ends the first row early: a whole row, but not one of the table's
@settings(max_examples=200, deadline=None)
def test_a_stray_quote_invents_no_row(rows: list[tuple[str, str]], place: int) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([("anchor", "positive"), *rows])
    good = text.getvalue()
    start = good.index("\n") + 1  # the header stays
    assert {row[:2] for row in read(good.encode(), "a.csv").rows} == set(rows)
    place = start + place % (len(good) - start + 1)
    with pytest.raises(UserError, match="not RFC 4180 csv"):
        read((good[:place] + '"' + good[place:]).encode(), "a.csv")


MALFORMED = ["only one", "a\tb\tc", "\tb", "a\t \u200b", "a\tb\0", "a\tb\udcff", "a\tb\rc"]


@given(st.lists(st.one_of(st.tuples(sentence, sentence), st.sampled_from(MALFORMED)), max_size=12))
@QUICK
def test_malformed_rows_are_told_one_by_one(lines: list[tuple[str, str] | str]) -> None:
    good = [line for line in lines if isinstance(line, tuple)]
    text = "".join(("\t".join(line) if isinstance(line, tuple) else line) + "\n" for line in lines)
    data = f"anchor\tpositive\n{text}".encode("utf-8", errors="surrogateescape")
    if not good:
        with pytest.raises(UserError, match=rf"no usable row \({len(lines)} malformed" if lines else "no usable row"):
            read(data, "a.tsv")
        return
    found = read(data, "a.tsv")
    assert [row[:2] for row in found.rows] == good
    assert found.bad == len(lines) - len(good)
