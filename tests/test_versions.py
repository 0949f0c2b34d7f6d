"""The versions installed are those that pyproject.toml allows, and its lower bounds are those that CI installs."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
LOWEST = dict(
    line.split("==") for line in (ROOT / "tests/lowest.txt").read_text().splitlines() if line and line[0] != "#"
)
UNTRIED = {"torch": "2.11"}
"""Bounds below what CI installs: torch 2.11 and 2.12 come as CUDA builds only; what is used of torch, they document."""
RANGES = [Requirement(text) for text in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]]


def test_the_lowest_versions_are_the_lower_bounds() -> None:
    bounds = {
        one.name: next(bound.version for bound in one.specifier if bound.operator == ">=").split(".") for one in RANGES
    }
    assert set(bounds) == set(LOWEST)
    for name, bound in bounds.items():
        lowest = UNTRIED.get(name, LOWEST[name]).split(".")
        assert [*bound, *["0"] * (len(lowest) - len(bound))] == lowest, name


def test_every_range_ends() -> None:
    assert [one.name for one in RANGES if not any(bound.operator == "<" for bound in one.specifier)] == []


def test_what_is_installed_is_allowed() -> None:
    versions = {one.name: metadata.version(one.name).partition("+")[0] for one in RANGES}
    assert {name: version for name, version in versions.items() if version not in RANGE[name]} == {}


RANGE = {one.name: one.specifier for one in RANGES}


def test_the_docs_name_the_ranges() -> None:
    text = (ROOT / "docs/versions.md").read_text(encoding="utf-8")
    named = dict(re.findall(r"^\| ([\w-]+) \| ([\d.]+) \|", text, re.M))
    assert named == LOWEST
