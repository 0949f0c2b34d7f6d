"""`encode_corpus`: one run, from files to shards."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from lacos_st.corpus.cluster import encode_on_cluster
from lacos_st.corpus.encoder import load_encoder
from lacos_st.corpus.files import only_writer
from lacos_st.corpus.manifest import Manifest, OutputFolder
from lacos_st.corpus.options import EncodeOptions
from lacos_st.corpus.pool import died, worker_pool
from lacos_st.corpus.precision import RANGED, check_ranges, ranges_of
from lacos_st.corpus.progress import Progress
from lacos_st.corpus.rows import BadRows, Corpus, Row
from lacos_st.corpus.windows import WINDOW_BATCHES, Cursor, check_finite, corpus_of, one_ahead, windows, write_shard
from lacos_st.errors import UserError
from lacos_st.text_encoder import TextEncoder


@dataclass(frozen=True)
class EncodeResult:
    """What a run came to; of all its shards, also those of runs before it.

    Attributes:
        output: The folder.
        rows: Rows of the corpus, all of them encoded.
        tokens: Tokens that the model saw; 0 where its tokenizer cannot count.
        empty: Rows with an empty sentence.
        cut: Rows longer than `limit`, of which the model saw the start.
        longest: Tokens of the longest row, uncut.
        limit: Tokens that the model keeps; None for no limit.
        bad_rows: Malformed rows left out.
        clipped: Values outside the ranges of int8 or uint8.
        shards: How many there are.
        new_rows: Rows encoded in this run.
        new_tokens: Their tokens.
        seconds: This run's, without loading the model and looking through the corpus.
    """

    output: Path
    rows: int
    tokens: int
    empty: int
    cut: int
    longest: int
    limit: int | None
    bad_rows: int
    clipped: int
    shards: int
    new_rows: int
    new_tokens: int
    seconds: float


def encode_corpus(options: EncodeOptions, *, show_progress: bool = False) -> EncodeResult:
    """Encode every row of a corpus into shards; killed at any moment, the same call with `resume` goes on.

    Args:
        options: What, with what, into which folder.
        show_progress: Show a line on standard error where that is a terminal.

    Raises:
        UserError: The input, the model or the output folder cannot be used, or the output lies in the input; rows are
            malformed; a resumed run has other options, another model or another input; the input changes meanwhile; an
            embedding is not finite.
    """
    corpus, folder = corpus_of(options), OutputFolder(Path(options.output).expanduser())
    _check_apart(corpus.source, folder.path)
    folder.check(options)
    state = corpus.state()
    before = folder.read() if options.resume else None
    read = _look_through(corpus, options, before)
    if before is not None:
        before.check_same(Manifest(options.fixed(), read), folder=folder.path)
    encoder = load_encoder(options)
    manifest = Manifest(options.fixed(), read, {"name": options.model, **encoder.identity()})
    if before is not None:
        before.check_same(manifest, folder=folder.path)
    with only_writer(folder.path):
        folder.check(options)  # again, now that no other run can write to it
        try:
            return _run(options, corpus, state, encoder, folder, manifest, before, show_progress)
        finally:
            folder.remove_if_empty()


def _check_apart(source: Path, output: Path) -> None:
    """That the run's own files would not be read as its input, or replace it; in a hidden folder they are not read."""
    inner, outer = output.resolve(), source.resolve()
    if outer.is_file() and inner in outer.parents:
        raise UserError(f"input {source} lies in the output folder {output}: choose another folder to write to")
    if not outer.is_dir() or not inner.is_relative_to(outer):
        return
    if not any(part.startswith(".") for part in inner.relative_to(outer).parts):
        raise UserError(
            f"output {output} lies in the input folder {source}, and what is written there would be read as input: "
            "choose a folder outside it"
        )


def _look_through(corpus: Corpus, options: EncodeOptions, before: Manifest | None) -> dict[str, Any]:
    """The input for the manifest: a first reading, so that what is wrong with it is said before hours of work."""
    files = [dataclasses.asdict(file) for file in corpus.fingerprint()]
    same_way = before is not None and before.options == options.fixed()
    if before is not None and same_way and before.input["files"] == files:
        return before.input
    bad = BadRows()
    rows = sum(1 for _ in corpus.rows(bad))
    bad.tell(usable=rows, on_bad_row=options.on_bad_row)
    if not rows:
        raise UserError(f"{corpus.source} holds no usable row: there is nothing to encode")
    return {"files": files, "rows": rows, "bad_rows": bad.count}


