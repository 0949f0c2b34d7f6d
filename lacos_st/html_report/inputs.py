"""What a page is made of: training runs, scores, models, laws, plans and more, each path known by what it holds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lacos_st.embedded import EMBEDDED
from lacos_st.errors import UserError
from lacos_st.html_report.names import short_names
from lacos_st.recipe.law_file import Laws, load_laws
from lacos_st.recipe.runs_table import Run, read_runs
from lacos_st.report import Results
from lacos_st.runs import RunFolder, read_log
from lacos_st.settings import TrainConfig

KINDS = (
    "a folder of lacos-st train (train.yaml, log.jsonl), of lacos-st evaluate --output (results.json) or of a saved "
    "model (modules.json), a results.json, what lacos-st fit --output, plan --json or quantization --json wrote, a "
    f"sweep's table (.csv), or {' or '.join(EMBEDDED)}"
)


@dataclass(frozen=True)
class TrainedRun:
    """A training run.

    Attributes:
        name: short.
        folder: of it.
        config: its options.
        rows: of its log; none where it was stopped before its first line.
    """

    name: str
    folder: Path
    config: TrainConfig
    rows: tuple[dict[str, Any], ...]


@dataclass
class Inputs:
    """All that was found, each with its path as it was given.

    Attributes:
        runs: of training.
        scores: of evaluate.
        models: paths or names that `lacos_st.models.load_model` takes.
        laws: fitted.
        tables: of a sweep's runs.
        plans: as JSON.
        errors: of quantisation, as JSON.
    """

    runs: list[tuple[str, TrainedRun]] = field(default_factory=list)
    scores: list[tuple[str, Results]] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    laws: list[tuple[str, Laws]] = field(default_factory=list)
    tables: list[tuple[str, list[Run]]] = field(default_factory=list)
    plans: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    errors: list[tuple[str, dict[str, Any]]] = field(default_factory=list)


def read_inputs(given: Sequence[str]) -> Inputs:
    """Read every path.

    Raises:
        UserError: one is none of `KINDS`, or is broken.
    """
    found = Inputs()
    for name, short in zip(given, short_names(given), strict=True):
        path = Path(name).expanduser()
        if path.is_dir():
            _read_folder(name, short, path, found)
        elif path.is_file() and path.suffix == ".csv":
            found.tables.append((name, read_runs(path)))
        elif path.is_file() and path.suffix == ".json":
            _read_json(name, path, found)
        elif not path.exists() and name in EMBEDDED:
            found.models.append(name)
        else:
            there = "what it holds is not known" if path.exists() else "no such file or folder"
            raise UserError(f"{name}: {there}: expected {KINDS}")
    return found


def _read_folder(name: str, short: str, path: Path, found: Inputs) -> None:
    if (path / "modules.json").is_file():
        found.models.append(name)
        return
    known = False
    run = RunFolder(path)
    if run.config.is_file():
        rows = tuple(read_log(run.log)) if run.log.is_file() else ()
        _check_rows(rows, run.log)
        found.runs.append((name, TrainedRun(short, path, TrainConfig.from_yaml(run.config), rows)))
        if (run.model / "modules.json").is_file():
            found.models.append(str(run.model))
        known = True
    if (path / "results.json").is_file():
        _read_json(name, path / "results.json", found)
        known = True
    if not known:
        raise UserError(f"{name}: a folder that holds nothing to show: expected {KINDS}")


def _check_rows(rows: Sequence[dict[str, Any]], file: Path) -> None:
    for row in rows:
        if not isinstance(row.get("step"), int):
            raise UserError(f"{file} has a line without a step ({str(row)[:100]}): it is no log of lacos-st train")


def _read_json(name: str, path: Path, found: Inputs) -> None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # also of what is no UTF-8
        raise UserError(f"{path} is no JSON ({error}): expected {KINDS}") from error
    keys = set(values) if isinstance(values, dict) else set()
    if {"schema", "models"} <= keys:
        try:
            found.scores.append((name, Results.from_dict(values)))
        except ValueError as error:
            raise UserError(f"{path}: {error}: evaluate anew") from error
    elif {"laws", "isoflops"} <= keys:
        found.laws.append((name, load_laws(path)))
    elif {"plan", "considered"} <= keys:
        found.plans.append((name, values))
    elif {"base", "layers"} <= keys:
        found.errors.append((name, values))
    else:
        raise UserError(f"{path}: JSON, but of none of the files that are shown: expected {KINDS}")
