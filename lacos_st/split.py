"""Validation rows split off the training rows, so that no sentence stands on both sides.

>>> one, two, three, four = connected([["a", "b", "c", "d"], ["x", "a", "y", "c"]])
>>> one == two, three == four, one == three
(True, True, False)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset


def split_rows(rows: Dataset, wanted: int, *, columns: Sequence[str]) -> tuple[Dataset, Dataset | None]:
    """Set aside at most `wanted` rows, whole groups of connected ones; the rows come shuffled.

    Args:
        rows: to be split; the first groups that still fit are set aside.
        wanted: rows set aside at most.
        columns: whose sentences connect rows, see `connected`.

    Returns:
        The rows that are left, and those set aside; None where no group has so few rows.
    """
    groups = connected([list(rows[name]) for name in columns])
    chosen: set[str] = set()
    taken = 0
    for group, count in Counter(groups).items():
        if taken + count <= wanted:
            chosen.add(group)
            taken += count
    if not chosen:
        return rows, None
    kept = [place for place, group in enumerate(groups) if group not in chosen]
    aside = [place for place, group in enumerate(groups) if group in chosen]
    return rows.select(kept), rows.select(aside)


def connected(columns: Sequence[Sequence[str]]) -> list[str]:
    """For each of N rows a sentence of its group: the same for rows that share a sentence, directly or through others.

    Args:
        columns: of N sentences each; a sentence connects its rows whichever column it stands in.
    """
    from scipy.cluster.hierarchy import DisjointSet

    groups = DisjointSet(sentence for column in columns for sentence in column)
    for first, *others in zip(*columns, strict=True):
        for other in others:
            groups.merge(first, other)
    return [groups[first] for first in columns[0]]
