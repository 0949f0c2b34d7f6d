"""Where rows come from: a file, a folder of files or a dataset of the hub, read row by row as it stands."""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from lacos_st.errors import UserError

TEXT_SUFFIXES = (".tsv", ".csv", ".jsonl")
SUFFIXES = (*TEXT_SUFFIXES, *(suffix + ".gz" for suffix in TEXT_SUFFIXES), ".parquet")
PLAIN_SUFFIXES = (".txt", ".txt.gz")
"""Plain text, a sentence a line: what can be embedded, but is no training data."""
HUB_NAME = re.compile(r"(?P<name>[\w.-]+(?:/[\w.-]+)?)(?::(?P<config>[^@/]+))?(?:@(?P<split>[^@/]+))?")
NO_GOLD = "-"  # how SNLI and MultiNLI write a row on which the annotators did not agree
EMPTY = "an empty sentence"
_WIDE_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)  # UTF-32-LE starts as UTF-16-LE does
_MARK = "\ufeff"
CR_ALONE = "a CR without its LF: write LF or CR LF at the ends of lines, and no CR within"
_INVISIBLE = "\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"  # no white space to Python, nothing to a reader

Cells = Sequence[Any] | dict[str, Any]
"""The cells of a row: a sequence where the file has no column names (yet), a dict where it has."""


@dataclass(frozen=True)
class Table:
    """One file or one split, not yet interpreted.

    Attributes:
        name: What messages call it: the path, or the hub name as given.
        unit: What `number` counts in `rows`: "line" of a text file (from 1), "row" of parquet and hub data (from 1).
        rows: Pairs (number, cells); cells is a `str` that says what is wrong where the row could not be parsed.
    """

    name: str
    unit: str
    rows: Iterator[tuple[int, Cells | str]]


def open_source(source: str) -> list[Table]:
    """Find what `source` names: a file, a folder (its data files, recursive, sorted), or a dataset of the hub.

    A hub name is `name`, `name:config`, `name:config@split` or `name@split`; the split is `train` where none is given.

    Raises:
        UserError: There is no such file, the folder holds no data file, or the hub dataset cannot be loaded.
    """
    path = Path(source).expanduser()
    if path.exists():
        return [open_file(file) for file in find_files(path)]
    match = HUB_NAME.fullmatch(source)
    if match is None or _suffix(path) is not None or source.startswith((".", "~", "/")):
        raise UserError(
            f"there is no file or folder {source!r}: check the path (a hub name reads owner/name:config@split)"
        )
    return [_open_hub(source, match["name"], match["config"], match["split"] or "train")]


def find_files(path: Path, *, suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
    """The data files at `path`: the file itself, or those in the folder, recursive, sorted, without hidden ones.

    Raises:
        UserError: The folder holds none, or the file's name has none of the endings `suffixes`.
    """
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if _is_data_file(file, path, suffixes))
        if not files:
            raise UserError(f"folder {path} holds no data file: expected files that end in {', '.join(suffixes)}")
        return files
    if not path.is_file():
        raise UserError(f"there is no file or folder {path}: check the path")
    if _suffix(path, suffixes) is None:
        raise UserError(f"{path} is no data file: expected a name that ends in {', '.join(suffixes)}")
    return [path]


def _is_data_file(file: Path, root: Path, suffixes: Sequence[str]) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(root).parts)
    return not hidden and _suffix(file, suffixes) is not None and file.is_file()


def _suffix(path: Path, suffixes: Sequence[str] = (*SUFFIXES, *PLAIN_SUFFIXES)) -> str | None:
    """The longest known ending of the file's name, without ".gz": ".tsv" of "a.tsv.gz"; None for other files."""
    name = path.name.lower()
    return next((suffix.removesuffix(".gz") for suffix in suffixes if name.endswith(suffix)), None)


def open_file(path: Path, *, columns: Sequence[str] | None = None) -> Table:
    """The rows of a data file, by the ending of its name; plain text has rows of one cell, empty lines too.

    Args:
        path: Of the file.
        columns: Of parquet, the names of those that are read; None for all.
    """
    suffix = _suffix(path)
    if suffix == ".parquet":
        return Table(str(path), "row", _parquet(path, columns))
    read = {".tsv": _tsv, ".csv": read_csv, ".jsonl": _jsonl, ".txt": _plain}[cast(str, suffix)]
    return Table(str(path), "line", read(path))


def read_lines(path: Path) -> Iterator[tuple[int, str, str | None]]:
    """Lines of a UTF-8 file, split at LF only (U+2028 stands inside sentences), each without a byte-order mark.

    A mark may stand at any line's start, where files that have one were joined.

    Yields:
        The line's number (from 1), its text with its line end, and what is wrong with its encoding, if anything; bytes
        that are not UTF-8 are surrogates in the text then.

    Raises:
        UserError: The file cannot be read, or is UTF-16 or UTF-32.
    """
    for number, text, problem in _marked_lines(path):
        yield number, text.removeprefix(_MARK), problem


def _marked_lines(path: Path) -> Iterator[tuple[int, str, str | None]]:
    """As `read_lines`, but with the marks, which within quotes are text."""
    number = 0
    try:
        opener = gzip.open if path.name.lower().endswith(".gz") else open
        with cast(BinaryIO, opener(path, "rb")) as handle:
            for number, raw in enumerate(handle, 1):
                if number == 1 and raw.startswith(_WIDE_MARKS):
                    raise UserError(f"{path} is UTF-16 or UTF-32 by its byte-order mark: convert the file to UTF-8")
                try:
                    yield number, raw.decode(), None
                except UnicodeDecodeError as error:
                    problem = f"not UTF-8 (byte 0x{raw[error.start]:02x}: {error.reason}), convert the file to UTF-8"
                    yield number, raw.decode(errors="surrogateescape"), problem
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}, after line {number}: cannot be read: {error}") from error