def _run(
    options: EncodeOptions,
    corpus: Corpus,
    state: list[tuple[str, int, int]],
    encoder: TextEncoder,
    folder: OutputFolder,
    manifest: Manifest,
    before: Manifest | None,
    show_progress: bool,
) -> EncodeResult:
    if before is None:
        if options.precision in RANGED:
            manifest = dataclasses.replace(manifest, ranges=calibrate(corpus, manifest, encoder, options))
        folder.start(manifest)
    else:
        manifest = before
    done = folder.done(manifest)
    todo = [number for number in range(manifest.shards) if number not in done]
    if todo and manifest.complete:
        manifest = dataclasses.replace(manifest, complete=False, totals=None)
        folder.write(manifest)
    start = time.monotonic()
    there = sum(record["rows"] for record in done.values())
    progress = Progress(manifest.rows, done=there, show=show_progress)

    def check() -> None:
        if corpus.state() != state:
            raise UserError(
                f"{corpus.source} has changed since this run began: let it be as it was and go on with --resume, or "
                "start anew with --overwrite"
            )

    def keep(record: dict[str, Any]) -> None:
        folder.add(record)
        done[record["shard"]] = record

    try:
        if not todo:
            pass
        elif options.ray is not None:
            for record in encode_on_cluster(options, manifest, todo):
                check()
                keep(record)
                progress.add(record["rows"], record["tokens"])
        else:
            _encode_here(options, corpus, encoder, folder, manifest, todo, progress, check, keep)
    finally:
        progress.close()
    return _finish(folder, manifest, done, encoder.limit, progress, there, time.monotonic() - start)


def _encode_here(
    options: EncodeOptions,
    corpus: Corpus,
    encoder: TextEncoder,
    folder: OutputFolder,
    manifest: Manifest,
    todo: list[int],
    progress: Progress,
    check: Callable[[], None],
    keep: Callable[[dict[str, Any]], None],
) -> None:
    """Encode shards on this machine, reading the next window while one is encoded."""
    size = WINDOW_BATCHES * options.batch_size * len(options.devices)
    cursor = Cursor(corpus)
    with worker_pool(encoder.model, options.devices) as pool:

        def encode(texts: list[str]) -> np.ndarray:
            try:
                return encoder.encode(texts, pool=pool)
            except RuntimeError as error:
                if ended := died(pool):
                    raise UserError(
                        f"a worker has ended: {', '.join(ended)}; was there too little memory? Every shard that was "
                        "written is whole: go on with --resume, perhaps with fewer --workers"
                    ) from error
                raise

        ahead = one_ahead(windows(cursor, manifest, todo, encoder, size=size))
        for number, group in groupby(ahead, key=lambda window: window.shard):
            keep(write_shard(folder.path, manifest, number, group, encode, add=progress.add, check=check))


def calibrate(corpus: Corpus, manifest: Manifest, encoder: TextEncoder, options: EncodeOptions) -> list[list[float]]:
    """Least and greatest value of each dimension over rows that lie evenly in the corpus, (2, H).

    Raises:
        UserError: A dimension does not vary, or an embedding is not finite.
    """
    count = min(options.calibration_rows, manifest.rows)
    places = iter([place * manifest.rows // count for place in range(count)])
    wanted = next(places)
    found: np.ndarray | None = None
    waiting: list[Row] = []

    def look() -> None:
        nonlocal found
        embeddings = encoder.encode([row.text for row in waiting])
        check_finite(embeddings, waiting)
        here = ranges_of(embeddings)
        found = here if found is None else np.stack([np.minimum(found[0], here[0]), np.maximum(found[1], here[1])])
        waiting.clear()

    with suppress(StopIteration):  # the last place is behind us
        for place, row in enumerate(corpus.rows(BadRows())):
            if place == wanted:
                waiting.append(row)
                if len(waiting) == WINDOW_BATCHES * options.batch_size:
                    look()
                wanted = next(places)
    if waiting:
        look()
    assert found is not None, "a corpus without rows has been refused"
    check_ranges(found, rows=count)
    return [[float(value) for value in side] for side in found]


def _finish(
    folder: OutputFolder,
    manifest: Manifest,
    done: dict[int, dict[str, Any]],
    limit: int | None,
    progress: Progress,
    there: int,
    seconds: float,
) -> EncodeResult:
    """Check that all is there, say so in the manifest, and add it up."""
    assert sorted(done) == list(range(manifest.shards)), "every shard is there"
    assert sum(record["rows"] for record in done.values()) == manifest.rows, "every row is there"
    totals: dict[str, Any] = {
        key: sum(record[key] for record in done.values()) for key in ("rows", "tokens", "empty", "cut", "clipped")
    }
    totals["longest"] = max(record["longest"] for record in done.values())
    if not manifest.complete:
        folder.write(dataclasses.replace(manifest, complete=True, totals=totals))
    return EncodeResult(
        output=folder.path,
        **totals,
        limit=limit,
        bad_rows=manifest.input["bad_rows"],
        shards=manifest.shards,
        new_rows=progress.done - there,
        new_tokens=progress.tokens,
        seconds=seconds,
    )
