"""The notebooks of examples/ are stripped of outputs, and run on the embedded base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from docs_code import Block, check, run

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
NAMES = [path.name for path in NOTEBOOKS]


def cells(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def block(cell: dict[str, Any], *, name: str) -> Block:
    """A cell as a block of a page: all of it Python, or all of it commands after an exclamation mark."""
    lines = "".join(cell["source"]).replace("\\\n", " ").splitlines()
    commands = [line.startswith("!") for line in lines]
    assert all(commands) or not any(commands), f"{name}: commands and Python in one cell"
    if all(commands):
        return Block(name, "sh", "".join(line[1:] + "\n" for line in lines), None)
    return Block(name, "python", "\n".join(lines), None)


def is_install(cell: dict[str, Any]) -> bool:
    """The cell that installs the package, which a test has."""
    return "install" in cell["metadata"].get("tags", ())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_a_notebook_is_small_and_has_no_outputs(path: Path) -> None:
    whole = json.loads(path.read_text(encoding="utf-8"))
    assert (whole["nbformat"], whole["nbformat_minor"]) == (4, 5)
    found = whole["cells"]
    assert len({cell["id"] for cell in found}) == len(found)
    assert [cell["cell_type"] for cell in found[:2]] == ["markdown", "code"]
    assert [is_install(cell) for cell in found].index(True) == 1
    assert sum(is_install(cell) for cell in found) == 1
    assert "%pip install" in "".join(found[1]["source"])
    for cell in found:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
            if not is_install(cell):
                check(block(cell, name=path.name))
    assert path.stat().st_size < 10_000
    assert f"examples/{path.name}" in (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")


def test_there_are_notebooks() -> None:
    assert len(NOTEBOOKS) == 3


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason='matplotlib is not installed: pip install "lacos_st[plot]"')
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__notebook__"}
    for cell in cells(path):
        if cell["cell_type"] == "code" and not is_install(cell):
            run(block(cell, name=path.name), names)
    if "plt" in names:
        assert names["figure"].axes[0].has_data()
        names["plt"].close("all")
