"""Table 1 of the paper: sizes of one family, trained on English NLI, on the STS tasks beside the SBERT baseline.

    python -m benchmarks.paper.table1
    python -m benchmarks.paper.table1 --bases bloom-nano --baseline bert-nano --data NLI --sts STS --max-steps 100

Each base is trained by lacos, the baseline by sbert's softmax over three classes, on the same rows. The figure of merit
is the highest Spearman of four similarities; STS-Avg is over the seven English sets.
"""

from __future__ import annotations

import argparse

from benchmarks.paper.cells import Cell, Row, done, side_by_side, zero_shot
from benchmarks.paper.grid import with_best
from benchmarks.paper.names import label
from benchmarks.paper.options import Defaults, main, parser, study
from benchmarks.paper.study import Study
from lacos_st.atomic import write_text
from lacos_st.canvas import COLOURS
from lacos_st.errors import UserError
from lacos_st.plots import plot_scores

DEFAULTS = Defaults()


def cells(planned: Study, *, with_zero_shot: bool, from_grid: bool) -> list[Cell]:
    """The baseline, every base trained and, if asked, every base as it comes.

    Raises:
        UserError: there are more models than a plot can tell apart, or no grid of a base.
    """
    if len(planned.bases) >= len(COLOURS):
        raise UserError(
            f"{len(planned.bases)} bases and a baseline: a plot tells {len(COLOURS)} models apart; name at most "
            f"{len(COLOURS) - 1} with --bases, and the others in a second run with another --results"
        )
    best = {base: with_best(planned, base) if from_grid else {} for base in planned.bases}
    baseline = Cell(f"sbert-{label(planned.baseline)}", planned.config(planned.baseline, "sbert"))
    trained = [Cell(f"lacos-{label(base)}", planned.config(base, "lacos", **best[base])) for base in planned.bases]
    as_they_come = [zero_shot(planned, base) for base in (planned.baseline, *planned.bases)] if with_zero_shot else []
    return [baseline, *as_they_come, *trained]


def options() -> argparse.ArgumentParser:
    """Its command line."""
    made = parser("table1", __doc__, DEFAULTS, baseline=True)
    add_choices(made)
    return made


def add_choices(made: argparse.ArgumentParser) -> None:
    """What can be chosen where bases stand beside the baseline."""
    made.add_argument("--zero-shot", action="store_true", help="score the bases as they come too")
    made.add_argument("--from-grid", action="store_true", help="batch, rate and rank: the best of grid's rows")


def run(arguments: list[str] | None = None) -> list[Row]:
    """Do what is left, write table and plot, and return the rows."""
    given = options().parse_args(arguments)
    planned = study("table1", given, DEFAULTS)
    found = done(planned, cells(planned, with_zero_shot=given.zero_shot, from_grid=given.from_grid), scored=True)
    write_scores(planned, found)
    return found


def write_scores(planned: Study, found: list[Row]) -> None:
    """The table of all rows with scores; the plot of as many as can be told apart, the trained ones first."""
    found = [row for row in found if not row["diverged"]]
    baseline = f"sbert-{label(planned.baseline)}"
    table = side_by_side(found, baseline=baseline).table()
    write_text(planned.file(".md"), table)
    if len(found) > len(COLOURS):
        found = [row for row in found if row["train"] is not None]
    plot_scores(side_by_side(found, baseline=baseline), planned.file(".png"))
    print(f"{table}\nrows, table and plot: {planned.file('.*')}")


if __name__ == "__main__":
    main(run)
