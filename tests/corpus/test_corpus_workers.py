"""`lacos-st encode` in several processes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from written import read, vectors

from lacos_st.corpus.run import EncodeResult


@pytest.mark.slow
def test_workers_write_what_one_process_writes(work: Callable[..., EncodeResult]) -> None:
    work(output="alone")
    done = work(workers=2)
    assert done.rows == 50
    alone, found = read("alone"), read()
    assert found.drop_columns("embedding") == alone.drop_columns("embedding")
    np.testing.assert_allclose(vectors(found), vectors(alone), rtol=0, atol=2e-6)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_a_killed_run_leaves_no_worker_and_goes_on(work: Callable[..., EncodeResult], model_dir: str) -> None:
    Path("many.txt").write_text("".join(f"the street is long {i}\n" for i in range(4000)))
    options = ["many.txt", "out", "--shard-rows", "100", "--workers", "2", "--batch-size", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "lacos_st", "encode", model_dir, *options], start_new_session=True
    )
    journal = Path("out/shards.jsonl")
    try:
        wait_for(lambda: journal.is_file() and journal.read_bytes().count(b"\n") > 2, seconds=240)
        workers = children(process.pid)
        assert len(workers) >= 2
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    wait_for(lambda: not any(alive(pid) for pid in workers), seconds=60)
    there = len([line for line in journal.read_text().splitlines() if line.endswith("}}}")])
    assert 2 < there < 40
    done = work(source="many.txt", shard_rows=100, resume=True)
    assert done.new_rows == 4000 - 100 * there
    assert read()["row"].to_pylist() == list(range(4000))


def wait_for(condition: Callable[[], bool], *, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children(pid: int) -> list[int]:
    """The processes below a process that are Python's workers: not the watch, which ends by itself."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            found.append(int(status.parent.name))
    return found
