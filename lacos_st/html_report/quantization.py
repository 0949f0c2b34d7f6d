"""What 8-bit storage loses in each layer of a base: a dot for each code and block, and the table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lacos_st.errors import UserError
from lacos_st.html_report.charts import axis, chart, series, tooltip
from lacos_st.html_report.markup import Html, join, tag
from lacos_st.html_report.names import short_names
from lacos_st.html_report.section import Cell, Row, Section, figure, table

ROW = 15  # pixels


@dataclass(frozen=True)
class BaseErrors:
    """Of a base: layers with their errors.

    Attributes:
        name: of the base.
        layers: name, shape, and by (block, code) the relative error of the Frobenius norm, in %.
    """

    name: str
    layers: tuple[tuple[str, str, dict[tuple[int, str], float]], ...]

    @property
    def kinds(self) -> list[tuple[int, str]]:
        """Blocks and codes, in the order of the file."""
        return list(self.layers[0][2])


def parse_errors(values: Any, *, source: str) -> BaseErrors:
    """What `lacos-st quantization BASE --json` printed.

    Raises:
        UserError: something is missing, or is no number.
    """
    try:
        layers = tuple(
            (
                str(layer["name"]),
                "x".join(str(int(size)) for size in layer["shape"]),
                {
                    (int(block["block_size"]), str(code)): 100 * float(error["relative_rms"])
                    for block in layer["blocks"]
                    for code, error in block["errors"].items()
                },
            )
            for layer in values["layers"]
        )
        if not layers or any(list(errors) != list(layers[0][2]) or not errors for _, _, errors in layers):
            raise ValueError("layers without errors, or of other blocks than the first")
        if not all(math.isfinite(error) for _, _, errors in layers for error in errors.values()):
            raise ValueError("an error that is not finite")
        return BaseErrors(str(values["base"]), layers)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{source} is no file of lacos-st quantization BASE --json ({type(error).__name__}: {error}): write it anew"
        ) from error


def quantization_section(bases: Sequence[BaseErrors], *, notes: Sequence[str] = ()) -> Section | None:
    """The section; None where there is no base."""
    if not bases:
        return None
    parts: list[Html] = []
    charts = {}
    for place, (base, name) in enumerate(zip(bases, short_names([each.name for each in bases]), strict=True)):
        charts[f"quantization-{place}"] = _dots(base)
        title = f"{name}: relative error of each layer, % of its Frobenius norm"
        parts += [tag("h3", name), figure(f"quantization-{place}", title, tall=True), _table(base, place)]
    parts += [tag("p", note, class_="note") for note in notes]
    summary = f"quantisation errors of {len(bases)} base{'s' * (len(bases) != 1)}"
    return Section("quantization", "Quantisation error by layer", summary, join(parts), charts)


def _label(kind: tuple[int, str]) -> str:
    return f"{kind[1]}, block {kind[0]}"


def _dots(base: BaseErrors) -> dict[str, Any]:
    rows = [
        {"layer": layer, "shape": shape, "name": _label(kind), "error": error}
        for layer, shape, errors in base.layers
        for kind, error in errors.items()
    ]
    return chart(
        rows,
        height=len(base.layers) * ROW,
        mark={"type": "point", "filled": True, "size": 42, "opacity": 0.9},
        encoding={
            "y": {
                "field": "layer",
                "type": "nominal",
                "sort": [layer for layer, _, _ in base.layers],
                "title": None,
                "axis": {"grid": True, "labelLimit": 200},
            },
            "x": axis("error", "relative error, %", zero=True, axis={"orient": "top"}),
            "tooltip": tooltip(("layer", "layer"), ("shape", "shape"), ("name", "code"), ("error", "error, %", ".3f")),
            **series([_label(kind) for kind in base.kinds]),
        },
    )


def _table(base: BaseErrors, place: int) -> Html:
    rows: list[Row] = []
    for layer, shape, errors in base.layers:
        least = min(errors, key=lambda kind: errors[kind])
        cells = [Cell(f"{error:.2f}", error) for error in errors.values()]
        rows.append([layer, Cell(shape), *cells, Cell(_label(least))])
    head = ["layer", "shape", *(_label(kind) for kind in base.kinds), "least"]
    shown = table(head, rows, id=f"quantization-table-{place}", caption=f"{base.name}: relative error in %")
    return tag("details", tag("summary", "The same as a table"), shown)
