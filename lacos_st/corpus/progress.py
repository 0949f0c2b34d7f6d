"""How far a run is: a line on a terminal that is written over, with rates of the last while and the time left."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from typing import TextIO

KEPT_SECONDS = 60.0
"""Rates are those of the last minute: long enough to be steady, short enough to follow a machine that others use."""


class Progress:
    """A line about the rows that are done.

    Args:
        total: Rows of the corpus.
        done: Rows that were there before.
        show: Whether to show it at all; it is shown on a terminal only.
        stream: Where.
        clock: Seconds.
    """

    def __init__(
        self,
        total: int,
        *,
        done: int = 0,
        show: bool = True,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.total, self.done, self.tokens = total, done, 0
        self._stream = sys.stderr if stream is None else stream
        self._show = show and self._stream.isatty()
        self._clock = clock
        self._seen = deque([(clock(), done, 0)])
        self._width = 0

    def add(self, rows: int, tokens: int) -> None:
        """Count rows that were encoded, and their tokens."""
        self.done += rows
        self.tokens += tokens
        now = self._clock()
        self._seen.append((now, self.done, self.tokens))
        while len(self._seen) > 2 and now - self._seen[1][0] > KEPT_SECONDS:
            self._seen.popleft()
        self._write(self.line())

    def line(self) -> str:
        """The line as it stands."""
        (start, rows, tokens), (now, *_) = self._seen[0], self._seen[-1]
        seconds = max(now - start, 1e-9)
        rate, token_rate = (self.done - rows) / seconds, (self.tokens - tokens) / seconds
        share = 100 * self.done / self.total if self.total else 100.0
        left = f", {duration((self.total - self.done) / rate)} left" if rate else ""
        speed = f"{rate:,.0f} sentences/s" + (f", {token_rate:,.0f} tokens/s" if token_rate else "")
        return f"{self.done:,} of {self.total:,} rows ({share:.1f} %), {speed}{left}"

    def close(self) -> None:
        """Leave the line clean."""
        self._write("")

    def _write(self, text: str) -> None:
        if self._show:
            self._stream.write("\r" + text.ljust(self._width) + ("" if text else "\r"))
            self._stream.flush()
            self._width = len(text)


def duration(seconds: float) -> str:
    """Seconds as a person says them: "42 s", "7 min", "3 h 20 min", "2 d 4 h".

    >>> [duration(s) for s in (0.4, 42, 119.9, 420, 12_000, 187_200)]
    ['0 s', '42 s', '2 min', '7 min', '3 h 20 min', '2 d 4 h']
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"
