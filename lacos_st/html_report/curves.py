"""Training runs: their options and results side by side, and the curves of their logs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lacos_st.html_report.charts import axis, chart, series, thinned, tooltip
from lacos_st.html_report.inputs import TrainedRun
from lacos_st.html_report.markup import bullets, join, tag
from lacos_st.html_report.names import short_names
from lacos_st.html_report.section import Cell, Row, Section, choice, controls, figure, number, table
from lacos_st.recipe.units import show_seconds
from lacos_st.runs import LAST_LINE

CURVES = (
    ("loss", "loss", "Training loss"),
    ("eval_loss", "eval_loss", "Validation loss"),
    ("sts", "eval_sts_spearman_max", "Spearman of eval_sts (highest of four similarities)"),
    ("rate", "learning_rate", "Learning rate"),
    ("norm", "grad_norm", "Norm of the gradients"),
)
"""Name of the chart, figure of the log, title."""
CONDITIONS: tuple[str, ...] = ("method", "batch_size", "scale", "symmetric", "same_side_negatives", "hard_negatives")
CONDITIONS += ("gather_across_devices", "matryoshka_dims")
"""What the training loss depends on beside how well a model does: negatives and temperature."""
VALIDATION = ("data", "eval_data", "eval_rows", "seed")
"""What the validation loss depends on besides."""
ALONG = {"title": {"expr": "along + 's'"}, "tickMinStep": {"expr": "along === 'step' ? 1 : 0.001"}}
MANY = 60  # points of a line that are not dotted any more


def curves_section(runs: Sequence[TrainedRun]) -> Section | None:
    """The section; None where there is no run with a log."""
    logged = [run for run in runs if run.rows]
    if not logged:
        return None
    charts = {}
    for name, field, title in CURVES:
        points = [point for run in logged for point in _points(run, field)]
        if points:
            charts[f"curve-{name}"] = _curve(points, [run.name for run in logged], title)
    along = choice("Along", [("step", "steps"), ("epoch", "epochs")], data_signal="along", data_charts=" ".join(charts))
    drawn = [figure(f"curve-{name}", title) for name, _, title in CURVES if f"curve-{name}" in charts]
    parts = [_table(logged), bullets(_warnings(logged)), controls([along]), tag("div", *drawn, class_="grid")]
    summary = f"curves of {len(logged)} run{'s' * (len(logged) != 1)}"
    return Section("curves", "Training runs", summary, join(parts), charts)


def _points(run: TrainedRun, field: str) -> list[dict[str, Any]]:
    """Of one line; a figure that is not finite has no point."""
    found = [row for row in run.rows if isinstance(row.get(field), int | float) and math.isfinite(row[field])]
    return [
        {"name": run.name, "step": row["step"], "epoch": row.get("epoch"), "value": row[field]}
        for row in thinned(found)
    ]


def _curve(rows: list[dict[str, Any]], names: Sequence[str], title: str) -> dict[str, Any]:
    few = len(rows) <= MANY * len(names)
    return chart(
        rows,
        height=260,
        params=[{"name": "along", "value": "step"}],
        transform=[{"calculate": "datum[along]", "as": "place"}],
        mark={"type": "line", "point": {"size": 28} if few else False, "clip": True},
        encoding={
            "x": axis("place", "step or epoch", axis=ALONG),
            "y": axis("value", title, axis={"title": None}),
            "tooltip": tooltip(("name", "run"), ("step", "step"), ("epoch", "epoch", ".2f"), ("value", title, ".4~g")),
            **series(names, dashes=True),
        },
    )


def _warnings(runs: Sequence[TrainedRun]) -> list[str]:
    """Where curves do not say which run is better."""
    found = []
    for what, names in (("training", CONDITIONS), ("validation", CONDITIONS + VALIDATION)):
        differing = [name for name in names if len({str(getattr(run.config, name)) for run in runs}) > 1]
        if differing:
            found.append(
                f"The {what} losses of these runs are not of the same question, they differ in {', '.join(differing)}: "
                "compare scores instead."
            )
    unfinished = [run.name for run in runs if LAST_LINE not in run.rows[-1]]
    if unfinished:
        found.append(f"Not finished when this page was written, or stopped: {', '.join(unfinished)}.")
    broken = [run.name for run in runs if any(_not_finite(row) for row in run.rows)]
    if broken:
        found.append(f"Figures that are not finite are left out of the curves of {', '.join(broken)}.")
    return found


def _not_finite(row: dict[str, Any]) -> bool:
    return any(isinstance(value, float) and not math.isfinite(value) for value in row.values())


def _table(runs: Sequence[TrainedRun]) -> Any:
    head = ["run", "base", "method", "rank", "learning rate", "batch", "steps", "loss, first", "loss, last"]
    head += ["best validation loss", "at step", "time of training", "sentence pairs a second"]
    rows: list[Row] = []
    for run, base in zip(runs, short_names([run.config.base for run in runs]), strict=True):
        losses, validated = _points(run, "loss"), _points(run, "eval_loss")
        best = min(validated, key=lambda point: float(point["value"]), default=None)
        last = run.rows[-1] if LAST_LINE in run.rows[-1] else {}
        seconds, rate = _plain(last, LAST_LINE), _plain(last, "train_samples_per_second")
        rates = [float(row["value"]) for row in _points(run, "rate") or _points(run, "learning_rate")]
        rows.append(
            [
                run.name,
                Cell(base),
                Cell(run.config.method),
                number(run.config.lora_rank, "d"),
                number(run.config.lr if run.config.lr is not None else max(rates, default=None), ".3g"),
                number(run.config.batch_size, "d"),
                number(max((row["step"] for row in run.rows), default=None), ",d"),
                number(losses[0]["value"] if losses else None, ".4g"),
                number(losses[-1]["value"] if losses else None, ".4g"),
                number(None if best is None else best["value"], ".4g"),
                number(None if best is None else best["step"], ",d"),
                Cell("-") if seconds is None else Cell(show_seconds(seconds), seconds),
                number(rate, ".3g"),
            ]
        )
    return table(head, rows, id="runs-table", caption="Runs; a click on a column's name sorts by it")


def _plain(row: dict[str, Any], name: str) -> float | None:
    value = row.get(name)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
