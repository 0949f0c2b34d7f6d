"""A budget in floating-point operations: given as such, or as hours on a GPU or on a machine that was measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lacos_st.errors import UserError
from lacos_st.recipe.gpus import gpu
from lacos_st.recipe.units import parse_flops, parse_seconds, show_flops, show_seconds

Counted = Literal["paper", "all"]


@dataclass(frozen=True)
class Utilization:
    """Which part of a machine's rate training reaches.

    Attributes:
        share: of it.
        source: what was measured, on what and when.
    """

    share: float
    source: str


MEASURED = Utilization(
    0.7881,
    "row of benchmarks/results/training.jsonl, 2026-11-21T09:30:56, commit 7008d07: random_order, ours-8bit, median "
    "share of the machine's own matrix products, on a CPU. No row of a GPU has been recorded yet: take the hours for "
    "the fewest it can be, say --utilization yourself, or run --device there",
)
"""What a plan for a GPU reckons with until `python -m benchmarks.gpu` has left a row."""


@dataclass(frozen=True)
class Rate:
    """Floating-point operations a second, of training.

    Attributes:
        flops_per_second: useful ones.
        source: a sentence.
        device: "cpu" or "cuda".
        dtype: that the rate is for.
        memory_bytes: of the device; None where it is not known.
    """

    flops_per_second: float
    source: str
    device: str
    dtype: str
    memory_bytes: int | None


@dataclass(frozen=True)
class Budget:
    """What may be spent.

    Attributes:
        flops: on training, and on serving where that is counted.
        counted: "paper": by the paper's C, as FLOP are given; "all": every term, as a machine's hours are.
        source: a sentence.
        rate: of the machine; None where nothing is known of it.
    """

    flops: float
    counted: Counted
    source: str
    rate: Rate | None = None

    def seconds(self, flops: float) -> float | None:
        """What so many operations take there."""
        return None if self.rate is None else flops / self.rate.flops_per_second


def gpu_rate(name: str, *, utilization: float | None = None) -> Rate:
    """That of a GPU: its published peak times what training reaches of it.

    Args:
        name: see `gpus.gpu`.
        utilization: the part of the peak; None: `MEASURED`.

    Raises:
        UserError: a GPU that is not in the table, or a part that is none.
    """
    key, found = gpu(name)
    if utilization is None:
        share, said = MEASURED.share, MEASURED.source
    elif 0 < utilization <= 1:
        share, said = utilization, "as given"
    else:
        raise UserError(f"the utilization is {utilization:g}: expected a part of the peak, above 0 and at most 1")
    source = f"{key}: {show_flops(found.peak)}/s at its peak ({found.source}) times {share:g} ({said})"
    return Rate(found.peak * share, source, "cuda", found.dtype, found.memory_bytes)


def budget_of(*, flops: str | None = None, hours: str | None = None, rate: Rate | None = None) -> Budget:
    """A budget from what a user gives.

    Args:
        flops: such as "1e17" or "3 PFLOP-days".
        hours: a number of hours, or a time with units.
        rate: of the machine, which hours need; beside `flops` it says how long they take.

    Raises:
        UserError: neither of them, both, hours on an unknown machine, or text that cannot be read.
    """
    if (flops is None) == (hours is None):
        given = "neither is" if flops is None else "both are"
        raise UserError(
            f"{given} given: say what may be spent with --flops (1e17), or with --hours (6) and --gpu NAME or --device"
        )
    if flops is not None:
        return Budget(parse_flops(flops), "paper", "given in FLOP, counted as the paper does, without attention", rate)
    if rate is None:
        raise UserError("hours of what: name the machine with --gpu (h100), or measure this one with --device")
    assert hours is not None
    seconds = parse_seconds(hours, unit="h")
    return Budget(seconds * rate.flops_per_second, "all", f"{show_seconds(seconds)} on {rate.source}", rate)
