"""`lacos-st encode` of many short sentences: sentences/s, peak memory by rows, a kill half-way and what comes after it.

    python -m benchmarks.corpus [--quick] [--rows 10000 100000 1000000] [--batch-size 128] [--workers 1]

The command is run as a user would, in a process of its own, on bloom-nano. The largest corpus is encoded by a run that
is killed (SIGKILL) once half of its shards are there, and by one that goes on. Then every row is counted and compared
with the corpus, and the embeddings of a sample with those of one call of `encode`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet

from benchmarks import rows
from lacos_st.lexicon import ADJECTIVES, NOUNS, VERBS

MODEL = "bloom-nano"
WORDS = [*ADJECTIVES, *NOUNS, *VERBS]
FULL, QUICK = (10_000, 100_000, 1_000_000), (500, 1_000, 2_000)
SHARDS = 20
"""Of the largest corpus: a kill costs at most a twentieth, and there is a half."""
SAMPLE = 997
MIB = 2**20
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Run:
    """One run of the command: how long it took, its peak of resident memory, and whether it was killed."""

    seconds: float
    peak_bytes: int
    killed: bool


def sentence(number: int) -> str:
    """The sentence of a row: three to seven words; every 1,000th is empty."""
    draw = random.Random(number)
    return " ".join(draw.choices(WORDS, k=draw.randint(3, 7))) if number % 1000 else ""


def write_corpus(path: Path, count: int) -> None:
    """One sentence a line."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(sentence(number) + "\n" for number in range(count))


def run(arguments: Sequence[str], *, journal: Path | None = None, kill_at: int = 0) -> Run:
    """Run `lacos-st encode`; kill it as soon as `journal` has `kill_at` lines, if that is not 0."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "lacos_st", "encode", *arguments], stderr=subprocess.DEVNULL)
    killed = False
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        if kill_at and journal is not None and not killed and _lines(journal) >= kill_at:
            process.send_signal(signal.SIGKILL)
            killed = True
        time.sleep(POLL_SECONDS)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != (-signal.SIGKILL if killed else 0):
        raise RuntimeError(f"lacos-st encode ended with {process.returncode}")
    return Run(time.perf_counter() - start, usage.ru_maxrss * 1024, killed)


def _lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.is_file() else 0


def check(output: Path, count: int) -> dict[str, Any]:
    """Count the rows of the shards, in order, and compare a sample's embeddings with one call of `encode`."""
    from lacos_st.models import load_model

    wrong, place = 0, 0
    sample: list[tuple[int, np.ndarray]] = []
    for shard in sorted(output.glob("shard-*.parquet")):
        for batch in pyarrow.parquet.ParquetFile(shard).iter_batches(10_000):
            here = np.arange(place, place + len(batch))
            wrong += int((batch["row"].to_numpy() != here).sum() + (batch["line"].to_numpy() != here + 1).sum())
            vectors = batch["embedding"].flatten().to_numpy().reshape(len(batch), -1)
            sample += [(int(row), vectors[row - place].copy()) for row in here if row % SAMPLE == 0]
            place += len(batch)
    alone = load_model(MODEL).encode([sentence(row) for row, _ in sample])
    difference = float(np.abs(alone - np.stack([vector for _, vector in sample])).max())
    return {
        "rows": place,
        "rows_expected": count,
        "out_of_order": wrong,
        "sample": len(sample),
        "max_difference": difference,
    }


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run all sizes, print the figures, append the row and return it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small corpora, in a minute")
    parser.add_argument("--rows", type=int, nargs="+", metavar="N", help="rows of each corpus, ascending")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args(arguments)
    sizes = options.rows or (QUICK if options.quick else FULL)
    runs: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for count in sizes:
            write_corpus(folder / "corpus.txt", count)
            output, largest = folder / f"out-{count}", count == sizes[-1]
            line = [MODEL, str(folder / "corpus.txt"), str(output), "--batch-size", str(options.batch_size)]
            line += ["--shard-rows", str(-(-sizes[-1] // SHARDS)), "--workers", str(options.workers)]
            done = [run(line, journal=output / "shards.jsonl", kill_at=SHARDS // 2 if largest else 0)]
            there = _lines(output / "shards.jsonl")
            if largest:
                done.append(run([*line, "--resume"]))
            records = [json.loads(text) for text in (output / "shards.jsonl").read_text("utf-8").splitlines()]
            seconds = sum(record["seconds"] for record in records)
            runs[str(count)] = {
                "seconds": round(sum(one.seconds for one in done), 1),
                "encoding_seconds": round(seconds, 1),
                "sentences_per_second": round(count / seconds, 1),
                "tokens_per_second": round(sum(record["tokens"] for record in records) / seconds, 1),
                "peak_bytes": max(one.peak_bytes for one in done),
                "killed_after_shards": there if largest else None,
            }
            print(f"{count:>9,} rows: {runs[str(count)]}", flush=True)
        checked = check(output, sizes[-1])
    print(f"after the kill and the resume: {checked}")
    return rows.append(
        "corpus",
        quick=options.quick,
        model=MODEL,
        batch_size=options.batch_size,
        workers=options.workers,
        shards=SHARDS,
        runs=runs,
        check=checked,
    )


if __name__ == "__main__":
    main()
