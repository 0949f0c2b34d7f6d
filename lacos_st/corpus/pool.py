"""sentence-transformers' pool of worker processes, which share out this process's threads and never outlive it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

WATCH = """
import os, signal, sys
watched = [int(name) for name in sys.argv[1:]]
handles = [os.pidfd_open(pid) for pid in watched] if hasattr(os, "pidfd_open") else None
print(flush=True)
sys.stdin.buffer.read()
for place, pid in enumerate(watched):
    try:
        signal.pidfd_send_signal(handles[place], signal.SIGTERM) if handles else os.kill(pid, signal.SIGTERM)
    except OSError:
        pass
"""
"""Waits for the end of its standard input, which comes when the parent ends, however it ends: the stock workers wait
for work for ever when their parent is killed, each with the model in memory."""


@contextmanager
def worker_pool(model: Any, devices: Sequence[str | None]) -> Iterator[Any]:
    """A pool with a process on each device; None, and no process, for a single one.

    Args:
        model: a SentenceTransformer; with a pool it moves to the CPU, into memory that the processes share.
        devices: torch's names; None for the model's own.
    """
    if len(devices) == 1:
        yield None
        return
    import torch

    names = [str(model.device) if device is None else device for device in devices]
    threads = max(1, torch.get_num_threads() // len(names))
    with _inherited(OMP_NUM_THREADS=str(threads)), _interrupts_ignored():
        pool = model.start_multi_process_pool(names)
        watch = _watch([process.pid for process in pool["processes"]])
    try:
        yield pool
    finally:
        model.stop_multi_process_pool(pool)
        watch.kill()
        watch.communicate()


def died(pool: Any) -> list[str]:
    """The processes of a pool that have ended, in words."""
    ended = [] if pool is None else [process for process in pool["processes"] if not process.is_alive()]
    return [f"process {process.pid} (exit code {process.exitcode})" for process in ended]


def _watch(pids: Sequence[int]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-I", "-S", "-c", WATCH, *map(str, pids)]
    watch = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    assert watch.stdout is not None, "it is a pipe"
    watch.stdout.readline()  # it has hold of the processes
    return watch


@contextmanager
def _inherited(**values: str) -> Iterator[None]:
    """Environment of the processes that are started meanwhile."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Ctrl-C is for this process, which then stops those that are started meanwhile."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
