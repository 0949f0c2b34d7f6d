"""Table 2 of the paper, its ablation: one size as it comes, with LACoS, and fine-tuned in full with the same loss.

    python -m benchmarks.paper.table2
    python -m benchmarks.paper.table2 --bases bloom-nano --data NLI --sts STS --train lacos.lr=2e-3 full.lr=1e-3

Beside the scores stands what each of them cost: numbers trained, FLOP by the recipe paper's count (2·N_F + 2·N_B +
2·N_U per token), the predicted peak of memory, and seconds.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace

from benchmarks.paper.cells import Cell, Row, done, model_scores, side_by_side, zero_shot
from benchmarks.paper.names import BLOOM, label
from benchmarks.paper.options import Defaults, main, parser, study
from benchmarks.paper.study import PAIRED, Study
from lacos_st.atomic import write_text
from lacos_st.embedded import resolve
from lacos_st.errors import UserError
from lacos_st.methods import load_rows
from lacos_st.plots import plot_scores
from lacos_st.recipe.bill import bill_of
from lacos_st.recipe.check import job_of
from lacos_st.recipe.memory import predict
from lacos_st.recipe.shapes import shape_of
from lacos_st.recipe.units import show_bytes
from lacos_st.report import AVERAGES, markdown_table
from lacos_st.settings import TrainConfig
from lacos_st.training import sampled_lengths

DEFAULTS = Defaults(bases=(BLOOM[1],))
METHODS = ("lacos", "full")


@dataclass(frozen=True)
class Cost:
    """What a training takes, predicted from the base's configuration and the sentences' lengths.

    Attributes:
        flops: the recipe paper's C.
        peak_bytes: of memory.
    """

    flops: float
    peak_bytes: int


def cost(config: TrainConfig, *, steps: int) -> Cost:
    """Of a training of so many steps."""
    from lacos_st.loading import read_config

    shape = shape_of(read_config(resolve(config.base)))
    sides = sampled_lengths(config, load_rows(config)[0])
    job = job_of(config, sides, device="cpu" if config.cpu else "cuda")
    lengths = [length for side in sides for length in side]
    mean = sum(lengths) / len(lengths)
    average = replace(job, length=mean, mean_square=sum(length**2 for length in lengths) / len(lengths))
    tokens = len(sides) * mean * config.batch_size * config.gradient_accumulation * steps
    return Cost(bill_of(shape, average, tokens=tokens).flops.paper, predict(shape, job).peak)


def cells(planned: Study, methods: tuple[str, ...]) -> list[Cell]:
    """The base as it comes, and trained by each method.

    Raises:
        UserError: there are several bases.
    """
    if len(planned.bases) != 1:
        raise UserError(f"--bases names {len(planned.bases)}: the ablation is at one size, name one")
    base = planned.bases[0]
    return [
        zero_shot(planned, base),
        *(Cell(f"{label(base)} {method}", planned.config(base, method)) for method in methods),
    ]


def options() -> argparse.ArgumentParser:
    """Its command line."""
    made = parser("table2", __doc__, DEFAULTS)
    made.add_argument(
        "--methods", nargs="+", choices=PAIRED, metavar="METHOD", help=f"of {', '.join(PAIRED)} [{' '.join(METHODS)}]"
    )
    return made


def run(arguments: list[str] | None = None) -> list[Row]:
    """Do what is left, write table and plot, and return the rows."""
    given = options().parse_args(arguments)
    planned = study("table2", given, DEFAULTS)
    planned_cells = cells(planned, tuple(dict.fromkeys(given.methods or METHODS)))
    found = done(planned, planned_cells, scored=True)
    costs = [
        cost(cell.config, steps=row["train"]["steps"]) if row["train"] else None
        for cell, row in zip(planned_cells, found, strict=True)
    ]
    text = table(found, costs)
    write_text(planned.file(".md"), text)
    scored = [row for row in found if not row["diverged"]]
    plot_scores(side_by_side(scored, baseline=found[0]["cell"]["name"]), planned.file(".png"))
    print(f"{text}\nrows, table and plot: {planned.file('.*')}")
    return found


def table(found: list[Row], costs: list[Cost | None]) -> str:
    """A line for each method: averages, validation loss and cost; then all tasks."""
    lines = [["model", *(f"{name} (cosine)" for name, _ in AVERAGES), "validation loss", *COSTS]]
    for row, spent in zip(found, costs, strict=True):
        train = row["train"]
        cells_ = [row["cell"]["name"]]
        for _, group in AVERAGES:
            scores = None if row["diverged"] else model_scores(row)
            best, cosine = (scores and scores.average(group, figure=figure) for figure in ("max", "cosine"))
            cells_.append("-" if best is None or cosine is None else f"{best:.2f} ({cosine:.2f})")
        cells_.append("diverged" if row["diverged"] else f"{row['validation_loss']:.4f}")
        if train is None or spent is None:
            cells_ += ["-"] * len(COSTS)
        else:
            said = (f"{spent.flops:.2e}", show_bytes(spent.peak_bytes), f"{train['seconds']:.0f}")
            cells_ += [f"{train['steps']}", f"{train['trained_parameters']:,}", *said]
        lines.append(cells_)
    report = side_by_side([row for row in found if not row["diverged"]], baseline=found[0]["cell"]["name"]).table()
    return f"## Spearman x100 and cost\n\n{markdown_table(lines)}\n\n{report}"


COSTS = ("steps", "numbers trained", "FLOP", "peak memory, predicted", "s")


if __name__ == "__main__":
    main(run)
