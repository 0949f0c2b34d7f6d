"""`lacos-st encode --ray` on a local cluster of two workers writes what one process writes, also when one is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import tiny

from lacos_st.corpus.options import EncodeOptions
from lacos_st.corpus.run import EncodeResult, encode_corpus
from lacos_st.errors import UserError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Ray's own, of itself
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
ROWS = 2000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a corpus, and its shards as one process writes them."""
    folder = tmp_path_factory.mktemp("ray")
    tiny.save(folder / "model")
    (folder / "in.txt").write_text(
        "".join(f"the street is long {i}\n" * (i % 3 > 0) + "\n" * (i % 3 == 0) for i in range(ROWS))
    )
    encode(folder, "alone")
    return folder


def encode(folder: Path, output: str, **options: object) -> EncodeResult:
    given: dict[str, object] = {"shard_rows": 100, "batch_size": 4, "precision": "int8"}
    paths = {"model": str(folder / "model"), "source": str(folder / "in.txt"), "output": str(folder / output)}
    return encode_corpus(EncodeOptions(**{**paths, **given, **options}))


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("shard-*")}


def test_without_ray_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"lacos_st\[ray\]"):
        encode(folder, "none", ray="local")


def test_two_workers_of_which_one_is_killed(folder: Path) -> None:
    pytest.importorskip("ray", reason='Ray is not installed: pip install "lacos_st[ray]"')
    killed: list[int] = []

    def kill_one() -> None:
        journal = folder / "ray" / "shards.jsonl"
        end = time.monotonic() + 600
        while time.monotonic() < end and not killed:
            if journal.is_file() and journal.read_bytes().count(b"\n") >= 5:
                listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True)
                for line in listed.stdout.splitlines():
                    if "MapWorker" in line and "ray::" in line and not killed:
                        killed.append(int(line.split()[0]))
                        os.kill(killed[0], signal.SIGKILL)
            time.sleep(0.05)

    thread = threading.Thread(target=kill_one)
    thread.start()
    done = encode(folder, "ray", ray="local", workers=2)
    thread.join()
    assert killed, "no worker was found to kill"
    assert (done.rows, done.new_rows, done.shards) == (ROWS, ROWS, ROWS // 100)
    assert shards(folder / "ray") == shards(folder / "alone")
    assert encode(folder, "ray", resume=True).new_rows == 0


def test_a_workers_mistake_is_said(folder: Path) -> None:
    pytest.importorskip("ray", reason='Ray is not installed: pip install "lacos_st[ray]"')
    with pytest.raises(UserError, match="no Ray cluster at"):
        encode(folder, "nowhere", ray="127.0.0.1:1")
