"""Scores of several models on graded pairs: averages, differences to a baseline, and their Markdown tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, Literal

from lacos_st.sts import ENGLISH, Group

SIMILARITIES: tuple[Literal["cosine", "manhattan", "euclidean", "dot"], ...] = (
    "cosine",
    "manhattan",
    "euclidean",
    "dot",
)
Figure = Literal["max", "cosine"]
AVERAGES: tuple[tuple[str, Group], ...] = (("STS-Avg", "sts"), ("xSTS-Avg", "xsts"))


@dataclass(frozen=True)
class TaskScores:
    """One model on one task; correlations x100 per similarity (cosine, manhattan, euclidean, dot).

    Attributes:
        task: name of the task.
        group: "sts" or "xsts".
        languages: such as "es-en".
        pairs: number of pairs.
        spearman: Spearman x100 with the gold scores, per similarity.
        pearson: Pearson x100, per similarity.
    """

    task: str
    group: Group
    languages: str
    pairs: int
    spearman: dict[str, float]
    pearson: dict[str, float]

    @property
    def best(self) -> str:
        """The similarity with the highest Spearman (the first of equals)."""
        return max(self.spearman, key=lambda similarity: self.spearman[similarity])

    def figure(self, figure: Figure) -> float:
        """Spearman x100: "max" over the four similarities (the paper's figure of merit), or "cosine" alone."""
        return max(self.spearman.values()) if figure == "max" else self.spearman["cosine"]


@dataclass(frozen=True)
class ModelScores:
    """One model on all tasks.

    Attributes:
        name: the model, as it was given.
        info: what the model is: its base, modules, parameters and so on, for the record.
        tasks: scores per task.
    """

    name: str
    info: dict[str, Any]
    tasks: tuple[TaskScores, ...]

    @property
    def compared(self) -> list[tuple[str, Group, str, int]]:
        """What the scores are of: task, group, languages and pairs. Only scores of the same stand side by side."""
        return [(task.task, task.group, task.languages, task.pairs) for task in self.tasks]

    def average(self, group: Group, *, figure: Figure = "max") -> float | None:
        """STS-Avg ("sts") or xSTS-Avg ("xsts"): the mean over `members`, None if there are none."""
        values = [task.figure(figure) for task in self.members(group)]
        return fmean(values) if values else None

    def members(self, group: Group) -> list[TaskScores]:
        """Tasks that count towards a group's average: a pair of English with English counts only in "sts"."""
        return [task for task in self.tasks if task.group == group and (group == "sts" or task.languages != ENGLISH)]


@dataclass(frozen=True)
class Results:
    """Models side by side on the same tasks.

    Attributes:
        models: in the order of the tables, the baseline first where there is one.
        baseline: name of the model that the others are compared with, or None.
        date: when the run ended, ISO 8601 in UTC.
        versions: of the libraries that were used.
    """

    models: tuple[ModelScores, ...]
    baseline: str | None
    date: str
    versions: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return what results.json holds (schema in docs of `evaluation.evaluate`)."""
        models = []
        for model in self.models:
            averages = {
                label: {
                    "max": model.average(group),
                    "cosine": model.average(group, figure="cosine"),
                    "tasks": [task.task for task in model.members(group)],
                }
                for label, group in AVERAGES
            }
            tasks = [asdict(task) | {"best": task.best, "max": task.figure("max")} for task in model.tasks]
            models.append({"name": model.name, "info": model.info, "tasks": tasks, "averages": averages})
        return {
            "schema": 1,
            "date": self.date,
            "versions": self.versions,
            "baseline": self.baseline,
            "models": models,
        }

    @classmethod
    def from_dict(cls, values: Any) -> Results:
        """What `to_dict` returned: the inverse, but for what it computed.

        Raises:
            ValueError: something is missing, is no finite number, or the models do not have the same tasks.
        """
        try:
            models = tuple(
                ModelScores(str(model["name"]), dict(model["info"]), tuple(_task(task) for task in model["tasks"]))
                for model in values["models"]
            )
            baseline = values["baseline"]
            found = cls(models, baseline, str(values["date"]), dict(values["versions"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no results of lacos-st evaluate ({error!r:.200})") from error
        names = [model.name for model in models]
        if not names or not models[0].tasks or len(set(names)) < len(names) or baseline not in (None, *names):
            raise ValueError(f"no results of lacos-st evaluate (models {', '.join(names) or 'none'})")
        if any(model.compared != models[0].compared for model in models):
            raise ValueError("the models were not scored on the same tasks")
        return found

    def table(self) -> str:
        """Return Markdown: the max of four similarities, cosine alone, then all four per model with the max bold."""
        parts = [
            "## Spearman x100, max over cosine, Manhattan, Euclidean and dot",
            self._side_by_side("max"),
            "## Spearman x100, cosine",
            self._side_by_side("cosine"),
        ]
        for model in self.models:
            cut = model.info.get("truncate_dim")
            of = model.name if cut is None else f"{model.name}, first {cut} dimensions"
            parts += [f"## {of}: Spearman x100 per similarity, max in bold", _all_four(model)]
        libraries = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        parts.append(f"{self.date}; {libraries}. In brackets: difference to the baseline.")
        return "\n\n".join(parts) + "\n"

    def _side_by_side(self, figure: Figure) -> str:
        heads = [name + " (baseline)" * (name == self.baseline) for name in (model.name for model in self.models)]
        rows = [["task", "languages", "pairs", *heads]]
        for tasks in zip(*(model.tasks for model in self.models), strict=True):
            values = [task.figure(figure) for task in tasks]
            rows.append([tasks[0].task, tasks[0].languages, str(tasks[0].pairs), *self._with_difference(values)])
        for label, group in AVERAGES:
            averages = [model.average(group, figure=figure) for model in self.models]
            if None not in averages:
                members = self.models[0].members(group)
                cells = self._with_difference([value for value in averages if value is not None])
                rows.append([f"**{label}** ({_count(len(members))})", "", str(sum(m.pairs for m in members)), *cells])
        return markdown_table(rows)

    def _with_difference(self, values: Sequence[float]) -> list[str]:
        base = next((v for v, model in zip(values, self.models, strict=True) if model.name == self.baseline), None)
        return [
            f"{value:.2f}" if base is None or model.name == self.baseline else f"{value:.2f} ({value - base:+.2f})"
            for value, model in zip(values, self.models, strict=True)
        ]


def _task(values: Mapping[str, Any]) -> TaskScores:
    kinds: list[dict[str, float]] = [
        {name: float(values[kind][name]) for name in SIMILARITIES} for kind in ("spearman", "pearson")
    ]
    if not all(math.isfinite(value) for kind in kinds for value in kind.values()):
        raise ValueError(f"a score of {values['task']} is not finite")
    if values["group"] not in ("sts", "xsts"):
        raise ValueError(f"the group of {values['task']} is {values['group']!r}: expected sts or xsts")
    return TaskScores(str(values["task"]), values["group"], str(values["languages"]), int(values["pairs"]), *kinds)


def _count(tasks: int) -> str:
    return f"{tasks} task" + "s" * (tasks != 1)


def _all_four(model: ModelScores) -> str:
    def bold(value: float, best: bool) -> str:
        return f"**{value:.2f}**" if best else f"{value:.2f}"

    rows = [["task", *SIMILARITIES]]
    for task in model.tasks:
        rows.append([task.task, *(bold(task.spearman[name], name == task.best) for name in SIMILARITIES)])
    return markdown_table(rows)


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Align cells into a Markdown table; the first row is the head, the first column is set left, the others right."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(cells[0]))]
    lines = [
        "| " + " | ".join((c.ljust if i == 0 else c.rjust)(widths[i]) for i, c in enumerate(row)) + " |"
        for row in cells
    ]
    rule = "| " + " | ".join("-" * w if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)) + " |"
    return "\n".join([lines[0], rule, *lines[1:]])
