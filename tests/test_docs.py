"""README and docs/ say what is true of the package: its files, its commands, its figures."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
sys.path.insert(0, str(ROOT))  # for benchmarks, which are not installed

from benchmarks import promises, readme, rows, worked  # noqa: E402


def test_every_file_of_the_package_stands_in_the_tree() -> None:
    text = (ROOT / "docs" / "files.md").read_text(encoding="utf-8")
    tree = text.partition("lacos_st/\n")[2].partition("examples/")[0]
    folder, listed = "", []
    for indent, name in re.findall(r"^(  |    )(\w+(?:\.py|/)) ", tree, re.M):
        if name.endswith("/"):
            folder = name
        else:
            listed.append(f"{folder if indent == '    ' else ''}{name}")
    package = ROOT / "lacos_st"
    assert sorted(listed) == sorted(path.relative_to(package).as_posix() for path in package.rglob("*.py"))


def test_every_command_is_documented() -> None:
    from lacos_st.cli import build_parser

    subparsers = [action for action in build_parser()._actions if isinstance(action.choices, dict)]
    assert subparsers
    for command in subparsers[0].choices or ():
        assert f"`lacos-st {command}`" in README, command


def test_results_are_those_of_the_newest_rows() -> None:
    assert readme.rewrite(README) == README, "run `python -m benchmarks.readme`"


PROMISES = promises.FILE.read_text(encoding="utf-8")
SECURITY = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
CRASHES: dict[str, object] = {
    "commit": "abc", "uncommitted": False, "date": "2026-01-02T03", "seed": 5, "kills": {"training": 7, "saving": 2},
    "kills_while_writing": 4, "resumes": 8, "named_errors": 3, "whole_files_checked": 9, "corrupted_files": 0,
    "rows_lost": 1, "compared_runs": 6, "not_shown": ["a full disk"], "problems": ["x"],
}  # fmt: skip


def test_figures_of_the_drills_are_those_of_the_newest_rows() -> None:
    assert promises.rewrite(PROMISES) == PROMISES, "run `python -m benchmarks.promises`"
    with pytest.raises(ValueError, match="lacks the marker lines"):
        promises.rewrite("no markers")


def test_figures_of_the_newest_full_drill_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    for name in promises.LINES:
        assert f"**Missing**: `benchmarks/results/{name}.jsonl` has no row; run" in promises.figures()
    told = [json.dumps(CRASHES), json.dumps({**CRASHES, "rows_lost": 2}), json.dumps({**CRASHES, "quick": True})]
    (tmp_path / "crash_drill.jsonl").write_text("\n".join(told))
    fuzz = {"cases": 2001, "defects": 3, "peak_resident_bytes": 2**30, "outcomes": {"data": {"a": 1, "read": 9}}}
    (tmp_path / "fuzz.jsonl").write_text(json.dumps({**CRASHES, **fuzz}))
    text = promises.figures()
    for line in (
        "2026-01-02, abc, seed 5): 2,001 cases, **3 defects**, peak memory 1024 MiB.",
        "| data files | 10 | 9 read, 1 a |",
        "| kills (7 while training, 2 while saving) | 9 |", "| rows lost | 2 |",
        "Not shown on that machine: a full disk.", "| problems | 1 |", "| runs resumed | 8 |",
    ):  # fmt: skip
        assert line in text, line


def test_promises_name_tests_that_exist() -> None:
    folder = ROOT / "tests"
    tests = {str(path.relative_to(folder)): path.read_text(encoding="utf-8") for path in folder.rglob("test_*.py")}
    files, functions = (
        set(re.findall(form, PROMISES + SECURITY)) for form in (r"`tests/([\w/]*test_\w+\.py)`", r"`(test_\w+)`")
    )
    assert len(files) > 8
    assert len(functions) > 4
    assert files <= tests.keys()
    assert {name for name in functions if not any(f"def {name}(" in text for text in tests.values())} == set()


def test_what_is_not_there_is_said_to_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "ROOT", tmp_path)
    assert (
        "| **missing**: tests/corpus/test_corpus_resume.py, **missing**: benchmarks/corpus.py |" in promises.crashes()
    )
    file = tmp_path / "tests" / "corpus" / "test_corpus_resume.py"
    file.parent.mkdir(parents=True)
    file.touch()
    assert "| `tests/corpus/test_corpus_resume.py`, **missing**: benchmarks/corpus.py |" in promises.crashes()


def test_a_readme_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks the marker lines"):
        readme.rewrite("no markers")


@pytest.mark.parametrize(
    "name", ["bases.md", "encode.md", "export.md", "formats.md", "design.md", "index.md", "promises.md", "versions.md"]
)
def test_documents_name_files_that_exist(name: str) -> None:
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    named = set(re.findall(r"`(?:\w+/)*(\w+\.py)`", text))
    assert named
    assert named <= {p.name for p in ROOT.rglob("*.py") if ".venv" not in p.parts}


@pytest.mark.parametrize(
    ("page", "figure"), [("bloom-7b1.md", "7.4 GiB"), ("bloom-7b1.md", "8.7 GiB"), ("concepts.md", "1.0156")]
)
def test_measured_figures_on_pages_stand_in_the_results(page: str, figure: str) -> None:
    assert figure in (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert figure in README, f"the newest row says otherwise: change {page}"


def test_worked_examples_are_what_the_command_prints() -> None:
    text = worked.FILE.read_text(encoding="utf-8")
    assert worked.rewrite(text) == text, "run `python -m benchmarks.worked`"
