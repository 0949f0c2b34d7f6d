"""Contenders in processes of their own that stay alive and take turns: A B A B ..., one at work, the others blocked.

A coordinator starts `python -m benchmarks.contest MODULE CLASS OPTIONS` for each; the child makes an object of the
class and then waits on its standard input for one line of JSON, {"do": method, ...arguments}, and answers it with one
line, what the method returned. What libraries print in a child goes to its log, shown only when it fails.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parents[1]
PAUSE_SECONDS = 0.3
"""Between turns: OpenMP's threads spin for up to 0.2 s (KMP_BLOCKTIME) after their last work."""

LOG_CHARACTERS = 1500


class ContenderError(RuntimeError):
    """A contender's process failed or ended; the message says why."""


class Contender:
    """A process that holds one contender.

    Args:
        name: for tables and messages.
        factory: "module:Class".
        **options: JSON values, the class's keyword arguments.

    Raises:
        ContenderError: it could not be made.
    """

    def __init__(self, name: str, factory: str, /, **options: Any) -> None:
        self.name = name
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.contest", *factory.split(":"), json.dumps(options)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        try:
            self._answer()
        except ContenderError:
            self.close()
            raise

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Have the child call its object's method `do`, and wait for what it returns.

        Raises:
            ContenderError: the method failed, or the process ended.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer is missing too, and says so
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self._log.seek(0)
            raise ContenderError(f"{self.name} ended with code {code}: ...{self._log.read()[-LOG_CHARACTERS:]}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ContenderError(f"{self.name} failed: {answer['error']}")
        return answer

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait()
        self._log.close()

    def __enter__(self) -> Contender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def turns(programs: Mapping[Contender, Sequence[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """Have contenders answer their requests in turn: everybody's first, then everybody's second, ...

    Args:
        programs: of each contender, the requests, {"do": ..., ...}; all have as many.

    Returns:
        Answers by the contender's name, in the order of its requests.
    """
    answers: dict[str, list[dict[str, Any]]] = {contender.name: [] for contender in programs}
    for requests in zip(*programs.values(), strict=True):
        for contender, request in zip(programs, requests, strict=True):
            time.sleep(PAUSE_SECONDS)
            answers[contender.name].append(contender.ask(**request))
    return answers


def serve(module: str, name: str, options: dict[str, Any]) -> None:
    """The child: make the object, then answer requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # prints go to the log

    def answer(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    try:
        task = getattr(importlib.import_module(module), name)(**options)
        answer({})
        for line in sys.stdin:
            request = json.loads(line)
            answer(getattr(task, request.pop("do"))(**request))
    except Exception as error:
        traceback.print_exc()
        answer({"error": f"{type(error).__name__}: {error}"})
        sys.exit(1)


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
