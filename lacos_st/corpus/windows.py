"""A shard's rows, window by window: read ahead, encoded, checked and written; the same on every machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from lacos_st.corpus.manifest import Manifest
from lacos_st.corpus.options import EncodeOptions
from lacos_st.corpus.precision import convert
from lacos_st.corpus.rows import BadRows, Corpus, Row
from lacos_st.corpus.shards import ShardWriter
from lacos_st.errors import UserError
from lacos_st.sources import EMPTY, flaw
from lacos_st.text_encoder import TextEncoder

WINDOW_BATCHES = 64
"""Batches of a window, for each process: it is read, sorted by length, encoded and written at a time. Enough that its
batches are of a length; few enough that it is small beside the model."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class Window:
    """Rows of one shard that are encoded at a time, and their tokens, uncut, int64 (n,)."""

    shard: int
    rows: list[Row]
    tokens: np.ndarray


def corpus_of(options: EncodeOptions) -> Corpus:
    """The corpus that the options name."""
    source = Path(options.source).expanduser()
    return Corpus(source, column=options.column, id_column=options.id_column, header=options.header)


class Cursor:
    """Rows of a corpus by their place: on is read on, back is begun anew."""

    def __init__(self, corpus: Corpus):
        self._corpus = corpus
        self._place = 0
        self._rows = corpus.rows(BadRows())  # they have been told

    def take(self, first: int, count: int) -> list[Row]:
        """Rows first..first + count - 1.

        Raises:
            UserError: There are fewer, which there were not before.
        """
        if first < self._place:
            self._place, self._rows = 0, self._corpus.rows(BadRows())
        found = list(islice(self._rows, first - self._place, first - self._place + count))
        if len(found) != count:
            raise UserError(
                f"{self._corpus.source} has fewer rows than when this run began: start anew with --overwrite"
            )
        self._place = first + count
        return found


def windows(
    cursor: Cursor, manifest: Manifest, shards: Iterable[int], encoder: TextEncoder, *, size: int
) -> Iterator[Window]:
    """The windows of shards, at most `size` rows each; none reaches into another shard."""
    for shard in shards:
        first, count = manifest.span(shard)
        for place in range(first, first + count, size):
            rows = cursor.take(place, min(size, first + count - place))
            yield Window(shard, rows, encoder.count([row.text for row in rows]))


def one_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The same items, the next one being made in a thread while one is used."""
    end = object()
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, items, end)
            yield item  # type: ignore[misc]  # it is not the end


def write_shard(
    folder: Path,
    manifest: Manifest,
    number: int,
    group: Iterable[Window],
    encode: Callable[[list[str]], np.ndarray],
    *,
    add: Callable[[int, int], None],
    check: Callable[[], None],
) -> dict[str, Any]:
    """Encode and write one shard.

    Args:
        folder: Where.
        manifest: Of the run.
        number: Of the shard.
        group: Its windows.
        encode: From sentences to embeddings, float32 (n, H).
        add: Called with the rows and tokens of each window.
        check: Called before the shard appears; raises where the input has changed.

    Returns:
        What is noted of it: files, rows, tokens, empty and cut sentences, clipped values, seconds.

    Raises:
        UserError: An embedding is not finite, or as `check`.
    """
    first, count = manifest.span(number)
    limit = manifest.model["max_seq_length"] or np.iinfo(np.int64).max
    start = time.monotonic()
    sums = {"tokens": 0, "empty": 0, "cut": 0, "longest": 0, "clipped": 0}
    writer = ShardWriter(folder, number, first_row=first, rows=count, layout=manifest.layout)
    with writer:
        for window in group:
            embeddings = encode([row.text for row in window.rows])
            check_finite(embeddings, window.rows)
            stored, clipped = convert(embeddings, manifest.options["precision"], manifest.ranges_array)
            writer.add(window.rows, stored)
            tokens = int(np.minimum(window.tokens, limit).sum())
            sums["tokens"] += tokens
            sums["empty"] += sum(flaw(row.text) == EMPTY for row in window.rows)
            sums["cut"] += int((window.tokens > limit).sum())
            sums["longest"] = max(sums["longest"], int(window.tokens.max()))
            sums["clipped"] += clipped
            add(len(window.rows), tokens)
        check()
    return {"shard": number, "rows": count, **sums, "seconds": time.monotonic() - start, "files": writer.files()}


def check_finite(embeddings: np.ndarray, rows: list[Row]) -> None:
    """That every embedding, (n, H), is a vector of numbers.

    Raises:
        UserError: One is not: of which row.
    """
    finite = np.isfinite(embeddings).all(axis=1)
    if not finite.all():
        row = rows[int(np.argmin(finite))]
        raise UserError(
            f"the embedding of {row.file}, line {row.line} is not finite ({int((~finite).sum())} of {len(rows)} rows "
            f"near it): {row.text[:60]!r}; the model computes nan or inf: try another dtype or look at its weights"
        )
