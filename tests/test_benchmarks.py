"""The figures that the benchmarks measure stay within what the project promises."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # for benchmarks, which are not installed

from benchmarks import format as format_benchmark  # noqa: E402
from benchmarks import parity  # noqa: E402

pytestmark = pytest.mark.slow
TOLERANCE = 1e-5


def test_error_of_the_format() -> None:
    errors = format_benchmark.errors()
    assert errors["dynamic/256"] <= 1.1
    assert errors["linear/256"] < errors["dynamic/256"]  # without outliers


def test_codes_are_those_of_bitsandbytes() -> None:
    assert format_benchmark.bit_parity()


def test_bytes_per_weight() -> None:
    assert max(format_benchmark.bytes_per_weight()) <= 1.02


@pytest.mark.parametrize("case", parity.CASES[::3], ids=str)
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft 0.21 asks for it
def test_parity(case: parity.Case) -> None:
    hidden, gradients = parity.encoder_differences(case)
    assert hidden <= TOLERANCE
    assert gradients <= TOLERANCE
    assert parity.batch_difference(case) <= TOLERANCE
    assert parity.lora_difference(case) <= TOLERANCE
