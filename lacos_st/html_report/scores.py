"""Scores side by side: tables with differences, and bars for each task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lacos_st.html_report.charts import axis, chart, series, tooltip
from lacos_st.html_report.markup import Html, join, tag
from lacos_st.html_report.names import short_names
from lacos_st.html_report.section import Cell, Row, Section, choice, controls, figure, table
from lacos_st.report import AVERAGES, Figure, ModelScores, Results

FIGURES: tuple[tuple[Figure, str], ...] = (
    ("max", "highest of four similarities (the paper's)"),
    ("cosine", "cosine alone"),
)
BAR = 13  # pixels


@dataclass(frozen=True)
class Side:
    """Models that were scored on the same tasks.

    Attributes:
        models: the baseline first where there is one.
        names: of them, short.
        baseline: which of them the others are compared with, if any.
        dates: when they were scored.
    """

    models: tuple[ModelScores, ...]
    names: tuple[str, ...]
    baseline: int | None
    dates: tuple[str, ...]


def side_by_side(results: Sequence[tuple[str, Results]]) -> list[Side]:
    """Results of the same tasks together, whatever file they are from; the same scores of the same model once."""
    groups: list[list[tuple[str, Results]]] = []
    for name, each in results:
        same = [group for group in groups if group[0][1].models[0].compared == each.models[0].compared]
        same[0].append((name, each)) if same else groups.append([(name, each)])
    return [_side(group) for group in groups]


def _side(group: Sequence[tuple[str, Results]]) -> Side:
    found: list[tuple[str, ModelScores]] = []
    for name, results in group:
        for model in results.models:
            if not any(known.name == model.name and known.tasks == model.tasks for _, known in found):
                found.append((name, model))
    names = [model.name for _, model in found]
    baselines = [results.baseline for _, results in group if results.baseline is not None]
    shown = short_names(names)
    shown = [
        f"{short} ({name})" if names.count(model.name) > 1 else short
        for short, (name, model) in zip(shown, found, strict=True)
    ]
    cuts = [model.info.get("truncate_dim") for _, model in found]
    shown = [
        short if cut is None else f"{short}, first {cut} dimensions" for short, cut in zip(shown, cuts, strict=True)
    ]
    return Side(
        tuple(model for _, model in found),
        tuple(shown),
        names.index(baselines[0]) if baselines else None,
        tuple(sorted({results.date for _, results in group})),
    )


def scores_section(results: Sequence[tuple[str, Results]]) -> Section | None:
    """The section; None where there are no scores."""
    sides = side_by_side(results)
    if not sides:
        return None
    charts = {f"scores-{place}": _bars(side) for place, side in enumerate(sides)}
    parts = [_block(side, place, several=len(sides) > 1) for place, side in enumerate(sides)]
    if len(sides) > 1:
        note = "Not all of these were scored on the same tasks: models stand side by side only with those that were."
        parts.insert(0, tag("p", note))
    models = sum(len(side.models) for side in sides)
    return Section("scores", "Scores", f"scores of {models} model{'s' * (models != 1)}", join(parts), charts)


def _block(side: Side, place: int, *, several: bool) -> Html:
    chart_name, table_name = f"scores-{place}", f"scores-table-{place}"
    first = side.baseline if side.baseline is not None else -1
    order = sorted(range(-1, len(side.names)), key=lambda index: index != first)
    compared = [(str(index), "nothing" if index < 0 else side.names[index]) for index in order]
    said = (
        f"Spearman correlation with graded pairs, x100; in brackets the difference to the chosen model. {_dates(side)}"
    )
    return join(
        [
            tag("h3", f"{len(side.models[0].tasks)} tasks: {', '.join(side.names)}") if several else Html(""),
            controls(
                [
                    choice("Figure", FIGURES, data_scores=table_name, data_signal="figure", data_charts=chart_name),
                    choice("Compared with", compared, data_baseline=table_name),
                ]
            ),
            _table(side, table_name),
            tag("p", said, class_="note"),
            figure(chart_name, "Spearman x100 of each task", tall=True),
        ]
    )


def _dates(side: Side) -> str:
    return f"Scored {', '.join(side.dates)}." if len(side.dates) <= 3 else f"Scored on {len(side.dates)} occasions."


def _table(side: Side, name: str) -> Html:
    first = side.models[0]
    rows: list[Row] = []
    for place, task in enumerate(first.tasks):
        tasks = [model.tasks[place] for model in side.models]
        cells = _cells(side, [(each.figure("max"), each.figure("cosine")) for each in tasks])
        rows.append([task.task, *cells, Cell(task.languages), Cell(f"{task.pairs:,}", task.pairs)])
    foot: list[Row] = []
    for label, values, members in _averages(side):
        pairs = sum(each.pairs for each in first.tasks if each.task in members)
        foot.append([Cell(f"{label} ({len(members)})"), *_cells(side, values), Cell(""), Cell(f"{pairs:,}", pairs)])
    head = ["task", *side.names, "languages", "pairs"]
    return table(head, rows, foot=foot, id=name, caption="Scores by task; a click on a column's name sorts by it")


def _averages(side: Side) -> list[tuple[str, list[tuple[float, float]], list[str]]]:
    """Label, (max, cosine) of each model, and the tasks."""
    found = []
    for label, group in AVERAGES:
        members = [task.task for task in side.models[0].members(group)]
        if members:
            values = [(model.average(group), model.average(group, figure="cosine")) for model in side.models]
            found.append((label, [(most or 0.0, cosine or 0.0) for most, cosine in values], members))
    return found


def _cells(side: Side, values: Sequence[tuple[float, float]]) -> list[Cell]:
    """Of a row: the script shows another figure, or the difference to another model, from the attributes."""
    found = []
    for place, (most, cosine) in enumerate(values):
        base = None if side.baseline in (None, place) else values[side.baseline or 0][0]
        difference = "" if base is None else f" ({most - base:+.2f})"
        shown = join([f"{most:.2f}", tag("span", difference, class_="difference")])
        found.append(Cell(shown, most, {"data_model": place, "data_max": most, "data_cosine": cosine}))
    return found


def _bars(side: Side) -> dict[str, Any]:
    """A bar of each task, figure and model; the page shows those of one figure."""
    rows = []
    for name, model in zip(side.names, side.models, strict=True):
        values = [(task.task, task.languages, task.figure("max"), task.figure("cosine")) for task in model.tasks]
        values += [
            (label, "", *of_models[side.names.index(name)]) for label, of_models, _ in _averages(side)
        ]  # behind the tasks
        for task, languages, *figures in values:
            for (figure_name, _), value in zip(FIGURES, figures, strict=True):
                rows.append({"task": task, "languages": languages, "name": name, "figure": figure_name, "score": value})
    order = list(dict.fromkeys(str(row["task"]) for row in rows))
    encoding = {
        "y": {"field": "task", "type": "nominal", "sort": order, "title": None, "axis": {"labelLimit": 130}},
        "yOffset": {"field": "name", "type": "nominal", "sort": list(side.names)},
        "x": axis("score", "Spearman x100", zero=True, axis={"orient": "top"}),
        "tooltip": tooltip(("task", "task"), ("languages", "languages"), ("name", "model"), ("score", "score", ".2f")),
        **series(side.names),
    }
    return chart(
        rows,
        height=len(order) * (len(side.names) + 1) * BAR,
        params=[{"name": "figure", "value": "max"}],
        transform=[{"filter": "datum.figure === figure"}],
        mark={"type": "bar"},
        encoding=encoding,
    )
