"""A row of a model's scores, and of the training that made it: `python -m benchmarks.scored NAME RESULTS.json...`.

    lacos-st evaluate runs/mine/model --data DIR --output scores
    python -m benchmarks.scored smollm2 scores/results.json --run runs/mine --trained-at COMMIT

RUN is a folder of `lacos-st train`; each RESULTS.json is one of `lacos-st evaluate`, of which the model in RUN is
taken, or the only one. The row goes to `results/NAME.jsonl`: per task the four correlations x 100; of the run the
settings that are no defaults (of paths the last part), the losses on the validation rows, time and memory.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from benchmarks import rows
from lacos_st.errors import UserError
from lacos_st.report import SIMILARITIES
from lacos_st.runs import RunFolder, read_log
from lacos_st.settings import TrainConfig

PATHS = ("base", "data", "exclude_sts", "eval_data", "eval_sts")
NOT_SETTINGS = ("output", "progress", "cpu", "log_steps", "eval_steps", "report_to")


def settings(config: TrainConfig) -> dict[str, Any]:
    """The options that are no defaults; of files and folders the last part of the name."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in NOT_SETTINGS or value == field.default:
            continue
        if field.name in PATHS:
            value = Path(value).name if isinstance(value, str) else [Path(each).name for each in value]
        found[field.name] = list(value) if isinstance(value, tuple) else value
    return found


def training(run: RunFolder) -> dict[str, Any]:
    """What the log of a finished run says.

    Raises:
        UserError: the run has not finished, or has no log.
    """
    if not run.log.is_file():
        raise UserError(f"{run.path} has no log: give a folder that lacos-st train wrote")
    log = read_log(run.log)
    last = next((row for row in reversed(log) if "train_runtime" in row), None)
    if last is None:
        raise UserError(f"{run.path}: the training has not finished")
    return {
        "steps": last["step"],
        "train_seconds": round(last["train_runtime"]),
        "train_loss": round(last["train_loss"], 4),
        "validation_loss": {str(row["step"]): round(row["eval_loss"], 4) for row in log if "eval_loss" in row},
        **{name: last[name] for name in ("predicted_peak_bytes", "peak_bytes") if name in last},
    }


def scores(file: Path, model: Path | None) -> dict[str, dict[str, float]]:
    """Per task the correlations of the model in that folder, or of the only one: of four similarities, and the highest.

    Raises:
        UserError: the file is no results.json, or the model is not in it.
    """
    try:
        models = json.loads(file.read_text(encoding="utf-8"))["models"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{file} is no results.json of lacos-st evaluate ({error})") from error
    named = [each for each in models if model and Path(each["name"]).resolve() == model.resolve()]
    own = named or models
    if len(own) != 1:
        names = ", ".join(each["name"] for each in models)
        raise UserError(f"{file} has the models {names}: {f'none is {model}' if model else 'expected one'}")
    return {
        task["task"]: {"max": task["max"], **{name: task["spearman"][name] for name in SIMILARITIES}}
        for task in own[0]["tasks"]
    }


def main() -> None:
    """Add the row and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="NAME", help="of the benchmark: results/NAME.jsonl")
    parser.add_argument("results", type=Path, nargs="+", metavar="RESULTS.json")
    parser.add_argument("--run", type=Path, help="the training's folder; without it, the scores alone")
    parser.add_argument("--trained-at", help="commit of the training, where it is not this one")
    parser.add_argument("--says", help="what the model is, for a reader")
    options = parser.parse_args()
    run = RunFolder(options.run) if options.run else None
    try:
        figures = {**training(run), "settings": settings(TrainConfig.from_yaml(run.config))} if run else {}
        model = run.model if run else None
        tasks = {name: task for file in options.results for name, task in scores(file, model).items()}
    except UserError as error:
        parser.error(str(error))
    about = {"says": options.says, "trained_at": options.trained_at}
    given = {name: value for name, value in about.items() if value is not None}
    rounded = {task: {name: round(value, 2) for name, value in found.items()} for task, found in tasks.items()}
    print(json.dumps(rows.append(options.name, **given, **figures, tasks=rounded), indent=1))


if __name__ == "__main__":
    main()
