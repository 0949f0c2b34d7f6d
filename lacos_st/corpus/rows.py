"""Rows of a corpus: its files one after another, a sentence and perhaps an id of each row, malformed ones counted."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lacos_st.errors import UserError
from lacos_st.nli import SHOWN
from lacos_st.sources import EMPTY, PLAIN_SUFFIXES, SUFFIXES, Cells, Table, find_files, flaw, open_file

logger = logging.getLogger(__name__)

HEADED = (".tsv", ".csv", ".tsv.gz", ".csv.gz")
"""Files of which the first row can have names."""


class Row(NamedTuple):
    """One sentence: its file (relative to the source), its line or row there from 1, its id if it has one."""

    file: str
    line: int
    id: str | None
    text: str


@dataclass(frozen=True)
class File:
    """What a file was when the corpus was first read."""

    name: str
    bytes: int
    sha256: str


@dataclass
class BadRows:
    """Malformed rows: all are counted, the first `SHOWN` described."""

    count: int = 0
    shown: list[str] = field(default_factory=list)

    def add(self, table: Table, number: int, problem: str) -> None:
        """Count one."""
        self.count += 1
        if len(self.shown) < SHOWN:
            self.shown.append(f"{table.name}, {table.unit} {number}: {problem}")

    def tell(self, *, usable: int, on_bad_row: Literal["error", "skip"]) -> None:
        """Refuse them, or log which are left out: never neither.

        Raises:
            UserError: There are some, and `on_bad_row` is "error".
        """
        if not self.count:
            return
        more = f"; and {self.count - len(self.shown)} more" if self.count > len(self.shown) else ""
        text = "; ".join(self.shown) + more
        if on_bad_row == "error":
            raise UserError(
                f"{text} ({self.count} malformed, {usable} usable rows): mend them, or leave such rows out with "
                "--on-bad-row skip"
            )
        logger.warning("%d malformed rows left out, %d usable: %s", self.count, usable, text)


@dataclass(frozen=True)
class Corpus:
    """The files of a corpus and the columns that are read.

    Attributes:
        source: A file, or a folder of files.
        column: Of the sentences: a name, or a number from 1; None where there is but one.
        id_column: Of the ids, likewise; None for none.
        header: Whether the first row of tsv and csv has names; None: where a column is given by name.
    """

    source: Path
    column: str | None = None
    id_column: str | None = None
    header: bool | None = None

    def files(self) -> list[Path]:
        """The data files, sorted.

        Raises:
            UserError: There is none, or one has a name that is not UTF-8, which shards and manifest could not hold.
        """
        files = find_files(self.source, suffixes=(*SUFFIXES, *PLAIN_SUFFIXES))
        for path in files:  # pyarrow opens no other path at all
            name = str(path) if path.suffix.lower() == ".parquet" else self._name(path)
            if not is_unicode(name):
                raise UserError(f"the name of the file {os.fsencode(name)!r} is not UTF-8: rename it")
        return files

    def fingerprint(self) -> list[File]:
        """Name, size and SHA-256 of each file.

        Raises:
            UserError: A file cannot be read.
        """
        return [File(self._name(path), path.stat().st_size, _sha256(path)) for path in self.files()]

    def state(self) -> list[tuple[str, int, int]]:
        """Name, size and time of change of each file: enough to notice a change while they are read."""
        return [(self._name(path), (stat := path.stat()).st_size, stat.st_mtime_ns) for path in self.files()]

    def rows(self, bad: BadRows) -> Iterator[Row]:
        """All usable rows in order; the others are added to `bad`.

        Empty sentences are rows. A blank line of tsv, csv and jsonl is none, as their readers have it.

        Raises:
            UserError: A file cannot be read, or does not have the columns.
        """
        for path in self.files():
            yield from self._rows_of(path, bad)

    def _name(self, path: Path) -> str:
        return path.name if path == self.source else path.relative_to(self.source).as_posix()

    def _rows_of(self, path: Path, bad: BadRows) -> Iterator[Row]:
        name = self._name(path)
        picked: _Picked | None = None
        if path.suffix.lower() == ".parquet":
            picked = self._pick(path, _parquet_columns(path))
            columns = [key for key in (picked.text, picked.id) if key is not None]
            table = open_file(path, columns=list(dict.fromkeys(columns)))
        else:
            table = open_file(path)
        for number, cells in table.rows:
            if isinstance(cells, str):
                bad.add(table, number, cells)
                continue
            if picked is None:
                picked = self._pick(path, cells)
                if picked.is_header:
                    continue
            problem, text, key = picked.take(cells)
            if problem:
                bad.add(table, number, problem)
            else:
                yield Row(name, number, key, text)

    def _pick(self, path: Path, first: Cells) -> _Picked:
        """The columns of a file, from its first row."""
        name = str(path)
        if isinstance(first, dict):
            keys = list(first)
            strings = [key for key, value in first.items() if isinstance(value, str) and key != self.id_column]
            return _Picked(
                text=_find(name, keys, self.column, default=strings),
                id=None if self.id_column is None else _find(name, keys, self.id_column, default=[]),
            )
        named = [key for key in (self.column, self.id_column) if key is not None and not _is_number(key)]
        headed = path.name.lower().endswith(HEADED)
        if named and not headed:
            what = "rows are lists" if path.name.lower().endswith((".jsonl", ".jsonl.gz")) else "lines are plain text"
            raise UserError(
                f"{name} has no column {named[0]!r}: its {what}, which have no names: give a column of it by its "
                "number from 1, or leave --column out where there is but one"
            )
        is_header = headed and (bool(named) if self.header is None else self.header)
        hint = (
            " (its first row is taken for a row: say --header where it has names)" if headed and not is_header else ""
        )
        keys = [str(cell).strip() for cell in first] if is_header else [str(i) for i in range(1, len(first) + 1)]
        found = _find(name, keys, self.column, default=keys, hint=hint)
        key = None if self.id_column is None else _find(name, keys, self.id_column, default=[], hint=hint)
        return _Picked(
            text=keys.index(found),
            id=None if key is None else keys.index(key),
            width=len(first),
            is_header=is_header,
        )


@dataclass(frozen=True)
class _Picked:
    """Where the text and the id of a row are; `width`: how many cells it must have, None where they have names."""

    text: Any
    id: Any = None
    width: int | None = None
    is_header: bool = False

    def take(self, cells: Cells) -> tuple[str | None, str, str | None]:
        """What is wrong with a row, its text and its id."""
        named = isinstance(cells, dict)
        if named != (self.width is None):
            return "an object among lists, or the other way round", "", None
        if self.width is not None and len(cells) != self.width:
            return f"{len(cells)} cells, expected {self.width} as in the first row", "", None
        if isinstance(cells, dict) and (missing := [key for key in (self.text, self.id) if key not in (None, *cells)]):
            return f"no column {missing[0]!r}", "", None
        places: Any = cells
        text, key = places[self.text], None if self.id is None else places[self.id]
        if (problem := flaw(text)) not in (None, EMPTY):
            return problem, "", None
        if self.id is not None and (key is None or isinstance(key, dict | list | float)):
            return f"expected an id, found {key!r:.60}", "", None
        if isinstance(key, str) and not is_unicode(key):
            return f"the id {key!a:.60} holds half of a surrogate pair, which is no character", "", None
        return None, text, None if key is None else str(key)


def is_unicode(text: str) -> bool:
    """Whether text can be written as UTF-8; what holds half of a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _find(name: str, keys: list[str], column: str | None, *, default: list[str], hint: str = "") -> str:
    """The key of a column that is given by name or number, or of the only one that can be meant."""
    found = ", ".join(keys[:20])
    if column is None:
        if len(default) == 1:
            return default[0]
        raise UserError(
            f"{name} has {len(keys)} columns ({found}): say with --column which of them holds the sentences"
        )
    if column in keys:
        return column
    if _is_number(column) and 1 <= int(column) <= len(keys):
        return keys[int(column) - 1]
    raise UserError(f"{name} has no column {column!r}: it has {len(keys)}: {found}{hint}")


def _is_number(column: str) -> bool:
    """Whether a column is given by number; "²" is a digit to Python, and no number to `int`."""
    return column.isascii() and column.isdecimal()


def _parquet_columns(path: Path) -> dict[str, str | None]:
    """The columns of a parquet file, with text as the value of those that hold text."""
    import pyarrow
    import pyarrow.parquet

    try:
        schema = pyarrow.parquet.read_schema(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read as parquet: {error}") from error
    text = (pyarrow.string(), pyarrow.large_string(), pyarrow.string_view())
    return {field.name: "" if field.type in text else None for field in schema}


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
