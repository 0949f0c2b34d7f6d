"""Models side by side on graded pairs, through the stock EmbeddingSimilarityEvaluator.

The figure of merit is the paper's: the highest Spearman correlation of cosine, Manhattan, Euclidean and dot
(LACoS-BLOOM, arXiv 2305.06404); cosine alone stands beside it.
"""

from __future__ import annotations

import json
import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from lacos_st.atomic import write_text
from lacos_st.audit import cut_by
from lacos_st.errors import UserError
from lacos_st.models import describe, given_model
from lacos_st.report import SIMILARITIES, ModelScores, Results, TaskScores
from lacos_st.sts import StsTask, load_mteb_task, load_tasks

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from sentence_transformers import SentenceTransformer

    Models: TypeAlias = Sequence[str | SentenceTransformer] | Mapping[str, str | SentenceTransformer]

logger = logging.getLogger(__name__)

_LIBRARIES = ("lacos_st", "sentence-transformers", "transformers", "torch", "peft", "bitsandbytes", "scipy")


@dataclass(frozen=True)
class EvaluationOptions:
    """Options of `lacos-st evaluate`.

    Attributes:
        models: folders, hub names, or names of embedded bases (zero-shot mean pooling).
        baseline: the model that the others are compared with.
        data: folder of graded pairs for `load_tasks`; None takes the tasks from mteb by name.
        tasks: names of tasks; empty means the defaults of the folder (without a folder: the names below).
        mteb: names of tasks for mteb's own runner, instead of the side-by-side STS evaluation: see
            `lacos_st.leaderboard.run`; empty for the defaults, None for no such run.
        prompts: YAML file of prompts for mteb's runner, by mteb's names: of a task, a type of task, query or document.
        meta: YAML file of fields of mteb's ModelMeta, for a run of one model.
        output_dir: where results.json and results.md (with `mteb`: mteb's results/ and mteb.md) go; None writes
            nothing.
        batch_size: sentences per batch.
        overwrite: write into an output folder that is not empty.
        device: torch device; None lets sentence-transformers choose.
        truncate_dim: dimensions kept of each embedding, the first (of a model trained so); None keeps all.
        json: print what results.json holds instead of the table; with `mteb`, mteb's results.
    """

    models: tuple[str, ...]
    baseline: str | None = None
    data: Path | None = None
    tasks: tuple[str, ...] = ()
    mteb: tuple[str, ...] | None = None
    prompts: Path | None = None
    meta: Path | None = None
    output_dir: Path | None = None
    batch_size: int = 32
    overwrite: bool = False
    device: str | None = None
    truncate_dim: int | None = None
    json: bool = False


MTEB_DEFAULTS = ("STS12", "STS13", "STS14", "STS15", "STS16", "STSBenchmark", "SICK-R", "STS17")


def run(options: EvaluationOptions) -> str:
    """Run `lacos-st evaluate` and return the text to print.

    Raises:
        UserError: as `evaluate`, `load_tasks` and `load_mteb_task`.
    """
    if options.prompts or options.meta:
        raise UserError(f"{'prompts' if options.prompts else 'meta'} is for mteb's runner: give --mteb too")
    check_output_dir(options.output_dir, overwrite=options.overwrite)
    if options.data is None:
        tasks = [task for name in options.tasks or MTEB_DEFAULTS for task in load_mteb_task(name)]
    else:
        tasks = load_tasks(options.data, names=options.tasks or None)
    results = evaluate(
        options.models,
        baseline=options.baseline,
        tasks=tasks,
        batch_size=options.batch_size,
        output_dir=options.output_dir,
        overwrite=options.overwrite,
        device=options.device,
        truncate_dim=options.truncate_dim,
    )
    return _json(results.to_dict()) if options.json else results.table()


def evaluate(
    models: Models,
    *,
    baseline: str | SentenceTransformer | None = None,
    tasks: Sequence[StsTask],
    batch_size: int = 32,
    output_dir: Path | None = None,
    overwrite: bool = False,
    device: str | None = None,
    truncate_dim: int | None = None,
) -> Results:
    """Score models on graded pairs, side by side; models are loaded one after another.

    Every score is the stock EmbeddingSimilarityEvaluator's; each sentence is embedded once per model, all tasks
    together. `output_dir` gets results.md and results.json: `{schema: 1, date, versions: {library: version}, baseline,
    models: [{name, info: {base, modules, ...}, tasks: [{task, group, languages, pairs, spearman: {cosine, manhattan,
    euclidean, dot}, pearson: {...}, best, max}], averages: {"STS-Avg", "xSTS-Avg": {max, cosine, tasks}}}]}`, with all
    correlations x100 and an average of nothing as null.

    Args:
        models: names (see `lacos_st.models.load_model`) or models; a mapping's keys are the names in the tables.
        baseline: what the others are compared with: a name of `models` (then it runs once), or another model.
        tasks: graded pairs.
        batch_size: sentences per batch.
        output_dir: where to write; None writes nothing.
        overwrite: write into a folder that is not empty (its other files stay).
        device: torch device for models given by name.
        truncate_dim: dimensions kept of the embeddings of models given by name, the first; None keeps all.

    Raises:
        UserError: nothing to do, two models or tasks of one name, a model can't be loaded, its embeddings admit no
            correlation (NaN, or all the same), or the output folder is not empty.
    """
    check_output_dir(output_dir, overwrite=overwrite)
    check_batch_size(batch_size)
    named, baseline_name = named_models(models, baseline)
    if not tasks:
        raise UserError("no tasks given; expected at least one set of graded pairs")
    _refuse_duplicates("task", [task.name for task in tasks])
    scored = []
    for name, given in named:
        model = given_model(given, device=device, truncate_dim=truncate_dim)
        scored.append(ModelScores(name, describe(model), _score_tasks(model, tasks, name=name, batch_size=batch_size)))
        del model  # before the next one is loaded
    date = datetime.now(UTC).isoformat(timespec="seconds")
    results = Results(tuple(scored), baseline_name, date, _versions())
    if output_dir is not None:
        _write(output_dir, {"results.json": _json(results.to_dict()), "results.md": results.table()})
    return results


