"""A heat map of sentences that the reader picks among those whose similarities were computed."""

from __future__ import annotations

import gc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lacos_st.errors import UserError
from lacos_st.html_report.charts import chart, tooltip
from lacos_st.html_report.markup import Html, join, tag
from lacos_st.html_report.names import short_names
from lacos_st.html_report.section import Section, choice, controls, figure

SHOWN_FIRST = 9
DIGITS = 4
CELL = 34  # pixels


@dataclass(frozen=True)
class Similarities:
    """Of a model.

    Attributes:
        model: its path or name.
        measure: the model's own: cosine, dot, euclidean, manhattan.
        values: of each pair of sentences, (n, n).
    """

    model: str
    measure: str
    values: list[list[float]]


def similarities(model: str, sentences: Sequence[str], *, device: str | None = None) -> Similarities:
    """Embed the sentences, and compare each pair as the model does.

    Raises:
        UserError: the model cannot be loaded, or its embeddings are not finite.
    """
    from lacos_st.text_encoder import TextEncoder

    encoder = TextEncoder.load(model, device=device)
    vectors = encoder.encode(sentences)
    values = encoder.model.similarity(vectors, vectors).cpu().double().numpy().round(DIGITS).tolist()
    measure = str(encoder.model.similarity_fn_name)
    del encoder
    gc.collect()  # before the next one is loaded
    if not all(math.isfinite(value) for row in values for value in row):
        raise UserError(f"{model}: its embeddings are not finite: the model is broken")
    return Similarities(model, measure, values)


def similarity_section(found: Sequence[Similarities], sentences: Sequence[str]) -> Section | None:
    """The section; None where there is no model."""
    if not found:
        return None
    names = short_names([each.model for each in found])
    data = {
        "sentences": list(sentences),
        "cell": CELL,
        "chosen": list(range(min(SHOWN_FIRST, len(sentences)))),
        "models": [
            {"name": name, "measure": each.measure, "values": each.values}
            for name, each in zip(names, found, strict=True)
        ],
    }
    body = join(
        [
            tag("p", *_said(len(sentences))),
            controls([choice("Model", [(str(i), name) for i, name in enumerate(names)], id="similarity-model")]),
            _search(),
            tag("ol", id="similarity-chosen", aria_label="sentences of the heat map"),
            figure("similarity", "Similarity of each pair"),
            tag("div", id="similarity-nearest", class_="nearest", aria_live="polite"),
        ]
    )
    summary = f"similarities of {len(found)} model{'s' * (len(found) != 1)} on {len(sentences)} sentences"
    return Section(
        "similarity", "Similarity of sentences", summary, body, {"similarity": _map(data)}, {"similarity": data}
    )


def _said(count: int) -> list[str]:
    return [
        f"Type, and pick among the {count} sentences whose values were computed when this page was written. ",
        "The page holds no model: it cannot tell the similarity of another sentence. For sentences of your own: ",
        tag("code", "lacos-st report RUN --sentences FILE"),
        ", or, to type any, ",
        tag("code", "lacos-st serve MODEL"),
        ".",
    ]


def _search() -> Html:
    field = tag(
        "input",
        id="similarity-typed",
        type="search",
        autocomplete="off",
        placeholder="a word or a sentence",
        aria_describedby="similarity-said",
    )
    return tag(
        "form",
        tag("label", tag("span", "Add a sentence"), Html(field.removesuffix("</input>")), class_="control grow"),
        tag("div", id="similarity-matches", class_="matches"),
        tag("p", id="similarity-said", class_="note", role="status"),
        id="similarity-form",
    )


def cells(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Of the map as it is shown first; the page's script makes others."""
    texts, values = data["sentences"], data["models"][0]["values"]
    return [
        {"row": r + 1, "column": c + 1, "a": texts[i], "b": texts[j], "value": values[i][j]}
        for r, i in enumerate(data["chosen"])
        for c, j in enumerate(data["chosen"])
    ]


def _map(data: dict[str, Any]) -> dict[str, Any]:
    labels = {"type": "ordinal", "title": None}
    middle = {"expr": "(domain('color')[0] + domain('color')[1]) / 2"}
    return chart(
        cells(data),
        height=len(data["chosen"]) * CELL,
        params=[{"name": "middle", "expr": middle["expr"]}],
        encoding={
            "x": {
                "field": "column",
                **labels,
                "axis": {"orient": "top", "labelAngle": 0, "domain": False, "ticks": False},
            },
            "y": {"field": "row", **labels, "axis": {"domain": False, "ticks": False}},
            "tooltip": tooltip(("a", "first"), ("b", "second"), ("value", "similarity", ".3f")),
        },
        layer=[
            {
                "mark": {"type": "rect"},
                "encoding": {
                    "color": {
                        "field": "value",
                        "type": "quantitative",
                        "scale": {"scheme": "viridis", "zero": False},
                        "legend": {"title": None, "orient": "bottom", "gradientLength": 200},
                    }
                },
            },
            {
                "mark": {"type": "text", "fontSize": 11},
                "encoding": {
                    "text": {"field": "value", "type": "quantitative", "format": ".2f"},
                    "color": {"condition": {"test": "datum.value > middle", "value": "#111"}, "value": "#fff"},
                    "opacity": {
                        "condition": {"test": "width / bandspace(domain('x').length) < 30", "value": 0},
                        "value": 1,
                    },
                },
            },
        ],
    )
