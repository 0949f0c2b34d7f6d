"""Amounts as text: what is read, what is refused, and that writing and reading agree."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lacos_st.errors import UserError
from lacos_st.recipe.units import PREFIXES, SECONDS, parse_count, parse_flops, parse_seconds, show_flops, show_seconds

DAY = 24 * 3600


@pytest.mark.parametrize(
    ("text", "flops"),
    [
        ("1e17", 1e17),
        ("1E+17", 1e17),
        (1e17, 1e17),
        (10**17, 1e17),
        ("1e17 flops", 1e17),
        ("1e17flop", 1e17),
        ("  250 ", 250),
        ("2.5 EFLOP", 2.5e18),
        ("2.5eflops", 2.5e18),
        (".5 PFLOP", 5e14),
        ("3 PFLOP-days", 3e15 * DAY),
        ("3 pflop days", 3e15 * DAY),
        ("3 PFLOP/s-days", 3e15 * DAY),
        ("1 TFLOPS-h", 1e12 * 3600),
        ("2 TFLOP/s · min", 2e12 * 60),
        ("9.06e16", 9.06e16),
    ],
)
def test_budgets_are_read(text: str | float, flops: float) -> None:
    assert parse_flops(text) == pytest.approx(flops, rel=1e-12)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a lot",
        "nan",
        "inf",
        "-1e17",
        "1e17 bytes",
        "1,5e17",
        "1e",
        "PFLOP",
        "3 XFLOP",
        "0",
        "0.5",
        "1e400",
        "1e17 x",
        "1e17 flopdays",
    ],
)
def test_budgets_that_cannot_be_read(text: str) -> None:
    with pytest.raises(UserError, match=re.escape('"3 PFLOP-days"')) as error:
        parse_flops(text)
    assert repr(text) in str(error.value)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("200000", 2e5),
        ("2e5", 2e5),
        ("200k", 2e5),
        ("200 K", 2e5),
        ("1.2B", 1.2e9),
        ("1.2g", 1.2e9),
        ("3T", 3e12),
        (7, 7),
    ],
)
def test_counts_are_read(text: str | float, count: float) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["", "many", "-3", "0", "nan", "inf", "1e999", "3 X", "1,000"])
def test_counts_that_cannot_be_read(text: str) -> None:
    with pytest.raises(UserError, match=rf"--pairs is '{text}': expected a number of 1 or more"):
        parse_count(text, name="--pairs")


@pytest.mark.parametrize("number", [math.nan, math.inf, -1e17, 0.0])
def test_numbers_that_are_no_budget(number: float) -> None:
    with pytest.raises(UserError, match="1e17"):
        parse_flops(number)


def test_a_rate_is_no_budget() -> None:
    with pytest.raises(UserError, match=r"is a rate.*\"312 TFLOP/s-days\""):
        parse_flops("312 TFLOP/s")
    with pytest.raises(UserError, match=r"no time that is known \('fortnights'\)"):
        parse_flops("3 PFLOP-fortnights")


@given(st.floats(1, 1e29), st.sampled_from(sorted(PREFIXES)), st.sampled_from(["", "s"]), st.sampled_from(["", " "]))
def test_a_prefix_is_a_factor(number: float, prefix: str, plural: str, space: str) -> None:
    assert parse_flops(f"{number!r}{space}{prefix}FLOP{plural}") == pytest.approx(number * PREFIXES[prefix])


@given(st.floats(1, 9.99e26))
def test_budgets_are_written_as_they_are_read(flops: float) -> None:
    shown = show_flops(flops)
    plain, _, prefixed = shown.partition(" (")
    assert parse_flops(plain) == pytest.approx(flops, rel=5.1e-3)
    if flops >= 1000:
        assert parse_flops(prefixed.removesuffix(")")) == pytest.approx(flops, rel=5.1e-3)
        assert 1 <= float(prefixed.partition(" ")[0]) < 1000


@pytest.mark.parametrize(
    ("flops", "text"),
    [
        (1.2e15, "1.2e15 FLOP (1.2 PFLOP)"),
        (9.06e16, "9.06e16 FLOP (90.6 PFLOP)"),
        (999.9e12, "1e15 FLOP (1 PFLOP)"),
        (0, "0 FLOP"),
        (512, "512 FLOP"),
        (1e30, "1e30 FLOP"),
    ],
)
def test_budgets_are_written(flops: float, text: str) -> None:
    assert show_flops(flops) == text


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in (parse_flops, parse_seconds, parse_count):
        try:
            amount = parse(text)
        except UserError:
            continue
        assert 0 < amount < math.inf


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("6h", 6 * 3600),
        ("6 hours", 6 * 3600),
        ("90 min", 5400),
        ("90m", 5400),
        ("1h30m", 5400),
        ("1 h, 30 minutes", 5400),
        ("2 days", 2 * DAY),
        ("1.5d", 1.5 * DAY),
        ("1 week", 7 * DAY),
        ("45s", 45),
        ("1e3 s", 1000),
    ],
)
def test_times_are_read(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


def test_a_number_alone_counts_the_unit_that_is_named() -> None:
    assert parse_seconds(6, unit="h") == parse_seconds("6", unit="h") == 6 * 3600
    assert parse_seconds("90 min", unit="h") == 5400
    with pytest.raises(UserError, match="numbers with units"):
        parse_seconds("6")


@pytest.mark.parametrize("text", ["", "soon", "-6h", "nan h", "6 parsecs", "6h later", "h", "0 min", "1e400 h", "6h 5"])
def test_times_that_cannot_be_read(text: str) -> None:
    with pytest.raises(UserError, match="90 min"):
        parse_seconds(text)


@given(st.floats(0.001, 1e9))
def test_times_are_written_as_they_are_read(seconds: float) -> None:
    shown = show_seconds(seconds)
    assert parse_seconds(shown) == pytest.approx(seconds, rel=0.03)
    values = re.findall(r"([\d.e-]+) (\w+)", shown)
    assert 1 <= len(values) <= 2
    assert [name for _, name in values] == sorted((name for _, name in values), key=lambda name: -SECONDS[name])
