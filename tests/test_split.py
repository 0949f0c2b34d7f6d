"""Validation rows: no sentence on both sides, and the split by first sentences where rows share no other."""

from __future__ import annotations

from collections import Counter

from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from lacos_st.split import connected, split_rows

SENTENCES = st.sampled_from("abcdefghij")


def connected_by_hand(rows: list[tuple[str, str]]) -> list[int]:
    """The first row of each one's group: groups that share a sentence are joined until none do."""
    groups = [({place}, set(row)) for place, row in enumerate(rows)]
    while pair := next(((a, b) for a in groups for b in groups if a is not b and a[1] & b[1]), None):
        groups = [group for group in groups if group not in pair] + [(pair[0][0] | pair[1][0], pair[0][1] | pair[1][1])]
    return [next(min(places) for places, _ in groups if place in places) for place in range(len(rows))]


@given(st.lists(st.tuples(SENTENCES, SENTENCES), min_size=1, max_size=12))
def test_connected_rows_are_those_that_join_up_by_hand(rows: list[tuple[str, str]]) -> None:
    groups = connected([list(column) for column in zip(*rows, strict=True)])
    assert [groups.index(group) for group in groups] == connected_by_hand(rows)


@given(st.lists(st.tuples(SENTENCES, SENTENCES), min_size=1, max_size=12), st.integers(1, 6))
def test_no_sentence_stands_on_both_sides(rows: list[tuple[str, str]], wanted: int) -> None:
    table = {"anchor": [a for a, _ in rows], "positive": [b for _, b in rows]}
    kept, aside = split_rows(Dataset.from_dict(table), wanted, columns=["anchor", "positive"])
    if aside is None:
        assert min(Counter(connected_by_hand(rows)).values()) > wanted
        return
    assert 0 < len(aside) <= wanted
    assert sorted([*map(tuple, map(dict.values, kept)), *map(tuple, map(dict.values, aside))]) == sorted(rows)
    assert not {*kept["anchor"], *kept["positive"]} & {*aside["anchor"], *aside["positive"]}


@given(st.lists(SENTENCES, min_size=1, max_size=30), st.integers(1, 10))
def test_columns_that_share_nothing_change_no_split(anchors: list[str], wanted: int) -> None:
    rows = Dataset.from_dict({"anchor": anchors, "positive": [f"positive {i}" for i in range(len(anchors))]})
    _, one = split_rows(rows, wanted, columns=["anchor"])
    _, both = split_rows(rows, wanted, columns=["anchor", "positive"])
    assert (one and one[:]) == (both and both[:])
    taken = 0  # the first sentences' groups in their order, each that still fits
    for anchor, count in Counter(anchors).items():
        fits = taken + count <= wanted
        taken += count * fits
        assert (anchor in (one["anchor"] if one else ())) == fits
