"""`evaluate_mteb`: models through mteb's own runner, results in mteb's own layout."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from lacos_st.atomic import write_text
from lacos_st.errors import UserError
from lacos_st.evaluation import (
    MTEB_DEFAULTS,
    EvaluationOptions,
    check_batch_size,
    check_output_dir,
    named_models,
)
from lacos_st.leaderboard.metadata import model_meta, mteb_name, wrapped
from lacos_st.leaderboard.results import RESULTS, check_finite, whole_results
from lacos_st.leaderboard.tasks import load_named
from lacos_st.models import given_model
from lacos_st.options import read_yaml
from lacos_st.report import markdown_table
from lacos_st.sts import import_mteb, load_tasks, parts_of

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from lacos_st.evaluation import Models

logger = logging.getLogger(__name__)

TABLE_FILE = "mteb.md"


def run(options: EvaluationOptions) -> str:
    """Run `lacos-st evaluate --mteb` and return the text to print.

    Raises:
        UserError: as `evaluate_mteb`, or a file of prompts or metadata cannot be used.
    """
    if options.tasks:
        raise UserError(f"tasks ({', '.join(options.tasks)}) are not for mteb's runner: name them after --mteb")
    prompts = read_yaml(options.prompts) if options.prompts else None
    for name, text in (prompts or {}).items():
        if not isinstance(text, str):
            raise UserError(f"{options.prompts}: the prompt of {name!r} is {text!r}: expected a text")
    return evaluate_mteb(
        options.models,
        options.mteb or None,
        data=options.data,
        output_dir=options.output_dir,
        baseline=options.baseline,
        batch_size=options.batch_size,
        overwrite=options.overwrite,
        device=options.device,
        truncate_dim=options.truncate_dim,
        prompts=prompts,
        meta=read_yaml(options.meta) if options.meta else None,
        as_json=options.json,
    )


def evaluate_mteb(
    models: Models,
    task_names: Sequence[str] | None = None,
    *,
    data: Path | None = None,
    output_dir: Path | None = None,
    baseline: str | SentenceTransformer | None = None,
    batch_size: int = 32,
    overwrite: bool = False,
    device: str | None = None,
    truncate_dim: int | None = None,
    prompts: Mapping[str, str] | None = None,
    meta: Mapping[str, Any] | None = None,
    as_json: bool = False,
) -> str:
    """Hand models to mteb's own runner and return a Markdown table of its main scores (x100).

    Each task goes through mteb's own `evaluate`, each model through mteb's own wrapper of sentence-transformers models,
    with the model's prompts, and with `model_meta`'s description of it.

    Args:
        models: as in `lacos_st.evaluation.evaluate`.
        task_names: as in `load_named`; None for the STS tasks of the paper, or all that `data` holds.
        data: as in `load_named`.
        output_dir: mteb's cache, `mteb.ResultCache(output_dir)`: gets results/OWNER__NAME/REVISION/TASK.json,
            model_meta.json and run_settings.jsonl as mteb writes them, and mteb.md, the table. A run goes on where one
            before it stopped: what is there of the same revisions of model, data and mteb is taken. None: no files.
        baseline: as in `lacos_st.evaluation.evaluate`.
        batch_size: sentences per batch.
        overwrite: run again what is there, or write into a folder that holds something else.
        device: torch device for models given by name.
        truncate_dim: as in `lacos_st.evaluation.evaluate`; what a model truncates to, by this or by itself, comes into
            the name that mteb gives the run.
        prompts: texts by mteb's names of tasks, types of task ("STS"), "query" and "document"; they go over the model's
            own, and into the name that mteb gives the run.
        meta: fields of `mteb.ModelMeta` that the model does not say itself, of a run of one model.
        as_json: return, in place of the table, `{model: [mteb's task results as mteb writes them]}`.

    Raises:
        UserError: mteb is missing, a task is unknown, its data cannot be had, or as in `evaluate`.
    """
    mteb = import_mteb()
    if output_dir is None or not (output_dir / RESULTS).is_dir():
        check_output_dir(output_dir, overwrite=overwrite)
    check_batch_size(batch_size)
    named, baseline_name = named_models(models, baseline)
    if meta and len(named) > 1:
        raise UserError(f"metadata is of one model, {len(named)} are given: run them one by one")
    if task_names is None:
        task_names = MTEB_DEFAULTS if data is None else [task.name for task in load_tasks(data)]
    tasks = load_named(task_names, data=data)  # all of them before the first model runs
    cache = whole_results(output_dir) if output_dir else None
    scores: dict[str, list[Any]] = {}
    for name, given in named:
        model = given_model(given, device=device, truncate_dim=truncate_dim)
        differs: dict[str, Any] = {"model_prompts": dict(prompts)} if prompts else {}
        if model.truncate_dim is not None:
            differs["embed_dim"] = model.truncate_dim  # as mteb itself names it
        known = {"name": mteb_name(name), "experiment_kwargs": differs or None}
        wrapper = wrapped(model, prompts=prompts)
        wrapper.mteb_model_meta = model_meta(
            model, given=given if isinstance(given, str) else None, **{**known, **(meta or {})}
        )
        scores[name] = [
            _score(mteb, wrapper, task, cache, batch_size=batch_size, overwrite=overwrite) for task in tasks
        ]
        del model, wrapper  # before the next one is loaded
    table = _table(scores, tasks, baseline_name)
    if output_dir is not None:
        write_text(output_dir / TABLE_FILE, table)
    if not as_json:
        return table
    found = {name: [result.model_dump(mode="json") for result in results] for name, results in scores.items()}
    return json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _score(mteb: Any, model: Any, task: Any, cache: Any, *, batch_size: int, overwrite: bool) -> Any:
    """One model on one task: mteb's `TaskResult`."""
    described = model.mteb_model_meta
    strategy = "always" if overwrite else "only-missing"
    if cache is not None and not overwrite and _stale(cache, task, described):
        strategy = "always"
    try:
        with warnings.catch_warnings():  # of mteb to itself, and of what it logs as well
            warnings.simplefilter("ignore")
            found = mteb.evaluate(
                model,
                task,
                cache=cache,
                overwrite_strategy=strategy,
                encode_kwargs={"batch_size": batch_size, "show_progress_bar": False},
                show_progress_bar=False,
            )
    except UserError:  # is a ValueError too
        raise
    except ValueError as error:  # of scikit-learn
        if "NaN" not in str(error):
            raise
        raise UserError(
            f"mteb task {task.metadata.name}: the embeddings of {described.name} hold NaN: the model is broken or its "
            "training diverged"
        ) from error
    (result,) = found.task_results
    check_finite(result)
    return result


