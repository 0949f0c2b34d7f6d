"""Vega-Lite charts' common parts. Colours of the axes and of the theme are the page's; a chart has its data in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lacos_st.canvas import COLOURS

DARK = ("#56B4E9", "#E69F00", "#2DBD92", "#E39AC6", "#8FA8FF", "#FF8A4C", "#F0E442")
"""Of series on a dark page: the palette of `canvas` where it is light enough, else lighter neighbours."""
LIGHT = COLOURS
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3])
TICKS = 6
MOST_POINTS = 1500
"""Of a line: no screen shows more."""


def chart(rows: list[dict[str, Any]], *, height: int, **more: Any) -> dict[str, Any]:
    """A chart as wide as its place.

    Args:
        rows: its data.
        height: pixels.
        **more: mark or layer, encoding, params, transform.
    """
    return {
        "data": {"values": rows},
        "width": "container",
        "height": height,
        **more,
    }


def series(names: Sequence[str], *, field: str = "name", dashes: bool = False) -> dict[str, Any]:
    """Encoding of lines or bars by name: a colour each, and a dash where there are more than colours.

    Args:
        names: in their order.
        field: of the data.
        dashes: whether the marks are lines.
    """
    legend = {"title": None, "orient": "top", "direction": "vertical", "labelLimit": 300}
    found: dict[str, Any] = {
        "color": {"field": field, "type": "nominal", "scale": {"domain": list(names)}, "legend": legend}
    }
    if dashes and len(names) > len(LIGHT):
        dash = [DASHES[(place // len(LIGHT)) % len(DASHES)] for place in range(len(names))]
        found["strokeDash"] = {
            "field": field,
            "type": "nominal",
            "scale": {"domain": list(names), "range": dash},
            "legend": legend,
        }
    return found


def axis(field: str, title: str, *, log: bool = False, zero: bool = False, **more: Any) -> dict[str, Any]:
    """A numeric axis."""
    scale: dict[str, Any] = {"type": "log", "nice": False} if log else {"zero": zero}
    more["axis"] = {"tickCount": TICKS, "labelOverlap": True, **more.get("axis", {})}
    return {"field": field, "type": "quantitative", "title": title, "scale": scale, **more}


def tooltip(*fields: tuple[str, str] | tuple[str, str, str]) -> list[dict[str, Any]]:
    """What is shown of a mark under the pointer: (field, title) or (field, title, number format)."""
    return [
        {"field": each[0], "title": each[1], **({"type": "quantitative", "format": each[2]} if len(each) == 3 else {})}
        for each in fields
    ]


def thinned(points: Sequence[Any]) -> list[Any]:
    """At most `MOST_POINTS` of a line, evenly, the first and the last among them."""
    if len(points) <= MOST_POINTS:
        return list(points)
    places = {round(place * (len(points) - 1) / (MOST_POINTS - 1)) for place in range(MOST_POINTS)}
    return [points[place] for place in sorted(places)]
