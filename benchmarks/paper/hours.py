"""What the paper's experiments would take on one 32 GB GPU: an estimate, by this package's own cost and memory code.

    python -m benchmarks.paper.hours            # prints the table
    python -m benchmarks.paper.hours --write    # writes it into README.md here

Nothing of it is measured. FLOP are those of `recipe.bill` (every term: attention, what is computed again,
de-quantising, validation and scoring), hours are FLOP over a published peak rate times a share of it, memory is
`recipe.memory`'s.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean

from benchmarks import lengths
from benchmarks.paper import grid
from benchmarks.paper.names import BLOOM, MBERT, RANKS, XNLI_LANGUAGES, label
from lacos_st.presets import PRESETS
from lacos_st.recipe.activations import SIDES
from lacos_st.recipe.bill import bill_of
from lacos_st.recipe.budget import MEASURED, gpu_rate
from lacos_st.recipe.gpus import GIB, gpu
from lacos_st.recipe.job import Job, Method
from lacos_st.recipe.memory import predict
from lacos_st.recipe.published import published_shape
from lacos_st.recipe.shapes import ModelShape, shape_of
from lacos_st.report import markdown_table

README = Path(__file__).parent / "README.md"
START, END = "<!-- hours: written by benchmarks/paper/hours.py -->", "<!-- end of hours -->"
GPU = "v100"
CAUTIOUS = 0.25
"""Of the peak: beside the share that was measured on a CPU, plain arithmetic for a reader who trusts it less."""

# Rows of the public sets: Bowman et al. 2015 and the sets' pages; as `sentence-transformers/all-nli` counts them.
SNLI_PAIRS, SNLI_ROWS = 183_416, 549_367
MNLI_PAIRS, MNLI_ROWS = 130_899, 392_702
HELD_OUT_PAIRS, HELD_OUT_ROWS = 3_368 + 3_479, 9_824 + 9_815
XNLI_HELD_OUT_PAIRS, XNLI_HELD_OUT_ROWS = 830, 2_490  # of one language
EVALUATIONS = 11  # of the validation loss: before training, and at each tenth of it
STS_SENTENCES = 29_944  # different ones in the seven English sets and STS17
XSTS_SENTENCES = 10 * 2 * 1_379 + 7 * 2 * 250  # at most


@dataclass(frozen=True)
class Part:
    """Trainings of one base by one method.

    Attributes:
        base: hub name.
        method: of training.
        rows: trained on, each once.
        held_out: rows of the validation loss.
        sentences: scored afterwards.
        rank: of the adapters.
        batch_size: pairs in a step.
        times: how many such trainings there are.
    """

    base: str
    method: Method
    rows: int
    held_out: int
    sentences: int
    rank: int = 4
    batch_size: int = 32
    times: int = 1


def experiments() -> dict[str, list[Part]]:
    """The paper's, with the commands' defaults."""
    pairs, rows = SNLI_PAIRS + MNLI_PAIRS, SNLI_ROWS + MNLI_ROWS
    many, held = len(XNLI_LANGUAGES), XNLI_HELD_OUT_PAIRS
    rank = {base: RANKS.get(base, PRESETS["paper"].lora_rank) for base in BLOOM}
    return {
        "table1": [
            *(Part(base, "lacos", pairs, HELD_OUT_PAIRS, STS_SENTENCES, rank[base]) for base in BLOOM),
            Part(MBERT, "sbert", rows, HELD_OUT_ROWS, STS_SENTENCES),
        ],
        "table2": [Part(BLOOM[1], method, pairs, HELD_OUT_PAIRS, STS_SENTENCES) for method in ("lacos", "full")],
        "figure4": [Part(base, "lacos", pairs, HELD_OUT_PAIRS, 0, rank) for base in BLOOM for rank in grid.RANKS],
        "grid": [
            Part(base, "lacos", pairs, HELD_OUT_PAIRS, 0, rank, batch, len(grid.RATES))
            for base in BLOOM
            for rank in grid.RANKS
            for batch in grid.BATCH_SIZES
        ],
        "xsts": [
            *(Part(base, "lacos", many * MNLI_PAIRS, many * held, XSTS_SENTENCES, rank[base]) for base in BLOOM),
            Part(MBERT, "sbert", many * MNLI_ROWS, many * XNLI_HELD_OUT_ROWS, XSTS_SENTENCES),
        ],
    }


@cache
def shape(base: str) -> ModelShape:
    """Of a published BLOOM, or of the baseline: Devlin et al.'s base size with 119,547 word pieces."""
    if base == MBERT:
        from transformers import AutoConfig

        return shape_of(AutoConfig.for_model("bert", vocab_size=119_547))
    return published_shape(label(base))


@cache
def _lengths() -> tuple[float, float]:
    """Of the sentences of NLI: their mean, and the mean of their squares."""
    tokens = [side.tokens for pair in lengths.read() for side in pair]
    return fmean(tokens), fmean(length**2 for length in tokens)


def job(part: Part) -> Job:
    """What is trained, on sentences of the lengths of NLI; half precision but where base weights are trained."""
    length, mean_square = _lengths()
    return Job(
        method=part.method,
        batch_size=part.batch_size,
        length=length,
        mean_square=mean_square,
        dtype="float16" if part.method == "lacos" else "float32",
        device="cuda",
        rank=part.rank,
    )


def flops(part: Part) -> float:
    """All trainings of a part, their validation and scoring."""
    asked = job(part)
    served = (SIDES * part.held_out * EVALUATIONS + part.sentences) * asked.length
    bill = bill_of(shape(part.base), asked, tokens=SIDES * part.rows * asked.length, serve_tokens=served)
    return part.times * bill.flops.total


def table() -> str:
    """A line for each command: trainings, FLOP, hours at two shares of the peak, and the largest training's memory."""
    rates = [gpu_rate(GPU).flops_per_second, gpu_rate(GPU, utilization=CAUTIOUS).flops_per_second]
    shares = [f"hours at {share:.0%} of the peak" for share in (MEASURED.share, CAUTIOUS)]
    lines = [["command", "trainings", "FLOP", *shares, "largest predicted peak"]]
    parts = experiments()
    for name, found in {**parts, f"of table1, {label(BLOOM[-1])}": [parts["table1"][len(BLOOM) - 1]]}.items():
        total = sum(map(flops, found))
        peaks = [predict(shape(part.base), job(part)).peak for part in found]
        peak, largest = max(zip(peaks, found, strict=True), key=lambda one: one[0])
        memory = f"{peak / GIB:.1f} GiB ({label(largest.base)}, {largest.method})"
        trainings = sum(part.times for part in found)
        lines.append([name, str(trainings), f"{total:.2e}", *(_hours(total / rate) for rate in rates), memory])
    return markdown_table(lines)


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:.1f}" if hours < 100 else f"{hours:,.0f}"


def rewrite(text: str) -> str:
    """README's text with the table between the markers replaced.

    Raises:
        ValueError: a marker is missing.
    """
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise ValueError(f"README.md lacks the marker lines {START!r} and {END!r}: put them back")
    return f"{before}{START}\n\n{table()}\n\n{END}{after}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="into README.md here")
    if parser.parse_args(arguments).write:
        README.write_text(rewrite(README.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(f"{gpu(GPU)[1].source}\n\n{table()}")


if __name__ == "__main__":
    main()
