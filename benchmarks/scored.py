"""A row of a model's scores, and of the training that made it: `python -m benchmarks.scored NAME RESULTS.json...`.

    lacos-st evaluate runs/mine/model --data DIR --output scores
    python -m benchmarks.scored smollm2 scores/results.json --run runs/mine --trained-at COMMIT --says "480 steps"

RUN is a folder of `lacos-st train`; each RESULTS.json is one of `lacos-st evaluate`, of which the model in RUN is
taken, or the only one; with `--checkpoint N` that of RUN/checkpoints/checkpoint-N, which must be in it by this name.
The row goes to `results/NAME.jsonl`: per task the four correlations x 100; of the run the settings that are no defaults
or not the preset's (of paths the last part), the losses on the validation rows, time and memory, the steps that were
trained (`steps`) and those that the scored model saw (`kept_step`): RUN/model is the best checkpoint, not the last.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import rows
from lacos_st.arguments import BEST_METRIC
from lacos_st.errors import UserError
from lacos_st.presets import PRESETS
from lacos_st.report import SIMILARITIES
from lacos_st.runs import LAST_LINE, RunFolder, read_log
from lacos_st.settings import TrainConfig

PATHS = ("base", "data", "exclude_sts", "eval_data", "eval_sts")
NOT_SETTINGS = ("output", "progress", "cpu", "log_steps", "eval_steps", "report_to")
ALWAYS = ("batch_size", "gradient_accumulation")
"""Of which and `kept_step` the pairs that a model saw are made."""


def settings(config: TrainConfig) -> dict[str, Any]:
    """The options that are no defaults, or not the preset's; of files and folders the last part of the name."""
    found: dict[str, Any] = {}
    presets = PRESETS[config.preset].values
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        usual = field.name not in ALWAYS and value == field.default == presets.get(field.name, field.default)
        if field.name in NOT_SETTINGS or usual:
            continue
        if field.name in PATHS:
            value = Path(value).name if isinstance(value, str) else [Path(each).name for each in value]
        found[field.name] = list(value) if isinstance(value, tuple) else value
    return found


def training(run: RunFolder, *, best: str = "loss", checkpoint: int | None = None) -> dict[str, Any]:
    """What the log of a finished run says.

    Args:
        run: its folder.
        best: what it kept the best of, "loss" or "sts".
        checkpoint: the step of the model that was scored; None: the one that the run kept.

    Raises:
        UserError: the run has not finished, or has no log.
    """
    if not run.log.is_file():
        raise UserError(f"{run.path} has no log: give a folder that lacos-st train wrote")
    log = read_log(run.log)
    last = next((row for row in reversed(log) if LAST_LINE in row), None)
    if last is None:
        raise UserError(f"{run.path}: the training has not finished")
    return {
        "steps": last["step"],
        "kept_step": kept_step(log, last, best=best) if checkpoint is None else checkpoint,
        "train_seconds": round(last["train_runtime"]),
        "train_loss": round(last["train_loss"], 4),
        "validation_loss": {str(row["step"]): round(row["eval_loss"], 4) for row in log if "eval_loss" in row},
        **{name: last[name] for name in ("predicted_peak_bytes", "peak_bytes") if name in last},
    }


def kept_step(log: Sequence[Mapping[str, Any]], last: Mapping[str, Any], *, best: str = "loss") -> int:
    """The step of the checkpoint that became the model: as the log says; else the first with the best evaluation.

    Args:
        log: the lines of `log.jsonl`.
        last: its last line, of the whole training; logs of before name no `best_step` in it.
        best: what the run kept the best of, "loss" or "sts".
    """
    if last.get("best_step") is not None:
        return int(last["best_step"])
    saved = [row for row in log if row["step"] > 0]  # the evaluation before the first step has no checkpoint
    for metric, sign in ((BEST_METRIC[best], 1 if best == "loss" else -1), (BEST_METRIC["sts"], -1)):
        if found := [row for row in saved if metric in row]:
            return int(min(found, key=lambda row: sign * row[metric])["step"])
    return int(last["step"])


def scores(file: Path, model: Path | None, *, by_name: bool = False) -> dict[str, dict[str, float]]:
    """Per task the correlations of the model in that folder, or of the only one: of four similarities, and the highest.

    Args:
        file: of `lacos-st evaluate`.
        model: its folder; None takes the only one.
        by_name: whether an only one of another folder is refused.

    Raises:
        UserError: the file is no results.json, or the model is not in it.
    """
    try:
        models = json.loads(file.read_text(encoding="utf-8"))["models"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{file} is no results.json of lacos-st evaluate ({error})") from error
    named = [each for each in models if model and Path(each["name"]).resolve() == model.resolve()]
    own = named or ([] if by_name else models)
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
    parser.add_argument("--says", required=True, help="what the model is, for a reader")
    parser.add_argument("--checkpoint", type=int, metavar="N", help="the scored model is RUN/checkpoints/checkpoint-N")
    options = parser.parse_args()
    if options.checkpoint is not None and options.run is None:
        parser.error("--checkpoint is of a run: give --run too")
    run = RunFolder(options.run) if options.run else None
    try:
        figures: dict[str, Any] = {}
        model = None
        if run is not None:
            config = TrainConfig.from_yaml(run.config)
            figures = training(run, best=config.best, checkpoint=options.checkpoint)
            figures["settings"] = settings(config)
            model = run.model
        if run is not None and options.checkpoint is not None:
            model = run.checkpoints / f"checkpoint-{options.checkpoint}"
        by_name = options.checkpoint is not None
        found = [scores(file, model, by_name=by_name) for file in options.results]
        tasks = {name: task for each in found for name, task in each.items()}
    except UserError as error:
        parser.error(str(error))
    about = {"says": options.says, "trained_at": options.trained_at}
    given = {name: value for name, value in about.items() if value is not None}
    rounded = {task: {name: round(value, 2) for name, value in kinds.items()} for task, kinds in tasks.items()}
    print(json.dumps(rows.append(options.name, **given, **figures, tasks=rounded), indent=1))


if __name__ == "__main__":
    main()