def _stale(cache: Any, task: Any, described: Any) -> bool:
    """Whether a task, or one that it is the mean of, has a result of other data or another mteb than this run's.

    mteb itself would take it.
    """
    tasks = [*parts_of(task), task] if task.is_aggregate else [task]
    return any([_other(cache, each, described) for each in tasks])  # a list: each of them is named in the log


def _other(cache: Any, task: Any, described: Any) -> bool:
    """Whether the very result of a task is of other data or another mteb."""
    name = task.metadata.name
    try:
        found = cache.load_task_result(name, described)
    except (OSError, ValueError, KeyError) as error:
        place = cache.get_task_result_path(name, described)
        raise UserError(f"{place} is broken ({error}): remove it, or pass --overwrite") from error
    if found is None or found.is_mergeable(task, criteria=["dataset_revision", "mteb_version"]):
        return False
    logger.warning("%s: the result there is of other data or another mteb: %s runs again", described.name, name)
    return True


def _table(scores: dict[str, list[Any]], tasks: Sequence[Any], baseline: str | None) -> str:
    """Main scores side by side: a row for each task, and below it one for each of its subsets where it has several."""
    rows = [["task", *(name + " (baseline)" * (name == baseline) for name in scores)]]
    for task, results in zip(tasks, zip(*scores.values(), strict=True), strict=True):
        name = task.metadata.name
        columns = [_subset_scores(result, task) for result in results]
        rows.append(_row(name, [fmean(column.values()) for column in columns], list(scores), baseline))
        for subset in columns[0] if len(columns[0]) > 1 else ():
            rows.append(_row(f"{name}.{subset}", [column[subset] for column in columns], list(scores), baseline))
    return "## mteb: main score x100\n\n" + markdown_table(rows) + "\n"


def _subset_scores(result: Any, task: Any) -> dict[str, float]:
    """Main score x100 of each subset of this run (a result may hold more), with its split where there are several."""
    return {
        entry["hf_subset"] + (f".{split}" if len(result.scores) > 1 else ""): 100 * float(entry["main_score"])
        for split, entries in result.scores.items()
        for entry in entries
        if entry["hf_subset"] in task.hf_subsets
    }


def _row(name: str, values: Sequence[float], models: Sequence[str], baseline: str | None) -> list[str]:
    base = next((value for value, model in zip(values, models, strict=True) if model == baseline), None)
    return [
        name,
        *(
            f"{value:.2f}" if base is None or model == baseline else f"{value:.2f} ({value - base:+.2f})"
            for value, model in zip(values, models, strict=True)
        ),
    ]
