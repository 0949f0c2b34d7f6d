"""Amounts as text: bytes ("16GiB"), floating-point operations ("1e17", "3 PFLOP-days"), times ("6h", "90 min").

>>> parse_bytes("1.5 GiB")
1610612736
>>> show_bytes(1610612736)
'1.50 GiB'
>>> parse_flops("3 PFLOP-days") == 3e15 * 24 * 3600
True
>>> show_flops(1.2e15)
'1.2e15 FLOP (1.2 PFLOP)'
>>> parse_count("200k")
200000.0
>>> parse_seconds("1h 30min")
5400.0
>>> show_seconds(5400)
'1 h 30 min'
"""

from __future__ import annotations

import math
import re

from lacos_st.errors import UserError

UNITS = {
    "B": 1,
    **{f"{letter}B": 1000**power for power, letter in enumerate("KMGT", 1)},
    **{f"{letter}iB": 1024**power for power, letter in enumerate("KMGT", 1)},
}
_BY_NAME = {name.lower(): size for name, size in UNITS.items()}

PREFIXES = {letter: 10.0 ** (3 * power) for power, letter in enumerate(("", *"KMGTPEZY"))}
"""Of the SI, as factors."""
COUNTS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}
"""Of things, by their letter."""
SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 24 * 3600.0, "w": 7 * 24 * 3600.0}
"""Units of time, by the name that `show_seconds` writes."""
_TIMES = {
    **{name: SECONDS["s"] for name in ("s", "sec", "secs", "second", "seconds")},
    **{name: SECONDS["min"] for name in ("m", "min", "mins", "minute", "minutes")},
    **{name: SECONDS["h"] for name in ("h", "hr", "hrs", "hour", "hours")},
    **{name: SECONDS["d"] for name in ("d", "day", "days")},
    **{name: SECONDS["w"] for name in ("w", "week", "weeks")},
}
_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?"
_FLOPS = re.compile(rf"({_NUMBER})\s*(?:([kmgtpezy]?)flop(s?)(/s)?(?:[\s·*-]+([a-z]+))?)?", re.IGNORECASE)
_PART = re.compile(rf"({_NUMBER})\s*([a-z]+)[\s,]*", re.IGNORECASE)
_COUNT = re.compile(rf"({_NUMBER})\s*([kmbgt]?)", re.IGNORECASE)
FLOPS_EXAMPLES = '"1e17", "2.5 EFLOP" or "3 PFLOP-days"'
TIME_EXAMPLES = '"6h", "90 min" or "1h 30min"'


