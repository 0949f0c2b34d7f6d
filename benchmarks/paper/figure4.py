"""Figure 4 of the paper: validation loss by rank and size, brought to one range for each size.

    python -m benchmarks.paper.figure4
    python -m benchmarks.paper.figure4 --bases bloom-nano OTHER --data NLI --ranks 1 4 16 --max-steps 60

The paper says "normalised to a common range" and no more. Here the losses of a size are mapped to 0 (its lowest) .. 1
(its highest), (loss - min) / (max - min), so that the best rank of every size can be seen side by side.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

from benchmarks.paper.cells import VALIDATION_BATCH, Cell, Row, done
from benchmarks.paper.grid import RANKS
from benchmarks.paper.lines import Line, Panel, plot_lines
from benchmarks.paper.names import label
from benchmarks.paper.options import Defaults, main, parser, study
from benchmarks.paper.study import Study
from lacos_st.atomic import write_text
from lacos_st.errors import UserError
from lacos_st.report import markdown_table

DEFAULTS = Defaults(tasks=(), own=("lora_rank",))
QUICK_RANKS = (1, 4)
Losses = Mapping[int, float | None]


def cells(planned: Study, ranks: Sequence[int]) -> list[Cell]:
    """Every base with every rank.

    Raises:
        UserError: there is one rank, which no range can be made of.
    """
    if len(ranks) < 2:
        raise UserError(f"--ranks {' '.join(map(str, ranks))}: a range needs two ranks or more, such as 1 2 4 8 16")
    return [
        Cell(f"{label(base)} r={rank}", planned.config(base, "lacos", lora_rank=rank))
        for base in planned.bases
        for rank in ranks
    ]


def normalised(losses: Losses) -> dict[int, float | None]:
    """One size's losses by rank as (loss - min) / (max - min); 0 where all are the same.

    >>> normalised({1: 2.0, 4: 1.0, 16: 1.5, 32: None})
    {1: 1.0, 4: 0.0, 16: 0.5, 32: None}

    Args:
        losses: by rank; None where the training diverged.
    """
    finite = [loss for loss in losses.values() if loss is not None]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    span = (high - low) or 1.0
    return {rank: None if loss is None else (loss - low) / span for rank, loss in losses.items()}


def options() -> argparse.ArgumentParser:
    """Its command line."""
    made = parser("figure4", __doc__, DEFAULTS)
    made.add_argument("--ranks", type=int, nargs="+", metavar="N", help=f"[{' '.join(map(str, RANKS))}]")
    return made


def run(arguments: list[str] | None = None) -> list[Row]:
    """Do what is left, write table and plot, and return the rows."""
    given = options().parse_args(arguments)
    planned = study("figure4", given, DEFAULTS)
    ranks = tuple(sorted(set(given.ranks or (QUICK_RANKS if planned.quick else RANKS))))
    found = done(planned, cells(planned, ranks), scored=False)
    losses: dict[str, dict[int, float | None]] = {}
    for row in found:
        losses.setdefault(row["cell"]["base"], {})[row["cell"]["settings"]["lora_rank"]] = row["validation_loss"]
    text = table(losses)
    write_text(planned.file(".md"), text)
    lines = tuple(Line(base, tuple(normalised(of_base).items())) for base, of_base in losses.items())
    plot_lines(
        [Panel("0: the lowest of a size, 1: its highest", lines)],
        planned.file(".png"),
        title="Validation loss by rank and size, normalised for each size",
        ylabel="normalised validation loss",
    )
    print(f"{text}\nrows, table and plot: {planned.file('.*')}")
    return found


def table(losses: Mapping[str, Losses]) -> str:
    """Losses and their normalised values, the lowest of each base in bold."""
    ranks = list(next(iter(losses.values())))
    lines = [["base", *(f"r={rank}" for rank in ranks)]]
    for base, of_base in losses.items():
        shares = normalised(of_base)
        cells_ = []
        for rank in ranks:
            loss, share = of_base[rank], shares[rank]
            text = "diverged" if loss is None or share is None else f"{loss:.4f} ({share:.2f})"
            cells_.append(f"**{text}**" if share == 0 else text)
        lines.append([base, *cells_])
    head = f"## Validation loss (batches of {VALIDATION_BATCH}) by rank, in brackets normalised for each base"
    return f"{head}\n\n{markdown_table(lines)}\n"


if __name__ == "__main__":
    main(run)
