"""`encode` of sentences of mixed length: seconds, useful GFLOP/s, and the share of plain matrix products' rate.

    python -m benchmarks.encoding [--quick] [--ways stock ours-8bit ...] [--repetitions 3] [--rank 0]
        [--batch-sizes 32 128]

2,000 sentences of recorded NLI lengths through stock `SentenceTransformer.encode`, which sorts by characters; in
batches of 32, its default, and of 128, as for a corpus. Without --rank there are no adapters: stock's could be merged
into its weights.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from benchmarks import ceiling, contenders, lengths, rows, synthetic
from benchmarks.contest import Contender, OtherWork, turns
from benchmarks.figures import compare, rates_table, spread
from benchmarks.ways import TRAINED, options_parser, report_failures
from lacos_st.recipe.cost import useful_flops
from lacos_st.recipe.shapes import shape_of

BATCH_SIZES = (32, 128)
SENTENCES = 2000
QUICK_SENTENCES = 256
CHECK_SENTENCES = 24
CEILING_SENTENCES = 512
"""Products of as many sentences give the rate."""


class Encoding:
    """One way's model, in its process.

    Args:
        way: of `ways.WAYS`, or the reference.
        folder: of the checkpoint.
        words: of `Shape`.
        rank: of the adapters; 0 for none.
    """

    def __init__(self, way: str, *, folder: str, words: int, rank: int) -> None:
        self.model = contenders.build(way, folder, rank=rank)
        self.sentences = [text for pair in lengths.texts(lengths.read(), words=words) for text in pair]

    def check(self) -> dict[str, Any]:
        """Embeddings of a few sentences; also the warm-up."""
        embeddings = self.model.encode(self.sentences[:CHECK_SENTENCES], convert_to_tensor=True)
        return {"embeddings": embeddings.tolist()}

    def repeat(self, count: int, batch_size: int) -> dict[str, Any]:
        """Encode the first `count` sentences."""
        start = time.perf_counter()
        self.model.encode(self.sentences[:count], batch_size=batch_size)
        return {"seconds": time.perf_counter() - start}


def contest(
    alive: Sequence[Contender], products: Contender, counts: Sequence[int], flops: float, *, batch_size: int, times: int
) -> dict[str, Any]:
    """Every way, and the plain products, in turn.

    Args:
        alive: the ways.
        products: the ceiling.
        counts: tokens of the sentences.
        flops: that encoding them takes.
        batch_size: of `encode`.
        times: turns.

    Returns:
        "ways": by name seconds, useful GFLOP/s, how many times as fast as stock, share of the ceiling, each with its
        spread; and the ceiling.
    """
    programs: dict[Contender, list[dict[str, Any]]] = {
        contender: [{"do": "repeat", "count": len(counts), "batch_size": batch_size}] * times for contender in alive
    }
    typical = [sum(counts) * batch_size // len(counts)] * (CEILING_SENTENCES // batch_size or 1)
    programs[products] = [{"do": "repeat", "batches": typical}] * times
    with OtherWork(programs) as others:
        answers = turns(programs)
    form, highest = ceiling.fastest(answers.pop(products.name))
    seconds = {name: [answer["seconds"] for answer in found] for name, found in answers.items()}
    figures = compare(seconds, [flops] * times, highest)
    limit = spread(highest)
    print(f"\n{len(counts)} sentences, {sum(counts)} tokens, batches of {batch_size}, {times} times\n")
    print(rates_table(figures, form=form, highest=limit, what="encode"))
    print(f"\nCores kept busy by other programs meanwhile: {others.cores}")
    return {"other_work_cores": others.cores, "ceiling": {"form": form, "gflops": limit}, "ways": figures}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the contests, print the tables, append the row and return it."""
    parser = options_parser(__doc__, ways=TRAINED, repetitions=3)
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=BATCH_SIZES, metavar="N", help="of encode")
    options = parser.parse_args(arguments)
    shape = synthetic.QUICK if options.quick else synthetic.FULL
    count = QUICK_SENTENCES if options.quick else SENTENCES
    counts = [sentence.tokens for pair in lengths.read() for sentence in pair][:count]
    flops = useful_flops(
        shape_of(shape.config), counts, method="lacos" if options.rank else "full", rank=options.rank or 4
    )
    with ExitStack() as stack:
        alive, checks = contenders.line_up_on(
            stack, "benchmarks.encoding:Encoding", options.ways, shape=shape, rank=options.rank
        )
        products = stack.enter_context(
            Contender("ceiling", "benchmarks.ceiling:Ceiling", shape=asdict(shape), training=False)
        )
        products.ask("repeat", batches=[32])  # the warm-up
        contests = {
            str(size): contest(alive, products, counts, flops, batch_size=size, times=options.repetitions)
            for size in options.batch_sizes
        }
    report_failures(checks)
    return rows.append(
        "encoding",
        quick=options.quick,
        shape=asdict(shape),
        rank=options.rank,
        sentences=count,
        real_tokens=sum(counts),
        useful_tflop=round(flops / 1e12, 4),
        checks=checks,
        batch_sizes=contests,
    )


if __name__ == "__main__":
    main()
