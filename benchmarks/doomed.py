"""Work in a forked process that is killed on the way: what the crash drill is made of.

The parent imports and computes nothing, so that a fork has one thread and no state but the imported modules.
"""

from __future__ import annotations

import os
import pickle
import random
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lacos_st.errors import UserError

POLL_SECONDS = 0.0005
PATIENCE_SECONDS = 900
"""How long one piece of work may take; a drill that hangs has failed."""


@dataclass(frozen=True)
class Outcome:
    """How a child ended: killed, or with a value, what the user is told, or a traceback."""

    killed: bool
    value: Any = None
    refused: str | None = None
    broke: str | None = None


def run(work: Callable[[], Any], *, scratch: Path, kill: Callable[[float], bool] | None = None) -> Outcome:
    """Do `work` in a child.

    Args:
        work: what it returns is pickled.
        scratch: folder for the child's output and result; not where it works.
        kill: asked again and again, with the seconds since the start, whether to send SIGKILL now.

    Raises:
        TimeoutError: the child neither ended nor was killed within `PATIENCE_SECONDS`.
    """
    result = scratch / "result.pickle"
    result.unlink(missing_ok=True)
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        _work_and_exit(work, result, scratch / "output.txt")
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        seconds = time.monotonic() - start
        if kill is not None and kill(seconds):
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            if os.WIFSIGNALED(status):
                return Outcome(killed=True)
            break  # it ended by itself in that moment
        if seconds > PATIENCE_SECONDS:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise TimeoutError(f"no end after {PATIENCE_SECONDS} s: {(scratch / 'output.txt').read_text()[-2000:]}")
        time.sleep(POLL_SECONDS)
    if not result.is_file():
        return Outcome(killed=False, broke=f"the process died: {(scratch / 'output.txt').read_text()[-2000:]}")
    return pickle.loads(result.read_bytes())


def _work_and_exit(work: Callable[[], Any], result: Path, output: Path) -> None:
    """The child's part; it never returns to the parent's code."""
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    try:
        outcome = Outcome(killed=False, value=work())
    except UserError as error:
        outcome = Outcome(killed=False, refused=str(error))
    except BaseException:
        outcome = Outcome(killed=False, broke=traceback.format_exc())
    try:
        result.write_bytes(pickle.dumps(outcome))
    finally:
        os._exit(0)


def at(seconds: float) -> Callable[[float], bool]:
    """Kill so many seconds after the start."""
    return lambda elapsed: elapsed >= seconds


def while_writing(folder: Path, draw: random.Random, *, times: int, within: float) -> Callable[[float], bool]:
    """Kill while something is being written in `folder`: within `within` s of the `times`-th `.*.new` that appears."""
    seen: set[str] = set()
    moment: list[float] = []

    def due(elapsed: float) -> bool:
        if not moment:
            for parent in (folder, folder / "checkpoints"):
                try:
                    seen.update(name for name in os.listdir(parent) if name.startswith(".") and name.endswith(".new"))
                except OSError:
                    continue
            if len(seen) >= times:
                moment.append(elapsed + draw.uniform(0, within))
        return bool(moment) and elapsed >= moment[0]

    return due


def after_file(file: Path, seconds: float) -> Callable[[float], bool]:
    """Kill so many seconds after `file` has appeared."""
    return after_files(file.parent, file.name, 1, seconds)


def after_files(folder: Path, start: str, count: int, seconds: float) -> Callable[[float], bool]:
    """Kill so many seconds after `count` files with names that begin with `start` stand in `folder`."""
    moment: list[float] = []

    def due(elapsed: float) -> bool:
        if not moment:
            with suppress(OSError):
                if sum(name.startswith(start) for name in os.listdir(folder)) >= count:
                    moment.append(elapsed + seconds)
        return bool(moment) and elapsed >= moment[0]

    return due
