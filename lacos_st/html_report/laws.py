"""Fitted laws: constants, IsoFLOP lines of each method, and the frontier."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lacos_st.errors import UserError
from lacos_st.html_report.charts import axis, chart, series, tooltip
from lacos_st.html_report.markup import Html, bullets, join, tag
from lacos_st.html_report.section import Cell, Row, figure, table
from lacos_st.recipe.estimate import observe
from lacos_st.recipe.forms import Points
from lacos_st.recipe.law import LEVEL, SHOWN, Law
from lacos_st.recipe.law_curves import lowest, means, over_budgets, over_sizes
from lacos_st.recipe.law_file import Laws
from lacos_st.recipe.optimum import Optimum
from lacos_st.recipe.runs_table import Run, fittable, rows_sha256

STEPS = 40  # of a line
HEIGHT = 280
BUDGET = {
    "field": "budget",
    "type": "ordinal",
    "legend": {"title": "FLOP", "orient": "right"},
    "scale": {"scheme": {"name": "viridis", "extent": [0.3, 0.88]}},
}


def measured(laws: Laws, tables: Sequence[tuple[str, list[Run]]]) -> dict[str, Points]:
    """By method, the runs that these laws were fitted on; empty where no table holds them."""
    for name, rows in tables:
        try:
            runs = fittable(rows, methods=laws.methods, family=laws.family, source=name)
        except UserError:
            continue
        if rows_sha256(run for of in runs.values() for run in of) == laws.provenance.rows_sha256:
            return {method: observe(of, "ND") for method, of in runs.items()}
    return {}


def law_block(
    laws: Laws, points: Mapping[str, Points], *, place: int, budget_flops: float | None
) -> tuple[Html, dict[str, dict[str, Any]]]:
    """Markup and charts of a file of laws.

    Args:
        laws: of the file.
        points: see `measured`.
        place: a number for the charts' names.
        budget_flops: of a plan by them, which the frontier marks.
    """
    charts, drawn = {}, []
    for method in laws.methods:
        if chart_of := _isoflops(laws, method, points.get(method)):
            name = f"isoflop-{place}-{method}"
            charts[name] = chart_of
            drawn.append(figure(name, f"IsoFLOP lines of {method}"))
    charts[f"frontier-{place}"], cut = _frontier(laws, points, budget_flops)
    drawn.append(figure(f"frontier-{place}", f"Frontier: the lowest loss at each budget, with {LEVEL:.0%} interval"))
    origin = laws.provenance
    said = [
        f"{origin.rows} runs of {origin.source}, fitted {origin.date[:10]}. IsoFLOP lines: solid the parabola of each "
        "budget with its minimum, dashed the law. Frontier: dashed beyond the fitted budgets.",
    ]
    if not points:
        said.append("Measured losses are not drawn: give the sweep's table (.csv) that the laws were fitted on, too.")
    warnings = [f"{law.method}, {law.form}: {warning}" for law in laws.laws for warning in law.warnings]
    warnings += [f"{method}: {warning}" for method, lines in laws.isoflops.items() for warning in lines.warnings]
    body = join(
        [
            tag("h3", f"Laws of {laws.family}"),
            tag("p", " ".join(said + cut), class_="note"),
            tag("div", *drawn, class_="grid"),
            _constants(laws),
            tag("details", tag("summary", f"What to mind: {len(warnings)}"), bullets(warnings))
            if warnings
            else Html(""),
        ]
    )
    return body, charts


def _isoflops(laws: Laws, method: str, points: Points | None) -> dict[str, Any] | None:
    """Lines of a method, its budgets from light to dark; None where there is nothing to draw."""
    law = _drawn(laws, method)
    rows: list[dict[str, Any]] = []
    for line in laws.isoflops[method].parabolas:
        budget = f"{line.budget_flops:.2g}"
        sizes = np.geomspace(line.smallest, line.largest, STEPS)
        rows += _rows("law", budget, sizes, over_sizes(law, sizes, line.budget_flops))
        if math.isfinite(line.parameters):
            fitted = np.geomspace(line.low, line.high, STEPS)
            rows += _rows("parabola", budget, fitted, line.curve(fitted))
            rows += _rows("minimum", budget, [line.parameters], [line.loss]) if line.trusted else []
        if points is not None:
            rows += _rows("measured", budget, *means(points.where(points.budget_flops == line.budget_flops)))
    if not rows:
        return None
    order = [f"{line.budget_flops:.2g}" for line in laws.isoflops[method].parabolas]
    marks = {
        "law": {"type": "line", "strokeDash": [4, 3], "strokeWidth": 1},
        "parabola": {"type": "line", "strokeWidth": 2},
        "measured": {"type": "point", "filled": True, "size": 26},
        "minimum": {"type": "point", "shape": "diamond", "filled": True, "size": 110, "stroke": "currentColor"},
    }
    return chart(
        rows,
        height=HEIGHT,
        encoding={
            "x": axis("x", "N, without token embedding", log=True, axis={"format": "~s", "tickCount": 4}),
            "y": axis("loss", "held-out loss", log=True, axis={"format": ".3~g", "tickCount": 5}),
            "color": {**BUDGET, "sort": order, "scale": {**BUDGET["scale"], "domain": order}},  # type: ignore[dict-item]
            "tooltip": tooltip(("what", "what"), ("budget", "FLOP"), ("x", "N", ",.3~s"), ("loss", "loss", ".4~g")),
        },
        layer=[
            {"mark": mark, "transform": [{"filter": {"field": "what", "equal": what}}]}
            for what, mark in marks.items()
            if any(row["what"] == what for row in rows)
        ],
    )


def _rows(what: str, budget: str, sizes: Any, losses: Any) -> list[dict[str, Any]]:
    return [
        {"what": what, "budget": budget, "x": float(size), "loss": float(loss)}
        for size, loss in zip(sizes, losses, strict=True)
    ]


def _frontier(laws: Laws, points: Mapping[str, Points], budget_flops: float | None) -> tuple[dict[str, Any], list[str]]:
    """Each method's lowest loss; and what could not be drawn, a sentence."""
    rows: list[dict[str, Any]] = []
    cut = []
    for method in laws.methods:
        law = _drawn(laws, method)
        try:
            optima = over_budgets(law, budget_flops=budget_flops, points=STEPS)
        except UserError as error:
            optima = over_budgets(law, points=STEPS)
            cut.append(f"The plan's budget is not on the line of {method}: {error}.")
        low, high = law.fitted.budget_flops
        rows += _line(method, "inside", [each for each in optima if low <= each.budget_flops <= high])
        rows += _line(method, "below", [each for each in optima if each.budget_flops <= low])
        rows += _line(method, "above", [each for each in optima if each.budget_flops >= high])
        if method in points:
            for budget, loss in zip(*lowest(points[method]), strict=True):
                rows.append({"name": method, "what": "measured", "x": float(budget), "loss": float(loss)})
    if budget_flops is not None:
        rows.append({"what": "budget", "x": budget_flops})
    marks: dict[str, dict[str, Any]] = {
        "inside": {"type": "line", "strokeWidth": 2},
        "below": {"type": "line", "strokeDash": [5, 4]},
        "above": {"type": "line", "strokeDash": [5, 4]},
        "measured": {"type": "point", "filled": True, "size": 34},
    }
    colour = series(laws.methods)
    shown = tooltip(("name", "method"), ("x", "FLOP", ".2~e"), ("loss", "loss", ".4~g"), ("n", "best N", ",.3~s"))
    y = axis("loss", "lowest held-out loss", log=True, axis={"format": ".3~g", "tickCount": 5})
    band = {
        "mark": {"type": "area", "opacity": 0.18},
        "transform": [{"filter": "isValid(datum.low) && isValid(datum.high)"}],
        "encoding": {
            "y": {**y, "field": "low"},
            "y2": {"field": "high"},
            "detail": {"field": "what"},
            **colour,
        },
    }
    of_lines: dict[str, Any] = {"y": y, "tooltip": shown, **colour}
    lines = [
        {"mark": mark, "transform": [{"filter": {"field": "what", "equal": what}}], "encoding": of_lines}
        for what, mark in marks.items()
        if any(row["what"] == what for row in rows)
    ]
    rule = {
        "mark": {"type": "rule", "strokeDash": [2, 3]},
        "transform": [{"filter": {"field": "what", "equal": "budget"}}],
        "encoding": {"tooltip": tooltip(("x", "FLOP of the plan", ".3~e"))},
    }
    x = axis("x", "training FLOP", log=True, axis={"format": ".0e", "tickCount": 4})
    return chart(
        rows, height=HEIGHT, encoding={"x": x}, layer=[*lines, band, *([] if budget_flops is None else [rule])]
    ), cut


