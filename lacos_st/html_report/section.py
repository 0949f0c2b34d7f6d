"""`Section` of the page, and what its body is made of: charts, tables that sort, controls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from lacos_st.html_report.markup import Html, join, tag


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        name: its anchor.
        title: shown.
        summary: what it shows, a phrase for the terminal.
        body: its markup.
        charts: Vega-Lite, without colours and sizes of the theme; by the name of their `figure`.
        data: what the page's script asks for besides, by name.
    """

    name: str
    title: str
    summary: str
    body: Html
    charts: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)


def figure(chart: str, title: str, *, note: str = "", tall: bool = False) -> Html:
    """The place of a chart.

    Args:
        chart: its name in `Section.charts`.
        title: above it; what a screen reader says of it.
        note: below it.
        tall: it scrolls within the page.
    """
    drawing = tag("div", class_="chart", id=f"chart-{chart}", data_chart=chart)
    place = tag("div", drawing, class_="tall", tabindex=0, role="region", aria_label=title) if tall else drawing
    return tag("figure", tag("figcaption", title), place, tag("p", note, class_="note") if note else Html(""))


@dataclass(frozen=True)
class Cell:
    """Of a table.

    Attributes:
        shown: the text, or markup.
        sort: what the column sorts by; None for the text.
        attributes: of the element.
    """

    shown: str
    sort: float | str | None = None
    attributes: Mapping[str, str | int | float | None] = field(default_factory=dict)


Row: TypeAlias = Sequence[Cell | str]


def table(
    head: Sequence[str],
    rows: Iterable[Row],
    *,
    foot: Iterable[Row] = (),
    id: str | None = None,
    caption: str = "",
    sorts: bool = True,
) -> Html:
    """A table that sorts by a click on its head; the first column is text, and the foot stays where it is."""
    heads = [
        tag(
            "th",
            tag("button", name, type="button") if sorts else name,
            scope="col",
            class_="text" if place == 0 else "number",
        )
        for place, name in enumerate(head)
    ]
    return tag(
        "div",
        tag(
            "table",
            *([tag("caption", caption)] if caption else []),
            tag("thead", tag("tr", *heads)),
            tag("tbody", *(_row(row) for row in rows)),
            tag("tfoot", *(_row(row) for row in foot)),
            class_="sortable" if sorts else None,
            id=id,
        ),
        class_="wide",
        tabindex=0,
        role="region",
        aria_label=caption or "table",
    )


def _row(cells: Row) -> Html:
    shown = []
    for place, given in enumerate(cells):
        cell = given if isinstance(given, Cell) else Cell(given)
        attributes = {"data_sort": cell.sort, **cell.attributes}
        if place == 0:
            shown.append(tag("th", cell.shown, scope="row", class_="text", **attributes))
        else:
            shown.append(tag("td", cell.shown, class_="number", **attributes))
    return tag("tr", *shown)


def number(value: float | None, form: str, *, unit: str = "", missing: str = "-") -> Cell:
    """A cell of a number that may be missing, which sorts by its value."""
    return Cell(missing) if value is None else Cell(f"{value:{form}}{unit}", float(value))


def choice(label: str, options: Sequence[tuple[str, str]], **attributes: str | int | bool | None) -> Html:
    """A labelled choice among options (value, shown); the first is chosen."""
    items = [tag("option", shown, value=value) for value, shown in options]
    return tag("label", tag("span", label), tag("select", *items, **attributes), class_="control")


def controls(parts: Iterable[Html]) -> Html:
    """Controls in a row, which wraps on a phone."""
    return tag("div", join(parts), class_="controls")
