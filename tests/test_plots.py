"""The bar chart: what is drawn is what was scored."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lacos_st.errors import UserError
from lacos_st.plots import COLOURS, _bars, plot_scores
from lacos_st.report import SIMILARITIES, ModelScores, Results, TaskScores


def _results(models: int = 2) -> Results:
    def scores(task: str, group: str, languages: str, value: float) -> TaskScores:
        values = {name: value - index for index, name in enumerate(SIMILARITIES)}
        return TaskScores(task, group, languages, 10, values, values)  # type: ignore[arg-type]

    return Results(
        tuple(
            ModelScores(
                f"model {i}",
                {},
                (
                    scores("STS12", "sts", "en-en", 40.0 + i),
                    scores("STS13", "sts", "en-en", 60.0 + i),
                    scores("STS17.es-en", "xsts", "es-en", -5.0 + i),
                ),
            )
            for i in range(models)
        ),
        "model 0",
        "2026-11-21T00:00:00+00:00",
        {},
    )


def test_bars_are_the_scores_with_the_averages_set_apart() -> None:
    labels, positions, heights = _bars(_results(), "cosine")
    assert labels == ["STS12", "STS13", "STS17.es-en", "STS-Avg", "xSTS-Avg"]
    assert heights == [[40, 60, -5, 50, -5], [41, 61, -4, 51, -4]]
    steps = [after - before for before, after in zip(positions, positions[1:], strict=False)]
    assert steps == pytest.approx([1, 1, 1.6, 1])


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml")])
def test_writes_the_picture_and_nothing_else(tmp_path: Path, suffix: str, start: bytes) -> None:
    pytest.importorskip("matplotlib", reason="the extra lacos_st[plot] is not installed")
    plot_scores(_results(3), tmp_path / f"scores{suffix}")
    assert [path.name for path in tmp_path.iterdir()] == [f"scores{suffix}"]
    assert (tmp_path / f"scores{suffix}").read_bytes().startswith(start)


def test_bad_requests_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"suffix is '.jpg', expected one of .png, .svg"):
        plot_scores(_results(), tmp_path / "scores.jpg")
    with pytest.raises(UserError, match="expected at most 7"):
        plot_scores(_results(len(COLOURS) + 1), tmp_path / "scores.png")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r"pip install 'lacos_st\[plot\]'"):
        plot_scores(_results(), tmp_path / "scores.png")
    assert list(tmp_path.iterdir()) == []
