"""One short query at a time: 8-bit, un-quantised, after `dequantize_`, and stock.

    python -m benchmarks.latency [--quick] [--ways stock ours-8bit ...] [--repetitions 5] [--rank 0]

A repetition is 40 calls of `encode` with a query of 8 tokens, each another one; its figure is their median.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from benchmarks import contenders, lengths, rows, synthetic
from benchmarks.contest import OtherWork, turns
from benchmarks.figures import ratios, show, spread, table
from benchmarks.lengths import Length
from benchmarks.ways import WAYS, options_parser, report_failures

QUERY = Length(tokens=8, characters=32)
CALLS = 40
DEFAULT = ("stock", "stock-8bit", "stock-nf4", "ours-8bit", "ours-dequantized", "ours-float")


class Latency:
    """One way's model, in its process.

    Args:
        way: of `ways.WAYS`, or the reference.
        folder: of the checkpoint.
        words: of `Shape`.
        rank: of the adapters; 0 for none.
    """

    def __init__(self, way: str, *, folder: str, words: int, rank: int) -> None:
        self.model = contenders.build(way, folder, rank=rank)
        generator = random.Random(0)
        self.queries = [lengths.text(QUERY, words=words, generator=generator) for _ in range(CALLS)]

    def check(self) -> dict[str, Any]:
        """Embeddings of some queries, one at a time; also the warm-up."""
        return {"embeddings": [self.model.encode(query).tolist() for query in self.queries[:8]]}

    def repeat(self) -> dict[str, Any]:
        """Median seconds of one query."""
        seconds = []
        for query in self.queries:
            start = time.perf_counter()
            self.model.encode(query, show_progress_bar=False)
            seconds.append(time.perf_counter() - start)
        return {"seconds": statistics.median(seconds)}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the contest, print the table, append the row and return it."""
    options = options_parser(__doc__, ways=tuple(WAYS), default=DEFAULT, repetitions=5).parse_args(arguments)
    shape = synthetic.QUICK if options.quick else synthetic.FULL
    with ExitStack() as stack:
        alive, checks = contenders.line_up_on(
            stack, "benchmarks.latency:Latency", options.ways, shape=shape, rank=options.rank
        )
        with OtherWork(alive) as others:
            answers = turns({contender: [{"do": "repeat"}] * options.repetitions for contender in alive})
    seconds = {name: [answer["seconds"] for answer in found] for name, found in answers.items()}
    figures: dict[str, dict[str, Any]] = {}
    for name, values in seconds.items():
        figures[name] = {
            "milliseconds": spread([1000 * value for value in values]),
            "times_as_fast_as_stock": ratios(values, seconds["stock"]),
        }
        if "ours-float" in seconds:
            figures[name]["time_over_float"] = ratios(seconds["ours-float"], values)
    print(f"\nOne query of {QUERY.tokens} tokens, {options.repetitions} times the median of {CALLS}\n")
    lines = [
        [
            WAYS[name].label,
            show(found["milliseconds"], unit=" ms"),
            show(found["times_as_fast_as_stock"], unit="x"),
            show(found.get("time_over_float"), unit="x"),
        ]
        for name, found in figures.items()
    ]
    print(table(["way", "a query", "as fast as stock", "time over un-quantised"], lines))
    print(f"\nCores kept busy by other programs meanwhile: {others.cores}")
    report_failures(checks)
    return rows.append(
        "latency",
        quick=options.quick,
        shape=asdict(shape),
        rank=options.rank,
        query_tokens=QUERY.tokens,
        other_work_cores=others.cores,
        checks=checks,
        ways=figures,
    )


if __name__ == "__main__":
    main()
