"""Contenders in processes of their own that stay alive and take turns: A B A B ..., one at work, the others blocked.

The coordinator makes a process for each, in which an object of the contender's class waits on a pipe for the name of a
method and its arguments, and answers with what the method returned. The processes are forked from a server that has
imported libraries and done nothing else. What libraries print goes to a log, shown only when a contender fails.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

PAUSE_SECONDS = 0.3
"""Between turns: OpenMP's threads spin for up to 0.2 s (KMP_BLOCKTIME) after their last work."""

LOG_CHARACTERS = 1500
_SERVER = multiprocessing.get_context("forkserver")


class ContenderError(RuntimeError):
    """A contender's process failed or ended; the message says why."""


def preload(*modules: str) -> None:
    """Have the server import these once, before it forks the first contender: imports take seconds."""
    _SERVER.set_forkserver_preload(list(modules))


class Contender:
    """A process that holds one contender.

    Args (positional):
        name: for tables and messages.
        factory: "module:Class".
        **options: the class's keyword arguments.

    Raises:
        ContenderError: it could not be made.
    """

    def __init__(self, name: str, factory: str, /, **options: Any) -> None:
        self.name = name
        self._log = tempfile.NamedTemporaryFile("w+", encoding="utf-8", errors="replace")
        self._pipe, theirs = _SERVER.Pipe()
        self._process = _SERVER.Process(target=serve, args=(theirs, self._log.name, factory, options), daemon=True)
        self._process.start()
        theirs.close()  # so that the end of the process ends the pipe
        try:
            self._answer()
        except ContenderError:
            self.close()
            raise

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Have the contender call its method `do`, and wait for what it returns.

        Raises:
            ContenderError: the method failed, or the process ended.
        """
        try:
            self._pipe.send((do, arguments))
        except BrokenPipeError:
            pass  # the answer is missing too, and says so
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        try:
            answer: dict[str, Any] | str = self._pipe.recv()
        except EOFError as error:
            self._process.join()
            self._log.seek(0)
            raise ContenderError(
                f"{self.name} ended with code {self._process.exitcode}: ...{self._log.read()[-LOG_CHARACTERS:]}"
            ) from error
        if isinstance(answer, str):
            raise ContenderError(f"{self.name} failed: {answer}")
        return answer

    @property
    def process_id(self) -> int:
        """Of the process."""
        assert self._process.pid is not None
        return self._process.pid

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join()
        self._log.close()

    def __enter__(self) -> Contender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def serve(pipe: Connection, log: str, factory: str, options: dict[str, Any]) -> None:
    """In the contender's process: make the object, then answer until the pipe ends; a failure is answered as text."""
    with open(log, "a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    module, name = factory.split(":")
    try:
        task = getattr(importlib.import_module(module), name)(**options)
        pipe.send({})
        while True:
            try:
                do, arguments = pipe.recv()
            except EOFError:
                return
            pipe.send(getattr(task, do)(**arguments))
    except Exception as error:
        traceback.print_exc()
        pipe.send(f"{type(error).__name__}: {error}")
        sys.exit(1)


def turns(programs: Mapping[Contender, Sequence[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """Have contenders answer their requests in turn: everybody's first, then everybody's second, ...

    Args:
        programs: of each contender, the requests, {"do": method, ...arguments}; all have as many.

    Returns:
        Answers by the contender's name, in the order of its requests.
    """
    answers: dict[str, list[dict[str, Any]]] = {contender.name: [] for contender in programs}
    for number, requests in enumerate(zip(*programs.values(), strict=True), 1):
        print(f"turn {number}", file=sys.stderr, flush=True)
        for contender, request in zip(programs, requests, strict=True):
            time.sleep(PAUSE_SECONDS)
            answers[contender.name].append(contender.ask(**request))
    return answers


class OtherWork:
    """How many cores other programs kept busy meanwhile: above a few hundredths, a contest's figures say little.

    Reads Linux's /proc; `cores` is None elsewhere.

    Args:
        contenders: whose work is no other work.
    """

    cores: float | None = None

    def __init__(self, contenders: Iterable[Contender]) -> None:
        self._own = [os.getpid(), *(contender.process_id for contender in contenders)]

    def __enter__(self) -> OtherWork:
        self._start = self._now()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._start is not None and (end := self._now()) is not None:
            clock, work = (b - a for a, b in zip(self._start, end, strict=True))
            self.cores = round(max(0.0, work) / clock, 3)

    def _now(self) -> tuple[float, float] | None:
        """Seconds of the clock, and seconds that all cores spent on others."""
        if not Path("/proc/stat").is_file():
            return None
        ticks = os.sysconf("SC_CLK_TCK")
        user, nice, system, _, _, *interrupts = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9])
        own = 0
        for process in self._own:
            after_name = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            own += int(after_name[11]) + int(after_name[12])  # user and system time
        return time.monotonic(), (user + nice + system + sum(interrupts) - own) / ticks
