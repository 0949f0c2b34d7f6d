"""A cell of an experiment: one training, or one base as it comes, with what was measured on it: a row.

A cell whose row stands there is not done again. One whose training was broken off goes on from its last checkpoint.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from benchmarks import rows
from benchmarks.paper.names import fingerprint, label
from benchmarks.paper.study import OWN, Study
from lacos_st.atomic import remove_folder
from lacos_st.bench import mean_loss
from lacos_st.evaluation import evaluate
from lacos_st.finite import NonFiniteLoss
from lacos_st.methods import build_model
from lacos_st.report import ModelScores, Results, TaskScores
from lacos_st.runs import RunFolder
from lacos_st.settings import TrainConfig
from lacos_st.training import train

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Row = dict[str, Any]
ZERO_SHOT = "zero-shot"
VALIDATION_BATCH = 32
"""Pairs in each batch of the validation loss, whatever the training's: the number of negatives is in the loss."""
SHOWN_ALWAYS = ("batch_size", "lr", "lora_rank", "seed")
NOT_COMPUTED_WITH = (*OWN, "progress", "cpu", "log_steps", "fit", "force")


@dataclass(frozen=True)
class Cell:
    """What a row is about.

    Attributes:
        name: in tables; that of one cell of the experiment.
        config: of the training, its output not filled in; of a base as it comes, what its loss is measured with.
        trained: whether it is trained at all.
    """

    name: str
    config: TrainConfig
    trained: bool = True

    @property
    def method(self) -> str:
        """Of the training, or that there is none."""
        return self.config.method if self.trained else ZERO_SHOT


def zero_shot(study: Study, base: str) -> Cell:
    """A base as it comes: in float, with the pooling and the loss of the experiment."""
    return Cell(f"{label(base)} {ZERO_SHOT}", study.config(base, "full"), trained=False)


def identity(study: Study, cell: Cell, *, scored: bool) -> dict[str, Any]:
    """What a row depends on, as its JSON holds it: two rows that agree in it are of the same cell."""
    defaults = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    settings = {
        name: value
        for name, value in asdict(cell.config).items()
        if name not in NOT_COMPUTED_WITH and (name in SHOWN_ALWAYS or value != defaults[name])
    }
    base, data = cell.config.base, (*study.data, *study.eval_data)
    found = {
        "name": cell.name,
        "base": label(base),
        "base_files": fingerprint([base]),
        "method": cell.method,
        "settings": settings,
        "data": [label(name) for name in study.data],
        "eval_data": [label(name) for name in study.eval_data],
        "data_files": fingerprint(data + (() if study.sts is None else (str(study.sts),))),
        "tasks": [task.name for task in study.graded] if scored else [],
        "graded": study.graded_sha256 if scored else None,
        "quick": study.quick,
    }
    return json.loads(json.dumps(found))


def done(study: Study, cells: Sequence[Cell], *, scored: bool) -> list[Row]:
    """The row of every cell, in their order: those that stand in the file, and the others, made now.

    Args:
        study: the experiment; its output folder is held meanwhile.
        cells: of different names.
        scored: whether the graded pairs are scored.

    Raises:
        UserError: a base, data or an option cannot be used. The rows of the cells before stand in the file.
    """
    assert len({cell.name for cell in cells}) == len(cells)
    wanted = [identity(study, cell, scored=scored) for cell in cells]
    known = rows.read(study.benchmark, folder=study.results)
    if any(all(row["cell"] != key for row in known) for key in wanted):
        assert study.held_out  # what is wrong with the data is said before anything is trained
    with study.alone():
        found = []
        for number, (cell, key) in enumerate(zip(cells, wanted, strict=True), 1):
            row = next((row for row in reversed(known) if row["cell"] == key), None)
            how = "its row is there" if row is not None else "done"
            if row is None:
                print(f"[{number}/{len(cells)}] {cell.name}: begins", flush=True)
                row = _make(study, cell, key, scored=scored)
            print(f"[{number}/{len(cells)}] {cell.name}: {how}; {_said(row)}", flush=True)
            found.append(row)
    return found


def run_folder(study: Study, key: dict[str, Any]) -> RunFolder:
    """Where a cell is trained; another cell, or the same one of other data, has another folder."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:8]
    name = "".join(letter if letter.isalnum() or letter in "-." else "-" for letter in key["name"])
    return RunFolder(study.output / "runs" / f"{name}-{digest}")


def _make(study: Study, cell: Cell, key: dict[str, Any], *, scored: bool) -> Row:
    figures: dict[str, Any] = {"train": None, "diverged": False, "validation_loss": None}
    folder = run_folder(study, key)
    model = None
    if cell.trained:
        try:
            result = go_on(replace(cell.config, output=str(folder.path)))
        except NonFiniteLoss:
            figures["diverged"] = True
        else:
            model = result.model
            figures["train"] = {
                "rows": result.train_rows,
                "steps": result.steps,
                "best_step": result.best_step,
                "trained_parameters": result.trainable_parameters,
                "seconds": round(result.seconds, 1),
            }
    else:
        model = build_model(cell.config)
    if model is not None:
        model.eval()
        if cell.config.method != "sbert":
            loss = mean_loss(model, cell.config, study.held_out, batch_size=VALIDATION_BATCH)
            figures |= {"validation_loss": loss, "validation_pairs": len(study.held_out)}
        if scored:
            figures["scores"] = _scores(study, cell, model)
    row = rows.append(study.benchmark, folder=study.results, cell=key, **figures)
    remove_folder(folder.checkpoints)
    return row


def go_on(config: TrainConfig) -> Any:
    """Train, or go on with the training that was broken off in the same folder, as `lacos-st train --resume` does."""
    file = RunFolder(Path(config.output)).config
    if file.is_file():
        how = {name: getattr(config, name) for name in ("output", "cpu", "progress", "fit", "force")}
        return train(TrainConfig.from_yaml(file, **how, resume=True))
    return train(replace(config, overwrite=True))


def _scores(study: Study, cell: Cell, model: SentenceTransformer) -> dict[str, Any]:
    results = evaluate({cell.name: model}, tasks=study.graded, batch_size=cell.config.batch_size)
    averages = results.to_dict()["models"][0]["averages"]
    found = {
        "tasks": [asdict(task) for task in results.models[0].tasks],
        "averages": {
            name: {figure: average[figure] for figure in ("max", "cosine")} for name, average in averages.items()
        },
    }
    return cast("dict[str, Any]", _rounded(found))


def _rounded(value: Any) -> Any:
    """Correlations in their fourth digit: what there is below it is of no use in a row."""
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    return round(value, 4) if isinstance(value, float) else value


def model_scores(row: Row) -> ModelScores:
    """The scores of a row, as reports and plots take them."""
    return ModelScores(row["cell"]["name"], {}, tuple(TaskScores(**task) for task in row["scores"]["tasks"]))


def side_by_side(found: Sequence[Row], *, baseline: str | None) -> Results:
    """Rows with scores as one report; the date and the libraries are those of the newest."""
    newest = max(found, key=lambda row: row["date"])
    return Results(tuple(map(model_scores, found)), baseline, newest["date"], newest["versions"])


def _said(row: Row) -> str:
    if row["diverged"]:
        return "diverged"
    said = [] if row["validation_loss"] is None else [f"validation loss {row['validation_loss']:.4f}"]
    averages = row.get("scores", {}).get("averages", {})
    said += [f"{name} {value['max']:.2f}" for name, value in averages.items() if value["max"] is not None]
    return ", ".join(said) or "trained"
