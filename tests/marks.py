"""Marks for parts of a parametrised test."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def thorough(values: Iterable[Any], *, but: Collection[Any] = ()) -> list[Any]:
    """The values, all `but` some marked as left to `make thorough`."""
    return [value if value in but else pytest.param(value, marks=pytest.mark.thorough) for value in values]
