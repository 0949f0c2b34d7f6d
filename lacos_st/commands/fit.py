"""`lacos-st fit`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lacos_st.commands.parsing import add_command
from lacos_st.errors import UserError

BOOTSTRAP = 200
PLOTS = ("isoflops.png", "sizes.png", "frontier.png")

EXAMPLES = (
    "lacos-st fit runs.csv --output law.json --plots plots",
    "lacos-st fit runs.csv --budgets 1e15 1e16 --extrapolate --json",
)


def fit(arguments: argparse.Namespace) -> None:
    """Fit the laws L(N, D) and L(S, N, D) on a sweep's table of runs, and say what the runs do not determine."""
    from lacos_st.recipe.runs_table import fittable, read_runs
    from lacos_st.recipe.units import parse_flops

    budgets = [parse_flops(budget) for budget in arguments.budgets or ()]
    if arguments.bootstrap < 0:
        raise UserError(f"--bootstrap is {arguments.bootstrap}: expected 0 (no intervals) or more")
    if arguments.seed < 0:
        raise UserError(f"--seed is {arguments.seed}: expected 0 or more")
    if arguments.plots is not None and arguments.plots.is_file():
        raise UserError(f"--plots {arguments.plots} is a file: expected a folder")
    plots = [] if arguments.plots is None else [arguments.plots / name for name in PLOTS]
    for path in [*plots, *([] if arguments.output is None else [arguments.output])]:
        if path.exists() and not arguments.overwrite:
            raise UserError(f"{path} exists: choose another place, or say --overwrite")
    table = read_runs(arguments.runs)
    runs = fittable(table, methods=arguments.methods or (), family=arguments.family, source=str(arguments.runs))

    import json
    from datetime import UTC, datetime

    from lacos_st.recipe.law_file import FORMS, fit_laws
    from lacos_st.recipe.law_report import as_json, report

    family = next(iter(runs.values()))[0].family
    laws = fit_laws(
        runs,
        source=arguments.runs.name,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        forms=arguments.forms or FORMS,
        bootstrap=arguments.bootstrap,
        seed=arguments.seed,
        unreached=sum(run.family == family and run.method in runs and not run.reached for run in table),
    )
    lines = list(report(laws, budgets, extrapolate=arguments.extrapolate))  # before anything is written: it may refuse
    if arguments.output is not None:
        laws.save(arguments.output)
    if plots:
        from lacos_st.recipe.estimate import observe
        from lacos_st.recipe.law_plots import plot_frontier, plot_isoflops, plot_sizes

        points = {method: observe(of_method, "ND") for method, of_method in runs.items()}
        for draw, path in zip((plot_isoflops, plot_sizes, plot_frontier), plots, strict=True):
            draw(laws, points, path, form=laws.laws[0].form)
    if arguments.json:
        lines = [json.dumps(as_json(laws, budgets, extrapolate=arguments.extrapolate), ensure_ascii=False, indent=1)]
    for line in lines:
        print(line)


def add(commands: Any) -> None:
    """Add the command to the command line."""
    parser = add_command(commands, "fit", fit, examples=EXAMPLES)
    parser.add_argument("runs", type=Path, metavar="RUNS.csv", help="table of runs, as lacos-st sweep writes it")
    parser.add_argument("--output", type=Path, metavar="FILE", help="where the laws go, as JSON")
    parser.add_argument("--plots", type=Path, metavar="DIR", help=f"folder for {', '.join(PLOTS)}")
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help="these only [all in the table]")
    parser.add_argument("--family", metavar="NAME", help="of the models, where the table holds several")
    parser.add_argument("--forms", nargs="+", choices=("ND", "SND"), help="L(N, D), L(S, N, D) [both]")
    parser.add_argument(
        "--bootstrap", type=int, default=BOOTSTRAP, metavar="N", help=f"samples for intervals [{BOOTSTRAP}]"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of those samples [0]")
    parser.add_argument(
        "--budgets", nargs="+", metavar="FLOP", help="at which to name the best size [those of the runs]"
    )
    parser.add_argument(
        "--extrapolate", action="store_true", help="also budgets more than ten times beyond those of the runs"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