def flaw(text: object) -> str | None:
    """Why `text` is no sentence that can be embedded, in words that follow "line 7: "; None where it is one."""
    if not isinstance(text, str):  # also null and NaN of parquet and JSON
        return f"expected text, found {text!r:.60}"
    if all(character.isspace() or character in _INVISIBLE for character in text):
        return EMPTY
    if "\0" in text:
        return "a sentence holds the character NUL (is the file UTF-16?)"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"a sentence holds half of a surrogate pair ({text[error.start]!a}), which is no character"
    return None


def cells_of(line: str) -> list[str] | str:
    """The cells of a line of tsv, without quoting; a `str` that says what is wrong where rows may be hidden in it."""
    text = line.rstrip("\r\n")
    return CR_ALONE if "\r" in text else text.split("\t")


def _tsv(path: Path) -> Iterator[tuple[int, Cells | str]]:
    for number, line, problem in read_lines(path):
        if text := line.rstrip("\r\n"):
            yield number, problem or cells_of(text)


def _plain(path: Path) -> Iterator[tuple[int, Cells | str]]:
    for number, line, problem in read_lines(path):
        text = line.rstrip("\r\n")
        yield number, problem or (CR_ALONE if "\r" in text else [text])


def read_csv(path: Path) -> Iterator[tuple[int, Cells | str]]:
    """Rows of an RFC 4180 file, each with the number of its first line.

    Of a broken row every line is given as malformed. A file in which a row has an odd number of quotes is refused: one
    of them lacks its partner, and then text inside quotes may have been taken for rows, before it and after it.

    Raises:
        UserError: As `read_lines`; also where a quote has no partner, or a field is longer than csv's limit.
    """
    quotes = 0
    problem: str | None = None
    cells: list[str] | None

    def lines() -> Iterator[str]:
        nonlocal quotes, problem
        for _, line, wrong in _marked_lines(path):
            text = line if quotes % 2 else line.removeprefix(_MARK)
            quotes += text.count('"')
            problem = problem or wrong
            yield text

    reader = csv.reader(lines(), strict=True)  # strict: a stray quote must not eat the file
    while True:
        first, quotes, problem = reader.line_num + 1, 0, None
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            cells, fault = None, CR_ALONE if "new-line character" in str(error) else str(error)
        else:
            fault = "a quote without its partner" if quotes % 2 else ""
        lines_read = f"line {first}" if reader.line_num == first else f"lines {first}-{reader.line_num}"
        if "field limit" in fault and not quotes % 2:
            raise UserError(
                f"{path}, {lines_read}: a cell is longer than {csv.field_size_limit()} characters, which csv does not "
                "take: shorten it, or write the file as .jsonl; if no cell is so long, a quote lacks its partner"
            )
        if quotes % 2:
            raise UserError(
                f"{path}, {lines_read}: not RFC 4180 csv: {fault}: rows cannot be told from text here, so that none "
                'can be left out: mend the quotes (in a cell that holds one, write "" for it and quote the cell)'
            )
        if cells is None:
            for number in range(first, reader.line_num + 1):
                yield number, f"not RFC 4180 csv: {fault}"
        elif cells:
            yield first, problem or cells


def _jsonl(path: Path) -> Iterator[tuple[int, Cells | str]]:
    for number, line, problem in read_lines(path):
        if problem is not None:
            yield number, problem
            continue
        if not line.strip():
            continue
        try:
            value = json.loads(line, object_pairs_hook=_object)
        except RecursionError:
            yield number, "not JSON of a row: nested too deep"
        except ValueError as error:
            yield number, f"not JSON: {error}"
        else:
            yield number, value if isinstance(value, dict | list) else "neither a JSON object nor a list"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, refused where one key would hide another."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"a key stands twice among {', '.join(key for key, _ in pairs)}")
    return found


def _parquet(path: Path, columns: Sequence[str] | None) -> Iterator[tuple[int, Cells | str]]:
    import datasets
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        features = datasets.Features.from_arrow_schema(file.schema_arrow)
        yield from _named(features, (batch.to_pydict() for batch in file.iter_batches(10_000, columns=columns)))
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read as parquet: {error}") from error


def _open_hub(source: str, name: str, config: str | None, split: str) -> Table:
    import datasets

    try:
        data = datasets.load_dataset(name, config, split=split)
    except (
        Exception
    ) as error:  # datasets, huggingface_hub and httpx share no base class; whatever came, it did not load
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{source!r} is neither a file or folder here nor a dataset that could be loaded from the hub "
            f"(config {config or 'default'}, split {split}): {type(error).__name__}: {reason}. "
            "Check the name (owner/name:config@split) and the network, or give a file or folder instead"
        ) from error
    return Table(source, "row", _named(data.features, data.iter(batch_size=10_000)))


def _named(features: Any, batches: Iterator[dict[str, list[Any]]]) -> Iterator[tuple[int, Cells | str]]:
    """Rows as dicts; class labels by their names (so that a dataset's own order of classes cannot be misread)."""
    import datasets

    names = {key: kind.names for key, kind in features.items() if isinstance(kind, datasets.ClassLabel)}
    number = 0
    for batch in batches:
        for values in zip(*batch.values(), strict=True):
            number += 1
            row = dict(zip(batch, values, strict=True))
            for key, classes in names.items():
                if isinstance(row.get(key), int):
                    known = 0 <= row[key] < len(classes)
                    row[key] = classes[row[key]] if known else NO_GOLD if row[key] == -1 else f"class {row[key]}"
            yield number, row