def check_output_dir(output_dir: Path | None, *, overwrite: bool) -> None:
    """Raise a UserError where output_dir is a file, or a folder that is not empty and overwrite is not set."""
    if output_dir is None or not output_dir.exists():
        return
    if not output_dir.is_dir():
        raise UserError(f"output {output_dir} is a file; expected a folder")
    if not overwrite and any(output_dir.iterdir()):
        raise UserError(f"output folder {output_dir} is not empty: choose another one, or pass --overwrite")


def check_batch_size(batch_size: int) -> None:
    """Raise a UserError where it is below 1."""
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}: expected 1 or more")


class _Embedded:
    """What a stock evaluator asks of a model, answered from embeddings that were computed before."""

    def __init__(self, sentences: Sequence[str], embeddings: NDArray[np.float32]) -> None:
        self._row = {sentence: row for row, sentence in enumerate(sentences)}
        self._embeddings = embeddings
        self.model_card_data = self

    def encode(
        self, sentences: Sequence[str], *, precision: None, normalize_embeddings: bool, truncate_dim: None, **_: Any
    ) -> NDArray[np.float32]:
        """Return (N, H) rows; options that would change an embedding are not served."""
        assert precision is None
        assert truncate_dim is None
        assert not normalize_embeddings
        return self._embeddings[[self._row[sentence] for sentence in sentences]]

    def set_evaluation_metrics(self, *_: Any) -> None:
        """Keep scores out of the model card: they go to results.json."""


def _score_tasks(
    model: SentenceTransformer, tasks: Sequence[StsTask], *, name: str, batch_size: int
) -> tuple[TaskScores, ...]:
    sentences = sorted({sentence for task in tasks for sentence in (*task.sentences1, *task.sentences2)})
    logger.info("%s: embedding %d different sentences of %d tasks", name, len(sentences), len(tasks))
    found = cut_by(model, sentences)
    if found is not None and found.cut:
        logger.warning(
            "%s: %d of %d sentences are longer than the model's limit of %d tokens (the longest: %d): the rest of them "
            "is cut off, and the scores are those of their starts",
            *(name, found.cut, found.sentences, found.limit, found.longest),
        )
    embeddings = model.encode(sentences, batch_size=batch_size, show_progress_bar=False, convert_to_numpy=True)
    embedded = _Embedded(sentences, embeddings)
    return tuple(_score(embedded, task, name=name) for task in tasks)


def _score(model: _Embedded, task: StsTask, *, name: str) -> TaskScores:
    from scipy.stats import ConstantInputWarning, NearConstantInputWarning
    from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

    evaluator = EmbeddingSimilarityEvaluator(
        list(task.sentences1),
        list(task.sentences2),
        task.unit_scores,
        similarity_fn_names=[*SIMILARITIES],
        write_csv=False,
    )
    with warnings.catch_warnings():  # a correlation that is not defined is refused below, with the model's name
        warnings.simplefilter("ignore", (ConstantInputWarning, NearConstantInputWarning))
        metrics = evaluator(cast("SentenceTransformer", model))
    spearman, pearson = (
        {str(similarity): 100 * metrics[f"{kind}_{similarity}"] for similarity in SIMILARITIES}
        for kind in ("spearman", "pearson")
    )
    for similarity, value in spearman.items():
        if not math.isfinite(value):
            raise UserError(
                f"model {name} on {task.name}: Spearman with {similarity} similarity is not defined, its embeddings "
                "hold NaN or are all the same: the model is broken or its training diverged"
            )
    return TaskScores(task.name, task.group, task.languages, len(task.scores), spearman, pearson)


def named_models(
    models: Models, baseline: str | SentenceTransformer | None
) -> tuple[list[tuple[str, str | SentenceTransformer]], str | None]:
    """Pair each model with its name in the tables, the baseline first, and return the baseline's name."""
    if isinstance(models, str):
        models = [models]
    if isinstance(models, Mapping):
        named = list(models.items())
    else:
        named = [(model if isinstance(model, str) else f"model {i}", model) for i, model in enumerate(models, start=1)]
    if not named:
        raise UserError("no models given; expected at least one folder, hub name or embedded base")
    baseline_name = None
    if baseline is not None:
        same = (i for i, (name, model) in enumerate(named) if model is baseline or name == baseline)
        found = next(same, None)
        first = (
            named.pop(found) if found is not None else (baseline if isinstance(baseline, str) else "baseline", baseline)
        )
        named.insert(0, first)
        baseline_name = first[0]
    _refuse_duplicates("model", [name for name, _ in named])
    return named, baseline_name


def _refuse_duplicates(kind: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{kind} {name!r} is given {names.count(name)} times; give it once")


def _versions(*more: str) -> dict[str, str]:
    found = {}
    for library in (*_LIBRARIES, *more):
        try:
            found[library] = version(library)
        except PackageNotFoundError:  # lacos_st from a checkout that is not installed
            found[library] = "not installed"
    return found


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _write(output_dir: Path, texts: Mapping[str, str]) -> None:
    """Write every text into output_dir, each whole or not at all."""
    output_dir.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_text(output_dir / name, text)
