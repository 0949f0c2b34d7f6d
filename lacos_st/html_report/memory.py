"""Memory of training runs: what was predicted before they began, and what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lacos_st.html_report.charts import axis, chart, tooltip
from lacos_st.html_report.inputs import TrainedRun
from lacos_st.html_report.markup import bullets, join, tag
from lacos_st.html_report.section import Cell, Row, Section, figure, table
from lacos_st.recipe.units import show_bytes

MIB = 2**20
BAR = 15  # pixels
PARTS = (("weights", "weights"), ("adapters", "adapters"), ("optimizer", "optimiser"))
REST, MEASURED = "gradients, activations, temporaries", "measured: above what stood before the run"
NOTE = (
    "Predicted is memory in use: the base's weights, adapters, optimiser, and what comes on top at the worst moment. "
    "Measured is counted otherwise. Of a process (resident), it is the peak above what stood as the run began, with "
    "libraries that the run loads, which are most of it for a small model, and freed memory that the heap holds for "
    "reuse, on a CPU 9 to 71 % on top of what is in use. On a GPU it is what torch allocated, above what it had "
    "before. Of several processes it is the first."
)


def memory_section(runs: Sequence[TrainedRun]) -> Section | None:
    """The section; None where no log holds a figure of memory."""
    found = [(run, run.rows[-1] if run.rows else {}) for run in runs]
    rows = [(run, last) for run, last in found if _bytes(last, "predicted_peak_bytes") or _bytes(last, "peak_bytes")]
    if not rows:
        return None
    without = [run.name for run, last in found if (run, last) not in rows]
    notes = [
        f"No figures of memory in the log of {', '.join(without)}: not finished, or trained before they were kept."
    ]
    unmeasured = [run.name for run, last in rows if _above(last) is None]
    said = [
        f"No measured peak of {', '.join(unmeasured)}: the system does not say, or something before the run, in the "
        "same process, took more."
    ]
    body = join(
        [
            figure("memory", "Peak of each run, MiB"),
            _table(rows),
            bullets((notes if without else []) + (said if unmeasured else [])),
            tag("p", NOTE, class_="note"),
        ]
    )
    return Section(
        "memory", "Memory", f"memory of {len(rows)} run{'s' * (len(rows) != 1)}", body, {"memory": _bars(rows)}
    )


def _bytes(row: dict[str, Any], name: str) -> int | None:
    value = row.get(name)
    return value if isinstance(value, int) and value >= 0 else None


def _above(row: dict[str, Any]) -> int | None:
    """The measured peak above what stood before."""
    peak, before = _bytes(row, "peak_bytes"), _bytes(row, "before_bytes")
    return None if peak is None or before is None else max(0, peak - before)


def _predicted(row: dict[str, Any]) -> list[tuple[str, int]]:
    """Parts that add up to the predicted peak."""
    peak = _bytes(row, "predicted_peak_bytes")
    if peak is None:
        return []
    parts = [(label, _bytes(row, f"predicted_{name}_bytes") or 0) for name, label in PARTS]
    return [*parts, (REST, max(0, peak - sum(size for _, size in parts)))]


def _bars(rows: Sequence[tuple[TrainedRun, dict[str, Any]]]) -> dict[str, Any]:
    values: list[dict[str, Any]] = []
    labels = [*(label for _, label in PARTS), REST, MEASURED]
    for run, last in rows:
        parts = [(part, "predicted", size) for part, size in _predicted(last)]
        above = _above(last)
        parts += [] if above is None else [(MEASURED, "measured", above)]
        values += [
            {"name": run.name, "part": part, "kind": kind, "mib": size / MIB, "order": labels.index(part)}
            for part, kind, size in parts
        ]
    legend = {"title": None, "orient": "top", "direction": "vertical", "labelLimit": 320}
    return chart(
        values,
        height=len(rows) * 3 * BAR,
        mark={"type": "bar"},
        encoding={
            "y": {"field": "name", "type": "nominal", "sort": [run.name for run, _ in rows], "title": None},
            "yOffset": {"field": "kind", "type": "nominal", "sort": ["predicted", "measured"]},
            "x": axis("mib", "MiB", zero=True, stack="zero"),
            "color": {"field": "part", "type": "nominal", "scale": {"domain": labels}, "legend": legend},
            "order": {"field": "order", "type": "quantitative"},
            "tooltip": tooltip(("name", "run"), ("kind", "what"), ("part", "part"), ("mib", "MiB", ",.1f")),
        },
    )


def _table(rows: Sequence[tuple[TrainedRun, dict[str, Any]]]) -> Any:
    head = ["run", "predicted peak", "reached at", "measured above", "measured peak, all of it", "counted", "ratio"]
    shown: list[Row] = []
    for run, last in rows:
        predicted, above, peak = _bytes(last, "predicted_peak_bytes"), _above(last), _bytes(last, "peak_bytes")
        ratio = predicted / above if predicted is not None and above else None
        shown.append(
            [
                run.name,
                *(_size(predicted), Cell(str(last.get("predicted_at", "-"))), _size(above), _size(peak)),
                Cell(str(last.get("measured", "-"))),
                Cell("-") if ratio is None else Cell(f"{ratio:.2f}", ratio),
            ]
        )
    return table(head, shown, id="memory-table", caption="Peak memory; the ratio is predicted over measured above")


def _size(size: int | None) -> Cell:
    return Cell("-") if size is None else Cell(show_bytes(size), size)
