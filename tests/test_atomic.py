"""Files and folders are whole or not there, whatever stops the writer; and what it leaves is cleared away."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lacos_st.atomic import cannot_write, clear_leftovers, remove_folder, whole_folder, write_text
from lacos_st.errors import UserError
from lacos_st.resume import FILES, check_checkpoint, checkpoints, list_files
from lacos_st.runs import read_log


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: to a writer, a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_that_cannot_be_written_keeps_its_old_content(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    write_text(file, "old")
    with files_of_at_most(100), pytest.raises(UserError, match=r"results\.json could not be written .*free space"):
        write_text(file, "x" * 1000)
    assert file.read_text() == "old"
    assert names(tmp_path) == ["results.json"]
    write_text(file, "new")
    assert file.read_text() == "new"


def test_a_folder_appears_whole_and_takes_the_old_ones_place(tmp_path: Path) -> None:
    place = tmp_path / "model"
    for content in ("one", "two"):
        with whole_folder(place) as new:
            (new / "a").write_text(content)
            assert not (place / "a").exists() or (place / "a").read_text() != content
        assert (place / "a").read_text() == content
    assert names(tmp_path) == ["model"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("inline_container.cc:664")])
def test_a_folder_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, error: Exception) -> None:
    place = tmp_path / "model"
    with whole_folder(place) as new:
        (new / "a").write_text("old")

    def write() -> None:
        with whole_folder(place) as new:
            (new / "a").write_text("new")
            raise error

    with pytest.raises(UserError, match="model could not be written"):
        write()
    assert (place / "a").read_text() == "old"
    assert names(tmp_path) == ["model"]


def test_other_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "model"):
        raise ZeroDivisionError
    assert names(tmp_path) == []
    assert not cannot_write(ZeroDivisionError())
    assert not cannot_write(UserError("I/O error"))


def test_leftovers_are_cleared_and_what_was_moved_away_comes_back(tmp_path: Path) -> None:
    # killed between the two renames: the old model stands aside, the new one is not in its place
    for name in (".model.old", ".model.new", ".checkpoint-2.new", ".checkpoint-1.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text(name)
    (tmp_path / ".train.yaml.new").write_text("half")
    (tmp_path / ".notes.old").write_text("mine")
    assert len(clear_leftovers(tmp_path, "model", "checkpoint-*", "train.yaml")) == 5
    assert names(tmp_path) == [".notes.old", "model"]
    assert (tmp_path / "model" / "a").read_text() == ".model.old"
    assert clear_leftovers(tmp_path / "missing", "model") == []


def test_a_removal_never_shows_half_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checkpoint-1").mkdir()
    seen = []
    monkeypatch.setattr("shutil.rmtree", lambda path, **kwargs: seen.append(names(tmp_path)))
    remove_folder(tmp_path / "checkpoint-1")
    assert seen[-1] == [".checkpoint-1.old"]


def checkpoint(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 3}))
    (folder / "optimizer.pt").write_bytes(bytes(100))
    (folder / "adapter").mkdir()
    (folder / "adapter" / "w").write_bytes(bytes(50))
    list_files(folder, step=3)
    return folder


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "optimizer.pt").write_bytes(bytes(99) + b"\1"), r"optimizer\.pt was changed"),
        (lambda folder: (folder / "adapter" / "w").unlink(), "adapter/w is missing"),
        (lambda folder: (folder / "trainer_state.json").write_text('{"glob'), "is broken"),
        (lambda folder: (folder / FILES).write_text("[]"), "is broken"),
        (lambda folder: (folder / FILES).write_text('{"format_version": 2}'), "newer lacos_st"),
    ],
)
def test_a_checkpoint_is_what_was_written(tmp_path: Path, damage: object, said: str) -> None:
    folder = checkpoint(tmp_path / "checkpoint-3")
    check_checkpoint(folder)
    assert callable(damage)
    damage(folder)
    with pytest.raises(UserError, match=said):
        check_checkpoint(folder)


def test_checkpoints_go_by_step_and_only_whole_ones_count(tmp_path: Path) -> None:
    for name in ("checkpoint-9", "checkpoint-10", ".checkpoint-11.new", ".checkpoint-12.old"):
        checkpoint(tmp_path / name)
    (tmp_path / "checkpoint-13").mkdir()
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-9", "checkpoint-10"]


def test_a_torn_last_line_of_the_log_is_none_and_another_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    file.write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert [row["step"] for row in read_log(file)] == [1, 2]
    file.write_text('{"step": 1}\n{"ste\n{"step": 3}\n')
    with pytest.raises(UserError, match="line 2"):
        read_log(file)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a mount")
def test_a_read_only_folder_is_named(tmp_path: Path) -> None:
    def mount(*arguments: str) -> bool:
        return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0

    if not mount("-t", "tmpfs", "-o", "ro", "tmpfs", str(tmp_path)):
        pytest.skip("nothing can be mounted here")
    try:
        with pytest.raises(UserError, match="Read-only file system"):
            write_text(tmp_path / "a", "b")
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
