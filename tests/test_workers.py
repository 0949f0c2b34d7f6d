from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from lacos_st.errors import UserError
from lacos_st.recipe import workers
from lacos_st.recipe.workers import work


def start() -> Callable[[Any], Any]:
    """Squares numbers; words fail in their ways."""

    def do(item: Any) -> Any:
        if item == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if item == "sleep":
            time.sleep(60)
        if item == "refuse":
            raise UserError("it cannot be squared:\n   choose a number")
        return item**2

    return do


def broken() -> Callable[[Any], Any]:
    raise UserError("no data")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "START_METHOD", "fork")  # in seconds less; a sweep's slow test spawns


pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.mark.parametrize("processes", [1, 2])
def test_every_item_has_its_outcome_and_failures_stop_nothing(processes: int) -> None:
    items = [1, "refuse", 3, "word", None, 5]
    outcomes = {str(outcome.item): outcome for outcome in work(items, start, processes=processes)}
    assert list(outcomes) == [str(item) for item in items] if processes == 1 else len(outcomes) == len(items)
    assert [outcomes[str(n)].result for n in (1, 3, 5)] == [1, 9, 25]
    assert outcomes["refuse"].reason == "it cannot be squared: choose a number"
    assert str(outcomes["word"].reason).startswith("TypeError: unsupported operand")
    assert str(outcomes["None"].reason).startswith("TypeError")


def test_an_item_that_kills_its_process_is_reported_and_the_rest_goes_on() -> None:
    outcomes = list(work(["die", 2, "die", 4, 5], start, processes=2))
    assert sorted(o.result for o in outcomes if o.result is not None) == [4, 16, 25]
    assert [o.reason for o in outcomes if o.item == "die"] == [
        "its process died (signal SIGKILL): perhaps for want of memory; fewer --jobs take less"
    ] * 2


def test_closing_ends_what_is_running() -> None:
    began = time.monotonic()
    outcomes = work([2, "sleep", "sleep"], start, processes=2)
    assert next(outcomes).result == 4
    outcomes.close()  # type: ignore[attr-defined]
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("processes", [1, 2])
def test_a_start_that_is_refused_is_raised(processes: int) -> None:
    with pytest.raises(UserError, match="no data"):
        list(work([1, 2], broken, processes=processes))
