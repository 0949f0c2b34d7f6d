"""Contenders for tests of the benchmarks; the children import this file, so it imports nothing heavy at its top."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any


class Clock:
    """Writes when each of its turns began and ended."""

    def __init__(self, *, name: str, file: str) -> None:
        sys.stdout.write("what a library prints does not reach the answers\n")
        self.name, self.file = name, Path(file)

    def repeat(self, number: int) -> dict[str, Any]:
        start = time.monotonic()
        time.sleep(0.02)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(f"{self.name} {number} {start} {time.monotonic()}\n")
        return {"number": number, "process": os.getpid()}

    def work(self, seconds: float) -> dict[str, Any]:
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass
        return {}

    def fail(self) -> dict[str, Any]:
        raise ValueError("nothing works")

    def die(self) -> dict[str, Any]:
        os.write(2, b"last words\n")
        os._exit(3)


class Wrong:
    """`benchmarks.encoding.Encoding`, but for one bias of the un-quantised way."""

    def __init__(self, way: str, **options: Any) -> None:
        from benchmarks.encoding import Encoding

        self.right = Encoding(way, **options)
        if way == "ours-float":
            self.right.model[0].model.h[1].mlp.dense_h_to_4h.bias.data += 0.01

    def check(self) -> dict[str, Any]:
        return self.right.check()
