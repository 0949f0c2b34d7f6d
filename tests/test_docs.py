"""README says what is true of the package: its files, its commands, its figures."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
sys.path.insert(0, str(ROOT))  # for benchmarks, which are not installed

from benchmarks import readme, worked  # noqa: E402


def test_every_file_of_the_package_stands_in_the_tree() -> None:
    tree = README.partition("lacos_st/\n")[2].partition("examples/")[0]
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


def test_a_readme_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks the marker lines"):
        readme.rewrite("no markers")


@pytest.mark.parametrize("name", ["encode.md", "formats.md", "design.md", "versions.md"])
def test_documents_name_files_that_exist(name: str) -> None:
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    named = set(re.findall(r"`(?:\w+/)*(\w+\.py)`", text))
    assert named
    assert named <= {p.name for p in ROOT.rglob("*.py") if ".venv" not in p.parts}


def test_worked_examples_are_what_the_command_prints() -> None:
    text = worked.FILE.read_text(encoding="utf-8")
    assert worked.rewrite(text) == text, "run `python -m benchmarks.worked`"
