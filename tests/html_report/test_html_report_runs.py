"""The page's runs and bases: curves, memory, and the errors of layers."""

from __future__ import annotations

import json
from typing import Any

import pytest
import tiny

from html_report.report_parts import LAST, log, run, values
from lacos_st.errors import UserError
from lacos_st.html_report.charts import MOST_POINTS, series, thinned
from lacos_st.html_report.curves import curves_section
from lacos_st.html_report.memory import memory_section
from lacos_st.html_report.quantization import parse_errors, quantization_section
from lacos_st.layer_errors import as_json, layer_errors


def test_curves_are_those_of_the_logs() -> None:
    section = curves_section([run(), run("b", rows=log(steps=3, factor=2.0))])
    assert section is not None
    points = values(section.charts["curve-loss"])
    assert [(p["name"], p["step"], p["value"]) for p in points] == [
        ("a", 1, 3.0), ("a", 2, 1.5), ("a", 3, 1.0), ("a", 4, 0.75), ("b", 1, 6.0), ("b", 2, 3.0), ("b", 3, 2.0),
    ]  # fmt: skip
    assert len(values(section.charts["curve-eval_loss"])) == 5 + 4
    assert "curve-sts" not in section.charts
    assert "compare scores instead" not in section.body
    assert curves_section([run(rows=[])]) is None


def test_curves_that_do_not_compare_are_said_to() -> None:
    rows = [*log(last=None), {"step": 5, "loss": float("nan")}]
    section = curves_section([run(), run("b", rows=rows, batch_size=4), run("c", seed=1)])
    assert section is not None
    assert "differ in batch_size: compare" in section.body
    assert "differ in batch_size, seed: compare" in section.body
    assert "stopped: b." in section.body
    assert "not finite are left out of the curves of b." in section.body
    assert len(values(section.charts["curve-loss"])) == 12
    json.dumps(section.charts, allow_nan=False)


def test_long_lines_are_thinned_and_many_are_dashed() -> None:
    kept = thinned(range(100_000))
    assert (len(kept), kept[0], kept[-1]) == (MOST_POINTS, 0, 99_999)
    assert thinned([1, 2]) == [1, 2]
    many = series([str(place) for place in range(8)], dashes=True)
    dashes = [tuple(dash) for dash in many["strokeDash"]["scale"]["range"]]
    assert len(set(dashes[:7])) == 1
    assert dashes[7] != dashes[0]


def test_memory_adds_up() -> None:
    section = memory_section([run(), run("b", rows=log(last={"train_runtime": 1.0})), run("c", rows=[])])
    assert section is not None
    bars = values(section.charts["memory"])
    assert sum(bar["mib"] for bar in bars if bar["kind"] == "predicted") == 200
    assert [bar["mib"] for bar in bars if bar["kind"] == "measured"] == [250]
    assert "No figures of memory in the log of b, c" in section.body
    assert "0.80" in section.body  # 200 / 250
    only = {name: value for name, value in LAST.items() if name not in ("peak_bytes", "before_bytes")}
    unmeasured = memory_section([run(rows=log(last=only))])
    assert unmeasured is not None
    assert "No measured peak of a" in unmeasured.body
    assert memory_section([run(rows=log(last=None))]) is None


def test_errors_are_those_of_the_layers() -> None:
    found = layer_errors(tiny.model(), block_sizes=[16, 64])
    section = quantization_section([parse_errors({"base": "b", "layers": as_json(found)}, source="x")])
    assert section is not None
    dots = values(section.charts["quantization-0"])
    assert len(dots) == len(found) * 4
    wanted = [100 * e.relative_rms for layer in found for of_block in layer.errors.values() for e in of_block.values()]
    assert [dot["error"] for dot in dots] == wanted
    assert quantization_section([]) is None


@pytest.mark.parametrize("layers", [[], [{}], 3, [{"name": "a", "shape": [1], "blocks": []}]])
def test_errors_that_are_none_are_refused(layers: Any) -> None:
    with pytest.raises(UserError, match="x is no file of lacos-st quantization"):
        parse_errors({"base": "b", "layers": layers}, source="x")
