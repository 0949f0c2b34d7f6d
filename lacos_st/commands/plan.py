"""`lacos-st plan`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lacos_st.commands.parsing import add_command
from lacos_st.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from lacos_st.recipe.budget import Rate
    from lacos_st.recipe.plan import Plan
    from lacos_st.recipe.proposal import Request

PAPER = "paper"
OUTPUT = "planned"

EXAMPLES = (
    "lacos-st plan --flops 1e17",
    "lacos-st plan --gpu h100 --hours 6 --family bloom --pairs 2e6",
    "lacos-st plan --flops 1e16 --yaml run.yaml --data pairs.tsv && lacos-st train --config run.yaml",
)


def plan(arguments: argparse.Namespace) -> None:
    """From a budget to a run: base, data, method and setting with the lowest expected loss, what it costs, and why."""
    _check(arguments)
    from lacos_st.recipe.family import family_of
    from lacos_st.recipe.plan_text import as_json, as_yaml, config_of, lines

    family = family_of(arguments.family, _read_config)
    shared = _conditions(arguments)
    request = _request(arguments, shared)
    found, plots = _planned(arguments, family, request)
    if arguments.yaml is not None:
        values = config_of(found.best, data=arguments.data, output=arguments.output, shared=shared)
        arguments.yaml.parent.mkdir(parents=True, exist_ok=True)
        arguments.yaml.write_text(as_yaml(found, values), encoding="utf-8")
    if arguments.json:
        print(json.dumps(as_json(found), indent=2, ensure_ascii=False))
        return
    for line in lines(found):
        print(line)
    for path in plots:
        print(f"plot: {path}")
    if arguments.yaml is not None:
        print(f"to run it: lacos-st train --config {arguments.yaml}")


def _read_config(base: str) -> PreTrainedConfig:
    from lacos_st.embedded import resolve
    from lacos_st.loading import read_config

    return read_config(resolve(base))


def _check(arguments: argparse.Namespace) -> None:
    """What needs nothing to be read or measured."""
    from lacos_st.recipe.units import parse_flops, parse_seconds

    if arguments.flops is not None:
        parse_flops(arguments.flops)
    if arguments.hours is not None:
        parse_seconds(arguments.hours, unit="h")
    if arguments.gpu is not None and arguments.device:
        raise UserError("--gpu and --device are two machines: name a GPU, or measure this one")
    if arguments.utilization is not None and arguments.gpu is None:
        raise UserError("--utilization is a part of a GPU's published rate: it needs --gpu")
    if arguments.yaml is not None and not arguments.data:
        raise UserError("--yaml writes a run that can be started: say what it is trained on, with --data")
    if arguments.yaml is None and (arguments.data or arguments.output != OUTPUT):
        raise UserError("--data and --output go into the file of --yaml: name it")
    if arguments.yaml is not None and arguments.yaml.exists() and not arguments.overwrite:
        raise UserError(f"{arguments.yaml} exists: choose another place, or say --overwrite")
    if arguments.law == PAPER and (arguments.plots or arguments.runs or arguments.extrapolate):
        raise UserError(
            "--plots, --runs and --extrapolate are for a fitted law, and the paper's constants are not published: give "
            "a file of lacos-st fit, --law FILE"
        )


def _request(arguments: argparse.Namespace, shared: dict[str, Any]) -> Request:
    from lacos_st.recipe.budget import budget_of
    from lacos_st.recipe.choice import as_read, common_config
    from lacos_st.recipe.proposal import Request
    from lacos_st.recipe.units import parse_bytes, parse_count

    rate = _rate(arguments)
    budget = budget_of(flops=arguments.flops, hours=arguments.hours, rate=rate)
    memory = None if rate is None else rate.memory_bytes
    pairs = None if arguments.pairs is None else parse_count(arguments.pairs, name="--pairs")
    given = {"length": arguments.length, "batch_size": arguments.batch_size}
    common = common_config(shared) if shared else None
    if common is not None:
        length = Request.length if arguments.length is None else arguments.length
        given = {"length": as_read(length, common), "batch_size": arguments.batch_size or common.batch_size}
    return Request(
        budget=budget,
        device="cpu" if rate is None else rate.device,
        dtype=arguments.dtype or ("float32" if rate is None else rate.dtype),
        memory_bytes=memory if arguments.memory is None else parse_bytes(arguments.memory),
        pairs=pairs,
        serve_tokens=0.0
        if arguments.serve_tokens is None
        else parse_count(arguments.serve_tokens, name="--serve-tokens"),
        common=common,
        **{name: value for name, value in given.items() if value is not None},
    )


def _conditions(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.runs is None:
        return {}
    from lacos_st.recipe.choice import conditions

    return conditions(arguments.runs)


def _rate(arguments: argparse.Namespace) -> Rate | None:
    if arguments.gpu is not None:
        from lacos_st.recipe.budget import gpu_rate

        return gpu_rate(arguments.gpu, utilization=arguments.utilization)
    if arguments.device:
        from lacos_st.speed import measured_rate

        return measured_rate()
    return None


def _planned(arguments: argparse.Namespace, family: Any, request: Request) -> tuple[Plan, list[Path]]:
    """The plan, and the plots of it that were written."""
    from lacos_st.recipe.law_file import load_laws
    from lacos_st.recipe.plan import plan_by_law, plan_by_paper
    from lacos_st.recipe.shipped import law_path, shipped_laws

    if arguments.law == PAPER:
        return plan_by_paper(family, request, shipped=shipped_laws()), []
    laws = load_laws(law_path(arguments.law))
    runs = {}
    if arguments.runs is not None:
        from lacos_st.recipe.runs_table import fittable, read_runs, rows_sha256

        runs = fittable(read_runs(arguments.runs), methods=laws.methods, family=laws.family, source=str(arguments.runs))
        if rows_sha256(run for of in runs.values() for run in of) != laws.provenance.rows_sha256:
            raise UserError(
                f"{arguments.runs} does not hold the runs that {arguments.law} was fitted on: give those, or fit anew"
            )
    found = plan_by_law(
        family,
        request,
        laws,
        source=arguments.law,
        runs=[run for of in runs.values() for run in of],
        extrapolate=arguments.extrapolate,
    )
    if arguments.plots is None:
        return found, []
    from lacos_st.recipe.plan_plots import plot_plan

    return found, plot_plan(found, laws, runs, arguments.plots)


def add(commands: Any) -> None:
    """Add the command to the command line."""
    parser = add_command(commands, "plan", plan, examples=EXAMPLES)
    for flag, metavar, text in (
        ("--flops", "FLOP", 'the budget: 1e17, "2.5 EFLOP", "3 PFLOP-days", counted as the recipe paper does'),
        ("--hours", "HOURS", "or: so long on the machine of --gpu or --device: 6, 90min"),
        ("--gpu", "NAME", "a GPU by name (h100, a100, rtx4090, ...): its published peak times --utilization"),
        ("--memory", "SIZE", "that training may take at its peak: 16GiB [the machine's, of --gpu or --device]"),
        ("--pairs", "N", "pairs that there are, each used once: 2e6, 200k [no limit]"),
        ("--serve-tokens", "T", "tokens that the trained model will embed, paid from the budget: 1e12"),
    ):
        parser.add_argument(flag, metavar=metavar, help=text)
    parser.add_argument("--utilization", type=float, metavar="PART", help="of the peak [a measured one, see the plan]")
    parser.add_argument("--device", action="store_true", help="measure this machine by training steps, within a minute")
    parser.add_argument("--length", type=float, metavar="TOKENS", help="of a sentence, on average [32]")
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="pairs in a batch [that of --runs; 1024, the recipe's]"
    )
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="of the products [the machine's; float32]"
    )
    parser.add_argument(
        "--family",
        default="pythia",
        metavar="NAME",
        help="bloom, pythia, a folder of bases, or a file with a base on each line [pythia]",
    )
    parser.add_argument(
        "--law", default=PAPER, metavar="FILE", help="paper: Algorithm 1; or a law that lacos-st fit wrote [paper]"
    )
    parser.add_argument("--runs", type=Path, metavar="CSV", help="the law's runs: settings that won, and more plots")
    parser.add_argument("--extrapolate", action="store_true", help="also more than ten times beyond the law's runs")
    parser.add_argument("--json", action="store_true", help="plain numbers, for other programs")
    parser.add_argument("--yaml", type=Path, metavar="FILE", help="write the run for lacos-st train --config FILE")
    parser.add_argument("--data", nargs="+", default=[], metavar="DATA", help="that the run of --yaml is trained on")
    parser.add_argument("--output", default=OUTPUT, metavar="DIR", help=f"the folder of that run [{OUTPUT}]")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="draw the plan and, with --runs, the law's lines")
    parser.add_argument("--overwrite", action="store_true", help="replace the file of --yaml")