def _line(method: str, what: str, optima: Sequence[Optimum]) -> list[dict[str, Any]]:
    if len(optima) < 2:
        return []
    return [
        {
            "name": method,
            "what": what,
            "x": each.budget_flops,
            "loss": each.loss,
            "n": each.parameters,
            **({"low": each.loss_low, "high": each.loss_high} if math.isfinite(each.loss_low) else {}),
        }
        for each in optima
    ]


def _drawn(laws: Laws, method: str) -> Law:
    """L(N, D) where there is one."""
    return next(
        (law for law in laws.laws if (law.method, law.form) == (method, "ND")), laws.law(method, laws.laws[0].form)
    )


def _constants(laws: Laws) -> Html:
    rows: list[Row] = []
    for law in laws.laws:
        for name, value in law.constants.items():
            low, high = law.intervals[name]
            span = f"{low:.3g} to {high:.3g}" if math.isfinite(low) else "not known"
            rows.append([law.method, Cell(SHOWN[law.form]), Cell(name), Cell(f"{value:.4g}", value), Cell(span)])
    head = ["method", "law", "constant", "value", f"{LEVEL:.0%} interval"]
    shown = table(head, rows, caption=f"Constants of the laws of {laws.family}")
    return tag("details", tag("summary", "Constants"), shown)