def parse_bytes(text: str) -> int:
    """The bytes that a size such as "16GiB" (1024³) or "16GB" (1000³) says.

    Raises:
        UserError: it is no number above 0 with a unit.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]+)\s*", text)
    size = float(match[1]) * _BY_NAME.get(match[2].lower(), 0) if match else 0.0
    if size < 1:
        raise UserError(
            f"the size {text!r} cannot be read: expected a number and a unit, such as 16GiB, 16GB or 800MiB"
        )
    return int(size)


def show_bytes(size: float) -> str:
    """In GiB, MiB or KiB, three digits or so."""
    if size >= 2**30:
        return f"{size / 2**30:.2f} GiB"
    return f"{size / 2**20:.0f} MiB" if size >= 2**20 else f"{size / 2**10:.0f} KiB"


def parse_count(count: str | float, *, name: str = "count") -> float:
    """How many of something: a number, perhaps in thousands (k), millions (M), billions (B, G) or trillions (T).

    Args:
        count: such as 200000, "2e5", "200k" or "1.2B". Capitals do not matter.
        name: of what is counted, for the error.

    Raises:
        UserError: it cannot be read, is not finite, or is below 1.
    """
    match = _COUNT.fullmatch(str(count).strip())
    amount = float(match[1]) * COUNTS[match[2].lower()] if match else 0.0
    if not 1 <= amount < math.inf:
        raise UserError(f"{name} is {count!r}: expected a number of 1 or more, such as 200000, 2e5, 200k or 1.2B")
    return amount


def parse_flops(budget: str | float) -> float:
    """The floating-point operations of a budget: a number, perhaps with a prefix, perhaps a rate times a time.

    Args:
        budget: a number; or text such as "1e17", "1e17 flops", "2.5 EFLOP", "3 PFLOP-days" and "3 PFLOP/s-days" (both
            3e15 a second for three days' seconds, as the field writes it). Capitals do not matter.

    Raises:
        UserError: it cannot be read, is a rate without a time, is not finite, or is below one operation.
    """
    match = _FLOPS.fullmatch(str(budget).strip())
    if match is None:
        raise UserError(f"the budget {budget!r} cannot be read: expected FLOP, such as {FLOPS_EXAMPLES}")
    number, prefix, _, rate, time = match.groups()
    if rate and not time:
        raise UserError(
            f"the budget {budget!r} is a rate, not an amount: say for how long, such as "
            f'"{number} {prefix}FLOP/s-days", or give an amount, such as {FLOPS_EXAMPLES}'
        )
    if time and time.lower() not in _TIMES:
        raise UserError(f"the budget {budget!r} names no time that is known ({time!r}): write {FLOPS_EXAMPLES}")
    amount = float(number) * PREFIXES[(prefix or "").upper()] * (_TIMES[time.lower()] if time else 1.0)
    if not 1 <= amount < math.inf:
        raise UserError(f"the budget {budget!r} is {amount:g} FLOP: expected 1 or more, such as {FLOPS_EXAMPLES}")
    return amount


def show_flops(flops: float) -> str:
    """As a power of ten and with a prefix: "1.2e15 FLOP (1.2 PFLOP)"."""
    mantissa, _, exponent = f"{flops:.2e}".partition("e")
    plain = f"{float(mantissa):g}e{int(exponent)}" if flops >= 1000 else f"{flops:g}"
    rounded = float(f"{flops:.2e}")
    name = next((name for name in reversed(PREFIXES) if rounded >= PREFIXES[name]), "")
    value = rounded / PREFIXES[name]
    if not name or value >= 1000:
        return f"{plain} FLOP"
    return f"{plain} FLOP ({value:.3g} {name}FLOP)"


def parse_seconds(duration: str | float, *, unit: str | None = None) -> float:
    """The seconds of a duration.

    Args:
        duration: text such as "6h", "90 min", "6 hours", "1h 30min", "2 days"; with `unit` also a number.
        unit: what a number without a unit counts: a key of `SECONDS`, such as "h".

    Raises:
        UserError: it cannot be read, is not finite, or is not above 0.
    """
    text = str(duration).strip()
    if unit is not None and re.fullmatch(_NUMBER, text, re.IGNORECASE):
        text = f"{text} {unit}"
    total, place = 0.0, 0
    while part := _PART.match(text, place):
        if (name := part[2].lower()) not in _TIMES:
            break
        total, place = total + float(part[1]) * _TIMES[name], part.end()
    if not text or place < len(text):
        raise UserError(f"the time {duration!r} cannot be read: expected numbers with units, such as {TIME_EXAMPLES}")
    if not 0 < total < math.inf:
        raise UserError(f"the time {duration!r} is {total:g} seconds: expected more than 0, such as {TIME_EXAMPLES}")
    return total


def show_seconds(seconds: float) -> str:
    """In its two largest units, "1 d 6 h"; below a minute in seconds, three digits or so."""
    if seconds < 59.95:
        return f"{seconds:.3g} s"
    for large, small in (("d", "h"), ("h", "min"), ("min", "s")):
        count = round(seconds / SECONDS[small])
        per = round(SECONDS[large] / SECONDS[small])
        if count >= per:
            whole, rest = divmod(count, per)
            return f"{whole} {large} {rest} {small}" if rest else f"{whole} {large}"
    raise AssertionError(f"{seconds} seconds are a minute or more")
