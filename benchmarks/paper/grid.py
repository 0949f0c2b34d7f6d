"""The paper's grid: batch x learning rate x rank for each size, and the best kept by its validation loss.

    python -m benchmarks.paper.grid
    python -m benchmarks.paper.grid --bases bloom-nano --data NLI --lrs 5e-4 2e-3 --ranks 1 4 16

Every training sees the same rows once. The validation loss is measured on the same held-out pairs in batches of 32,
whatever the batch of the training: a larger batch has more negatives, and so a higher loss at equal quality. The models
of all but the best are removed.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from typing import Any

from benchmarks import rows
from benchmarks.paper.cells import VALIDATION_BATCH, Cell, Row, done, run_folder
from benchmarks.paper.lines import Line, Panel, plot_lines
from benchmarks.paper.names import fingerprint, label
from benchmarks.paper.options import Defaults, main, parser, study
from benchmarks.paper.study import Study
from lacos_st.atomic import remove_folder, write_text
from lacos_st.errors import UserError
from lacos_st.report import markdown_table

CHOSEN = ("batch_size", "lr", "lora_rank")
DEFAULTS = Defaults(tasks=(), own=CHOSEN)
BATCH_SIZES, RATES, RANKS = (32, 64), (1e-4, 2e-5, 5e-5), (1, 2, 4, 8, 16)
QUICK = ((8, 16), (1e-3,), (1, 4))


def cells(planned: Study, batch_sizes: Sequence[int], rates: Sequence[float], ranks: Sequence[int]) -> list[Cell]:
    """Every combination, base by base."""
    found = []
    for base, batch, lr, rank in itertools.product(planned.bases, batch_sizes, rates, ranks):
        config = planned.config(base, "lacos", batch_size=batch, lr=lr, lora_rank=rank)
        found.append(Cell(f"{label(base)} n={batch} lr={lr:g} r={rank}", config))
    return found


def best(found: Sequence[Row]) -> Row:
    """The row with the lowest validation loss, the first of equals; one that diverged has none.

    Raises:
        UserError: all of them diverged.
    """
    finite = [row for row in found if row["validation_loss"] is not None]
    if not finite:
        raise UserError(f"all {len(found)} trainings of {found[0]['cell']['base']} diverged: give lower --lrs")
    return min(finite, key=lambda row: float(row["validation_loss"]))


def with_best(planned: Study, base: str) -> dict[str, Any]:
    """Batch, learning rate and rank of the best row that the grid left for a base, on the data of its newest row.

    Raises:
        UserError: it left none.
    """
    files = fingerprint([base])
    left = [row for row in rows.read("paper_grid", folder=planned.results) if row["cell"]["base_files"] == files]
    if not left:
        raise UserError(
            f"--from-grid: {planned.results / 'paper_grid.jsonl'} has no row of {base}: run python -m "
            "benchmarks.paper.grid for it first, or leave --from-grid out"
        )
    data = left[-1]["cell"]["data_files"]  # losses on other pairs cannot be compared
    settings = best([row for row in left if row["cell"]["data_files"] == data])["cell"]["settings"]
    return {name: settings[name] for name in CHOSEN}


def options() -> argparse.ArgumentParser:
    """Its command line."""
    made = parser("grid", __doc__, DEFAULTS)
    for name, kind, default in (("batch-sizes", int, BATCH_SIZES), ("lrs", float, RATES), ("ranks", int, RANKS)):
        said = " ".join(f"{value:g}" for value in default)
        made.add_argument(f"--{name}", type=kind, nargs="+", metavar="N", help=f"[{said}]")
    return made


def run(arguments: list[str] | None = None) -> list[Row]:
    """Do what is left, write table and plot, remove the models that were not the best, and return the rows."""
    given = options().parse_args(arguments)
    planned = study("grid", given, DEFAULTS)
    defaults = QUICK if planned.quick else (BATCH_SIZES, RATES, RANKS)
    batch_sizes, rates, ranks = (
        tuple(dict.fromkeys(values or default))
        for values, default in zip((given.batch_sizes, given.lrs, given.ranks), defaults, strict=True)
    )
    found = done(planned, cells(planned, batch_sizes, rates, ranks), scored=False)
    by_base = {base: [row for row in found if row["cell"]["base"] == base] for base in map(label, planned.bases)}
    kept = [best(of_base) for of_base in by_base.values()]
    for row in found:
        if row not in kept:
            remove_folder(run_folder(planned, row["cell"]).model)
    text = table(by_base)
    write_text(planned.file(".md"), text)
    plot_lines([_panel(base, of_base) for base, of_base in by_base.items()], planned.file(".png"), title=TITLE)
    print(f"{text}\nrows, table and plot: {planned.file('.*')}")
    for row in kept:
        model = run_folder(planned, row["cell"]).model
        print(f"best of {row['cell']['base']}: {model if model.is_dir() else 'its model is no longer there'}")
    return found


TITLE = f"Validation loss (batches of {VALIDATION_BATCH}), lower is better"


def table(by_base: dict[str, list[Row]]) -> str:
    """Every training, the lowest loss first, the best of each base in bold."""
    lines = [["base", "batch", "learning rate", "rank", "steps", "validation loss", "s"]]
    for of_base in by_base.values():
        first = best(of_base)
        for row in sorted(of_base, key=_loss):
            settings, train = row["cell"]["settings"], row["train"] or {}
            loss = "diverged" if row["diverged"] else f"{row['validation_loss']:.4f}"
            lines.append(
                [
                    row["cell"]["base"],
                    str(settings["batch_size"]),
                    f"{settings['lr']:g}",
                    str(settings["lora_rank"]),
                    str(train.get("steps", "-")),
                    f"**{loss}**" if row is first else loss,
                    f"{train['seconds']:.0f}" if train else "-",
                ]
            )
    return f"## {TITLE}\n\n{markdown_table(lines)}\n\nIn bold: the best of each base, whose model is kept.\n"


def _loss(row: Row) -> float:
    return float("inf") if row["validation_loss"] is None else float(row["validation_loss"])


def _panel(base: str, of_base: Sequence[Row]) -> Panel:
    """A base: a line over ranks for each batch and learning rate."""
    lines: dict[str, list[tuple[float, float | None]]] = {}
    for row in of_base:
        settings = row["cell"]["settings"]
        name = f"n={settings['batch_size']}, lr {settings['lr']:g}"
        lines.setdefault(name, []).append((settings["lora_rank"], row["validation_loss"]))
    return Panel(base, tuple(Line(name, tuple(sorted(points))) for name, points in lines.items()))


if __name__ == "__main__":
    main(run)
