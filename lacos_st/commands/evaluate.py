"""`lacos-st evaluate`."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from lacos_st.commands.parsing import add_command

EXAMPLES = (
    "lacos-st evaluate run/model bloom-nano --data DIR --output scores",
    "lacos-st evaluate run/model --baseline sentence-transformers/all-MiniLM-L6-v2 --tasks STSBenchmark SICK-R",
    "lacos-st evaluate run/model --mteb STS12 STS17.es-en --data DIR --output scores",
)


def evaluate(arguments: argparse.Namespace) -> None:
    """Score models side by side on STS and cross-lingual STS, or hand them to mteb."""
    from lacos_st.evaluation import EvaluationOptions, run
    from lacos_st.leaderboard.run import run as run_mteb

    names = [field.name for field in dataclasses.fields(EvaluationOptions)]
    given = {name: value for name, value in vars(arguments).items() if name in names}
    options: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in given.items()}
    chosen = EvaluationOptions(**options)
    print(run(chosen) if chosen.mteb is None else run_mteb(chosen))


def add(commands: Any) -> None:
    """Add the command to the command line."""
    parser = add_command(commands, "evaluate", evaluate, examples=EXAMPLES)
    parser.add_argument(
        "models", nargs="+", metavar="MODEL", help="folders, hub names, GGUF files, or bloom-nano and bert-nano"
    )
    parser.add_argument("--baseline", metavar="MODEL", help="the model that the others are compared with")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of graded pairs; without: tasks from mteb")
    parser.add_argument("--tasks", nargs="+", metavar="TASK", default=argparse.SUPPRESS, help="names of STS tasks")
    parser.add_argument(
        "--mteb",
        nargs="*",
        metavar="TASK",
        default=argparse.SUPPRESS,
        help="run these tasks with mteb's own runner, on its data or that of --data; alone: the paper's STS tasks",
    )
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="with --mteb: YAML of prompts by mteb's names")
    parser.add_argument("--meta", type=Path, metavar="FILE", help="with --mteb: YAML of fields of mteb's ModelMeta")
    parser.add_argument(
        "--output",
        type=Path,
        dest="output_dir",
        metavar="DIR",
        help="for results.json and results.md; with --mteb: mteb's results/ and mteb.md",
    )
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="sentences in a batch [32]")
    parser.add_argument("--overwrite", action="store_true", help="write into a folder that is not empty")
    parser.add_argument("--device", metavar="NAME", help="torch device, such as cpu or cuda")
    parser.add_argument(
        "--truncate-dim",
        type=int,
        metavar="N",
        help="keep the first N dimensions of each embedding, as models trained with --matryoshka-dims allow",
    )
    parser.add_argument("--json", action="store_true", help="print results as JSON instead of the table")
