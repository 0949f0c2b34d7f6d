"""Where training rows come from: a file, a folder of files or a dataset of the hub, read row by row as it stands."""

from __future__ import annotations

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
HUB_NAME = re.compile(r"(?P<name>[\w.-]+(?:/[\w.-]+)?)(?::(?P<config>[^@/]+))?(?:@(?P<split>[^@/]+))?")
NO_GOLD = "-"  # how SNLI and MultiNLI write a row on which the annotators did not agree

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
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if _is_data_file(file, path))
        if not files:
            raise UserError(f"folder {source} holds no data file: expected files that end in {', '.join(SUFFIXES)}")
        return [_open_file(file) for file in files]
    if path.is_file():
        if _suffix(path) is None:
            raise UserError(f"{source} is no data file: expected a name that ends in {', '.join(SUFFIXES)}")
        return [_open_file(path)]
    match = HUB_NAME.fullmatch(source)
    if match is None or _suffix(path) is not None or source.startswith((".", "~", "/")):
        raise UserError(
            f"there is no file or folder {source!r}: check the path (a hub name reads owner/name:config@split)"
        )
    return [_open_hub(source, match["name"], match["config"], match["split"] or "train")]


def _is_data_file(file: Path, root: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(root).parts)
    return not hidden and _suffix(file) is not None and file.is_file()


def _suffix(path: Path) -> str | None:
    """The longest known ending of the file's name, without ".gz": ".tsv" of "a.tsv.gz"; None for other files."""
    name = path.name.lower()
    return next((suffix.removesuffix(".gz") for suffix in SUFFIXES if name.endswith(suffix)), None)


def _open_file(path: Path) -> Table:
    suffix = _suffix(path)
    if suffix == ".parquet":
        return Table(str(path), "row", _parquet(path))
    read = {".tsv": _tsv, ".csv": _csv, ".jsonl": _jsonl}[cast(str, suffix)]
    return Table(str(path), "line", read(path))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines of a UTF-8 file, split at LF only (U+2028 stands inside sentences), without a byte-order mark."""
    number = 0
    try:
        opener = gzip.open if path.name.lower().endswith(".gz") else open
        with cast(BinaryIO, opener(path, "rb")) as handle:
            for number, raw in enumerate(handle, 1):
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}, line {number}: not UTF-8 ({error.reason}): convert the file to UTF-8") from error
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}, after line {number}: cannot be read: {error}") from error


def _tsv(path: Path) -> Iterator[tuple[int, Cells | str]]:
    for number, line in _lines(path):
        if text := line.rstrip("\r\n"):
            yield number, text.split("\t")


def _csv(path: Path) -> Iterator[tuple[int, Cells | str]]:
    reader = csv.reader((line for _, line in _lines(path)), strict=True)  # strict: a stray quote must not eat the file
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield reader.line_num, f"not RFC 4180 csv: {error}"
            continue
        if cells:
            yield reader.line_num, cells


def _jsonl(path: Path) -> Iterator[tuple[int, Cells | str]]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            yield number, f"not JSON: {error}"
            continue
        yield number, value if isinstance(value, dict | list) else "neither a JSON object nor a list"


def _parquet(path: Path) -> Iterator[tuple[int, Cells | str]]:
    import datasets
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        features = datasets.Features.from_arrow_schema(file.schema_arrow)
        yield from _named(features, (batch.to_pydict() for batch in file.iter_batches(batch_size=10_000)))
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
                if isinstance(row[key], int):
                    row[key] = classes[row[key]] if 0 <= row[key] < len(classes) else NO_GOLD
            yield number, row
