"""The cost curves: slopes by hand, the verdict on them, and a quick run with its picture."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # for benchmarks, which are not installed

from benchmarks import curves, rows  # noqa: E402
from benchmarks.curves import Point  # noqa: E402


def test_slope_is_that_of_the_upper_half() -> None:
    xs = [1.0, 2.0, 4.0, 8.0, 16.0]
    assert curves.slope(xs, [100.0, 50.0, 4.0**2, 8.0**2, 16.0**2]) == pytest.approx(2.0)
    assert curves.slope(xs[:2], [3.0, 6.0]) == pytest.approx(1.0)


def test_the_formula_grows_as_it_should() -> None:
    one, two = (curves.formula(Point(length=length), "train") for length in (1024, 2048))
    assert 2.0 < two["flops"] / one["flops"] < 2.5  # attention's products are the part that grows with the square
    assert 1.9 < two["bytes"] / one["bytes"] <= 2.1  # linear, as nothing of size length x length is kept
    few, many = (curves.formula(Point(batch=batch), "encode") for batch in (8, 16))
    assert many["flops"] == pytest.approx(2 * few["flops"])


def test_the_verdict_follows_the_slopes() -> None:
    curve = {"axis": "length", "kind": "train", "quantity": "bytes", "x": [32.0, 2048.0], "formula_slope": 1.0}
    assert "as it should" in curves.sentence({**curve, "slope": 1.1})
    assert "FASTER" in curves.sentence({**curve, "slope": 1.9})
    assert "slower" in curves.sentence({**curve, "slope": 0.4})


@pytest.mark.thorough
@pytest.mark.slow
def test_a_quick_run_measures_draws_and_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    row = curves.main(["--quick", "--output", str(tmp_path / "curves.png")])
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert [written["curves"] for written in rows.read("curves")] == [row["curves"]]
    found = {(c["axis"], c["kind"], c["quantity"]): c for c in row["curves"]}
    assert len(found) == 4 * 2 * 2
    assert all(min(c["measured"]) > 0 for c in found.values())
    longer = found["length", "train", "bytes"]
    assert longer["measured"][-1] > 2 * longer["measured"][0]  # eight times the tokens
    assert capsys.readouterr().out.count(" grows with ") == len(found)
