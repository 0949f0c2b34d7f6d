"""Work shared out between processes: a failing item, even one that kills its process, does not stop the others."""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar, cast

from lacos_st.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")
Do = Callable[[Item], Result]
START_METHOD = "spawn"
"""A fork would copy a torch that has its threads already, and in the copy they are not there."""
LEAVE_SECONDS = 5.0
"""For a process that was told to end, before it is killed."""


@dataclass(frozen=True)
class Outcome(Generic[Item, Result]):
    """What became of an item: a result, or the reason why there is none."""

    item: Item
    result: Result | None
    reason: str | None = None


def work(
    items: Sequence[Item], start: Callable[[], Do[Item, Result]], *, processes: int
) -> Iterator[Outcome[Item, Result]]:
    """Do each item once, and yield its outcome as soon as it is there. Closing the iterator ends what is running.

    Args:
        items: to be done, in this order; picklable where there are processes.
        start: called once in every process, returns what does an item; picklable where there are processes.
        processes: 1 does them in this one.

    Raises:
        UserError: `start` raised one.
    """
    if processes == 1:
        do = start()
        for item in items:
            yield _attempt(do, item)
        return
    waiting, workers = deque(items), []
    try:
        workers = [_Worker(start) for _ in range(min(processes, len(items)))]
        while True:
            for place, worker in enumerate(workers):
                if worker.item is None and waiting:
                    if not worker.process.is_alive():
                        worker.end()
                        workers[place] = worker = _Worker(start)
                    worker.give(waiting.popleft())
            busy = [worker for worker in workers if worker.item is not None]
            if not busy:
                return
            ready = wait([worker.connection for worker in busy])
            for worker in busy:
                if worker.connection in ready:
                    yield worker.take()
    finally:
        for worker in workers:
            worker.end()


def _attempt(do: Do[Item, Result], item: Item) -> Outcome[Item, Result]:
    try:
        return Outcome(item, do(item))
    except UserError as error:
        return Outcome(item, None, " ".join(str(error).split()))
    except Exception as error:
        return Outcome(item, None, " ".join(f"{type(error).__name__}: {error}".split()))


class _Worker:
    """A process and the item that it has; the item goes in a list, so that None is an item like any other."""

    def __init__(self, start: Callable[[], Do[Any, Any]]) -> None:
        context = cast(SpawnContext, multiprocessing.get_context(START_METHOD))
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_serve, args=(theirs, start), daemon=True)
        self.process.start()
        theirs.close()  # so that the end of the process is the end of the pipe
        self.item: list[Any] | None = None

    def give(self, item: Any) -> None:
        """Hand it an item; that it may be dead already shows when the outcome is taken."""
        self.item = [item]
        try:
            self.connection.send(item)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def take(self) -> Outcome[Any, Any]:
        """The outcome of its item, which is there."""
        assert self.item is not None
        (item,), self.item = self.item, None
        try:
            answer = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join(LEAVE_SECONDS)
            code = self.process.exitcode
            why = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
            return Outcome(item, None, f"its process died ({why}): perhaps for want of memory; fewer --jobs take less")
        if isinstance(answer, UserError):
            raise answer
        return Outcome(item, answer.result, answer.reason)

    def end(self) -> None:
        """End the process, whatever it does."""
        self.process.terminate()
        self.process.join(LEAVE_SECONDS)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.connection.close()


def _serve(connection: Connection, start: Callable[[], Do[Any, Any]]) -> None:
    """Do items until the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the one that shares out decides
    try:
        do = start()
    except UserError as error:
        connection.send(error)
        return
    while True:
        try:
            item = connection.recv()
        except (EOFError, ConnectionResetError):
            return
        outcome = _attempt(do, item)
        connection.send(Outcome(None, outcome.result, outcome.reason))
