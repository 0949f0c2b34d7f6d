"""`lacos-st encode` after a kill, damage, a full disk or a change: what was done stays, nothing is mixed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
from written import contents, lines_of

from lacos_st.corpus import files, windows
from lacos_st.corpus.run import EncodeResult
from lacos_st.errors import UserError


class Killed(BaseException):
    """In the place of a kill: no handler of errors sees it."""


def test_a_kill_at_any_flush_costs_nothing(work: Callable[..., EncodeResult], monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"precision": "int8", "shard_rows": 30, "batch_size": 32}
    work(output="whole", **options)
    real, calls = os.fsync, 0

    def counting(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls == stop:
            raise Killed
        real(handle)

    monkeypatch.setattr(os, "fsync", counting)
    stop = -1
    work(output="counted", **options)
    total, kills = calls, 0
    assert total > 10
    for stop in range(1, total + 1):
        calls = 0
        with pytest.raises(Killed):
            work(output=f"out{stop}", **options)
        kills += 1
        resume = Path(f"out{stop}/manifest.json").exists()
        calls = total  # from now on no kill
        done = work(output=f"out{stop}", resume=resume, **options)
        assert contents(f"out{stop}") == contents("whole")
        assert json.loads(Path(f"out{stop}/manifest.json").read_text())["complete"]
        records = [record["shard"] for record in lines_of(Path(f"out{stop}/shards.jsonl"))]
        assert sorted(records) == [0, 1]
        assert done.rows == 50
        assert not list(Path(f"out{stop}").glob(".partial*"))
    assert kills == total


def test_what_a_kill_leaves_is_cleared_away(work: Callable[..., EncodeResult]) -> None:
    work()
    whole = contents()
    journal = Path("out/shards.jsonl")
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text(lines[0] + lines[1][:40])  # the second line is torn, the third was never written
    Path("out/.partial-1-shard-000002.parquet").write_bytes(b"half")
    done = work(resume=True)
    assert (done.rows, done.new_rows) == (50, 30)
    assert contents() == whole
    assert not Path("out/.partial-1-shard-000002.parquet").exists()
    assert [record["shard"] for record in lines_of(journal)] == [0, 1, 2]
    again = work(resume=True)
    assert (again.rows, again.new_rows, again.tokens) == (50, 0, done.tokens)


def test_a_kill_before_the_manifest_leaves_a_folder_to_start_in(work: Callable[..., EncodeResult]) -> None:
    Path("out").mkdir()
    Path("out/.lock").touch()
    Path("out/.partial-1-manifest.json").write_text('{"opt')
    work()
    assert not list(Path("out").glob(".partial*"))


@pytest.mark.parametrize("damage", ["flipped", "truncated", "gone", "swapped"])
def test_a_damaged_shard_is_made_again(work: Callable[..., EncodeResult], damage: str) -> None:
    work()
    whole, shard = contents(), Path("out/shard-000001.parquet")
    data = bytearray(shard.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 1
    shard.write_bytes(
        whole["shard-000000.parquet"] if damage == "swapped" else data[: -9 if damage == "truncated" else None]
    )
    if damage == "gone":
        shard.unlink()
    assert work(resume=True).new_rows == 20
    assert contents() == whole


def test_a_run_goes_on_only_as_it_was_started(work: Callable[..., EncodeResult], tmp_path: Path) -> None:
    work()
    Path("moved.txt").write_bytes(Path("in.txt").read_bytes())
    assert work(resume=True, batch_size=8, workers=1).new_rows == 0
    with pytest.raises(UserError, match="shard_rows 20 -> 10; normalize|normalize False -> True; shard_rows 20 -> 10"):
        work(resume=True, shard_rows=10, normalize=True)
    with pytest.raises(UserError, match="in.txt is gone, moved.txt is new"):
        work(resume=True, source="moved.txt")
    with pytest.raises(UserError, match="the model is another one.*base_sha256"):
        work(resume=True, model=tiny.save(tmp_path / "other", seed=5))
    Path("in.txt").write_text("changed\n")
    with pytest.raises(UserError, match="input: in.txt has changed"):
        work(resume=True)


def test_output_folders(work: Callable[..., EncodeResult], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="no run to go on with"):
        work(resume=True)
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("ten years of work")
    for options in ({}, {"overwrite": True}):
        with pytest.raises(UserError, match="mine"):
            work(output="mine", **options)
    assert os.listdir("mine") == ["thesis.txt"]
    work()
    with pytest.raises(UserError, match="--resume.*--overwrite"):
        work()
    assert work(overwrite=True, shard_rows=50).shards == 1
    assert len(contents()) == 1
    Path("out/shard-notes.txt").write_text("would be removed before it is read")
    with pytest.raises(UserError, match="shard-notes.txt lies in the output folder out"):
        work(source="out/shard-notes.txt", overwrite=True)
    assert Path("out/shard-notes.txt").exists()
    with files.only_writer(Path("out")), pytest.raises(UserError, match="another run is writing"):
        work(overwrite=True)
    with pytest.raises(UserError, match="is a file"):
        work(output="in.txt")


def test_an_input_that_changes_meanwhile(work: Callable[..., EncodeResult], monkeypatch: pytest.MonkeyPatch) -> None:
    real = windows.convert

    def change(*arguments: Any) -> Any:
        with Path("in.txt").open("a") as file:
            file.write("one more\n")
        return real(*arguments)

    monkeypatch.setattr(windows, "convert", change)
    with pytest.raises(UserError, match="has changed since this run began"):
        work()
    assert contents() == {}


def test_a_full_disk_is_said_and_loses_nothing(
    work: Callable[..., EncodeResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, written = files.HashedFile.write, 0

    def full(self: Any, data: Any) -> int:
        nonlocal written
        written += memoryview(data).nbytes
        if written > 15_000:
            raise OSError(28, "No space left on device")
        return real(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(files.HashedFile, "write", full)
        with pytest.raises(UserError, match=r"No space left.*--resume"):
            work()
    assert len(contents()) in (1, 2)
    assert work(resume=True).new_rows in (10, 30)
