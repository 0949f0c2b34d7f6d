"""mteb's tasks by name, on the hub's data or on graded pairs from a folder here; sets that mteb lacks become tasks."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lacos_st.errors import UserError
from lacos_st.leaderboard.metadata import LANGUAGES
from lacos_st.sts import UNKNOWN_LANGUAGES, StsTask, import_mteb, load_mteb_data, load_tasks

logger = logging.getLogger(__name__)

UNDETERMINED = "und-Zyyy"
"""mteb's code of a language that is not known."""

SPLIT = "test"
"""Of the files here: the one split that mteb's STS tasks of these names have."""


def load_named(names: Sequence[str], *, data: Path | None = None) -> list[Any]:
    """Tasks of mteb with their data: "STS12", a subset such as "STS17.es-en"; subsets of one task become one task.

    Args:
        names: of mteb's tasks. With `data` also of `lacos_st.sts.load_tasks`, such as "STSb-multi.en-fr", and of the
            files in any other folder; those that mteb has no task for become tasks of the same kind (STS).
        data: folder of graded pairs that stand in for the hub's; their hash stands in results in place of the
            revision on the hub. None: mteb fetches its data.

    Raises:
        UserError: mteb is missing, a name is unknown, or the data is not there.
    """
    mteb = import_mteb()
    wanted: dict[str, list[str]] = {}  # task: its subsets, none for all
    for name in names:
        task, subset = _split(mteb, name, local=data is not None)
        if subset is None:
            wanted[task] = []
        elif (subsets := wanted.setdefault(task, [subset])) and subset not in subsets:
            subsets.append(subset)
    if data is not None:
        return [_from_folder(mteb, task, subsets, data) for task, subsets in wanted.items()]
    tasks = [mteb.get_task(task, hf_subsets=subsets or None) for task, subsets in wanted.items()]
    for task in tasks:
        load_mteb_data(task)
    return tasks


def _split(mteb: Any, name: str, *, local: bool) -> tuple[str, str | None]:
    """A name as mteb's task and a subset of it; what mteb does not know as it is, where files may know it."""
    if _find(mteb, name) is not None:
        return name, None
    base, _, subset = name.rpartition(".")
    task = _find(mteb, base) if base else None
    for pair in (subset, "-".join(reversed(subset.split("-")))):  # a similarity has no direction
        if task is not None and pair in task.hf_subsets:
            return base, pair
    if local:
        return name, None
    if task is not None:
        raise UserError(f"mteb task {base!r} has no subset {subset!r}: choose from {', '.join(task.hf_subsets)}")
    try:
        mteb.get_task(name)
    except KeyError as error:
        raise UserError(f"unknown mteb task {name!r}: {error.args[0]}") from error
    raise AssertionError("mteb did not know the task a moment ago")


def _find(mteb: Any, name: str) -> Any:
    try:
        return mteb.get_task(name)
    except KeyError:
        return None


def _from_folder(mteb: Any, name: str, subsets: list[str], folder: Path) -> Any:
    """One task on the pairs of a folder."""
    task = _find(mteb, name)
    if task is None:
        return _own(load_tasks(folder, names=[name])[0])
    if not isinstance(task, mteb.abstasks.sts.AbsTaskSTS) or task.eval_splits != [SPLIT]:
        raise UserError(
            f"mteb task {name!r} cannot be run on files of graded pairs: leave out --data, and mteb fetches it; or "
            "give a file of your own another name"
        )
    if task.hf_subsets == ["default"]:
        return _filled(task, {"default": load_tasks(folder, names=[name])[0]})
    found: dict[str, StsTask] = {}
    for subset in task.hf_subsets:
        try:
            found[subset] = _pair(folder, name, subset)
        except UserError:
            if subset in subsets:
                raise
    if not found:
        raise UserError(
            f"{folder}: no graded pairs of {name}: expected those of {', '.join(task.hf_subsets)}; give a file of your "
            "own another name than this task of mteb's"
        )
    if not subsets and (missing := [subset for subset in task.hf_subsets if subset not in found]):
        logger.warning("%s: %s has no pairs of %s, which are left out", name, folder, ", ".join(missing))
    return _filled(mteb.get_task(name, hf_subsets=subsets or list(found)), found)


def _pair(folder: Path, name: str, subset: str) -> StsTask:
    """The pairs of one subset, whichever way round the folder has its languages."""
    try:
        return load_tasks(folder, names=[f"{name}.{subset}"])[0]
    except UserError:
        turned = "-".join(reversed(subset.split("-")))
        if turned == subset:
            raise
        task = load_tasks(folder, names=[f"{name}.{turned}"])[0]
        return StsTask(task.name, task.group, subset, task.sentences2, task.sentences1, task.scores, task.score_range)


def _filled(task: Any, sets: dict[str, StsTask]) -> Any:
    """An mteb task that has its data already, so that mteb fetches none; its revision is the hash of that data."""
    from datasets import Dataset, DatasetDict

    first, second = task.column_names
    datasets = {
        subset: DatasetDict(
            {
                SPLIT: Dataset.from_dict(
                    {first: list(pairs.sentences1), second: list(pairs.sentences2), "score": list(pairs.scores)}
                )
            }
        )
        for subset, pairs in sets.items()
    }
    task.metadata = task.metadata.model_copy(update={"dataset": {"path": "local", "revision": _revision(sets)}})
    task.dataset = datasets["default"] if list(datasets) == ["default"] else datasets
    task.data_loaded = True
    return task


def _revision(sets: dict[str, StsTask]) -> str:
    rows = {name: [pairs.sentences1, pairs.sentences2, pairs.scores] for name, pairs in sorted(sets.items())}
    return "local-" + hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()[:32]


def _own(pairs: StsTask) -> Any:
    """Graded pairs that mteb has no task for, as a task of mteb's own class."""
    from mteb.abstasks.sts import AbsTaskSTS
    from mteb.abstasks.task_metadata import TaskMetadata

    languages = [UNDETERMINED]
    if pairs.languages != UNKNOWN_LANGUAGES:
        languages = [LANGUAGES.get(code, UNDETERMINED) for code in dict.fromkeys(pairs.languages.split("-"))]
    low, high = pairs.score_range
    metadata = TaskMetadata(
        name=pairs.name,
        description=f"Graded pairs from a file, {pairs.languages}.",
        type="STS",
        category="t2t",
        dataset={"path": "local", "revision": "none"},
        eval_splits=[SPLIT],
        eval_langs=languages,
        main_score="cosine_spearman",
    )
    made = type("GradedPairs", (AbsTaskSTS,), {"metadata": metadata, "min_score": low, "max_score": high})
    return _filled(made(), {"default": pairs})
