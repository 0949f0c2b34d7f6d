"""`lacos-st encode`: every row once and in order, whatever the file, the precision, the kill and the mistake."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import quantize_embeddings
from test_cli import refused

from lacos_st.cli import main
from lacos_st.corpus import files, windows
from lacos_st.corpus.options import EncodeOptions
from lacos_st.corpus.progress import Progress, duration
from lacos_st.corpus.rows import BadRows, Corpus
from lacos_st.corpus.run import EncodeResult, encode_corpus
from lacos_st.encoders import encoder
from lacos_st.errors import UserError
from lacos_st.models import load_model
from lacos_st.text_encoder import TextEncoder

WORDS = ["a", "man", "plays", "guitar", "the", "street", "is", "long"]
SENTENCES = [" ".join(WORDS[(i * j) % 8] for j in range(1 + i * 5 % 13)) for i in range(50)]
SENTENCES[7] = SENTENCES[30] = ""
SENTENCES[9] = 'say "hé\u2028llo", दो'
LIMIT = 9


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    made = encoder(tiny.save(folder / "base"), block_size=64)
    tiny.stir_(made)
    made.max_seq_length = LIMIT
    made.prompts = {"query": "the "}
    made.save_pretrained(str(folder / "saved"))
    return str(folder / "saved")


@pytest.fixture(scope="module")
def expected(model_dir: str) -> np.ndarray:
    return SentenceTransformer(model_dir, trust_remote_code=True).encode(SENTENCES)


loaded = cache(load_model)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_dir: str) -> Callable[..., EncodeResult]:
    """A folder to work in, the sentences in `in.txt`, and `encode_corpus` with defaults and each model loaded once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lacos_st.text_encoder.load_model", loaded)
    Path("in.txt").write_text("".join(text + "\n" for text in SENTENCES), encoding="utf-8")

    def encode(**options: Any) -> EncodeResult:
        given = {"model": model_dir, "source": "in.txt", "output": "out", "shard_rows": 20, "batch_size": 4}
        return encode_corpus(EncodeOptions(**{**given, **options}))

    return encode


def read(folder: str = "out") -> pyarrow.Table:
    return pyarrow.concat_tables(pyarrow.parquet.read_table(path) for path in sorted(Path(folder).glob("*.parquet")))


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def vectors(table: pyarrow.Table) -> np.ndarray:
    return np.array(table["embedding"].to_pylist())


def contents(folder: str = "out") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.name.startswith("shard-")}


def write(path: Path, texts: list[str]) -> Path:
    """The sentences, and an id before each, in the format of the file's ending."""
    path.parent.mkdir(exist_ok=True)
    rows = [{"key": f"k{i}", "text": text} for i, text in enumerate(texts)]
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    out = io.StringIO(newline="")
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=7)
        return path
    if kind == "jsonl":
        out.writelines(json.dumps(row, ensure_ascii=i % 2 == 0) + "\n" for i, row in enumerate(rows))
    elif kind == "csv":
        csv.writer(out).writerows([["key", "text"], *(row.values() for row in rows)])
    elif kind == "tsv":
        out.writelines("\t".join(row) + "\r\n" for row in (["key", "text"], *(row.values() for row in rows)))
    else:
        out.writelines(row["text"] + "\n" for row in rows)
    data = out.getvalue().encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


KINDS = ["a.tsv", "a.csv", "a.jsonl", "a.parquet", "a.txt", "a.tsv.gz", "a.csv.gz", "a.jsonl.gz", "a.txt.gz"]


# Rows


@pytest.mark.parametrize("name", KINDS)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, SENTENCES)
    plain = ".txt" in name
    bad = BadRows()
    found = list(Corpus(path, column=None if plain else "text", id_column=None if plain else "key").rows(bad))
    assert [row.text for row in found] == SENTENCES
    assert [row.id for row in found] == [None if plain else f"k{i}" for i in range(50)]
    assert {row.file for row in found} == {name}
    assert bad.count == 0
    if not plain:
        by_number = list(Corpus(path, column="2", header=True).rows(bad))
        assert [row.text for row in by_number] == SENTENCES


def test_a_folder_is_its_files_in_order(tmp_path: Path) -> None:
    for place, name in enumerate(("a.tsv", "b/c.jsonl", "z.parquet")):
        write(tmp_path / name, SENTENCES[place * 10 : place * 10 + 10])
    write(tmp_path / ".hidden.tsv", SENTENCES)
    (tmp_path / "README").write_text("no data")
    found = list(Corpus(tmp_path, column="text").rows(BadRows()))
    assert [row.text for row in found] == SENTENCES[:30]
    assert [(row.file, row.line) for row in found[9:11]] == [("a.tsv", 11), ("b/c.jsonl", 1)]


sentence = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.lists(sentence, min_size=1, max_size=8), st.sampled_from(["a.csv", "a.jsonl", "a.parquet"]))
def test_random_text_comes_back(tmp_path_factory: pytest.TempPathFactory, texts: list[str], name: str) -> None:
    if name == "a.csv":  # the reader's line ends are \n, and a mark at a line's start is dropped
        texts = [text.replace("\r", "").replace("\ufeff", "") for text in texts]
    path = write(tmp_path_factory.mktemp("random") / name, texts)
    bad = BadRows()
    assert [row.text for row in Corpus(path, column="text").rows(bad)] == texts
    assert bad.count == 0


@pytest.mark.parametrize(
    ("content", "options", "said"),
    [
        ("a\tb\nc\td\n", {}, ("2 columns", "--column")),
        ("a\tb\nc\td\n", {"column": "3"}, ("no column '3'", "--header")),
        ("a\tb\nc\td\n", {"column": "text"}, ("no column 'text'", "a, b")),
        ("a\tb\nc\td\n", {"column": "a", "id_column": "x"}, ("no column 'x'",)),
    ],
)
def test_columns_that_are_not_there(tmp_path: Path, content: str, options: Any, said: tuple[str, ...]) -> None:
    (tmp_path / "a.tsv").write_text(content)
    with pytest.raises(UserError) as caught:
        list(Corpus(tmp_path / "a.tsv", **options).rows(BadRows()))
    assert all(part in str(caught.value) for part in said)


# Embeddings


def test_each_row_has_its_embedding(work: Callable[..., EncodeResult], expected: np.ndarray) -> None:
    done = work(keep_text=True)
    table = read()
    assert table["row"].to_pylist() == list(range(50))
    assert table["line"].to_pylist() == list(range(1, 51))
    assert table["text"].to_pylist() == SENTENCES
    np.testing.assert_allclose(vectors(table), expected, rtol=0, atol=2e-6)
    assert not vectors(table)[[7, 30]].any()
    counted = [len(ids) for ids in tiny.tokenizer()(SENTENCES).input_ids]
    assert (done.rows, done.new_rows, done.empty, done.shards) == (50, 50, 2, 3)
    assert (done.cut, done.longest, done.limit) == (sum(n > LIMIT for n in counted), max(counted), LIMIT)
    assert done.tokens == done.new_tokens == sum(min(n, LIMIT) for n in counted)
    assert done.cut > 3


@pytest.mark.parametrize("precision", ["float32", "float16", "int8", "uint8", "binary", "ubinary"])
@pytest.mark.parametrize("kind", ["parquet", "npy"])
def test_precisions(work: Callable[..., EncodeResult], expected: np.ndarray, precision: str, kind: str) -> None:
    done = work(precision=precision, format=kind)
    manifest = json.loads(Path("out/manifest.json").read_text())
    ranges = None if manifest["ranges"] is None else np.array(manifest["ranges"], dtype=np.float32)
    if kind == "parquet":
        found = vectors(read())
    else:
        found = np.concatenate([np.load(path) for path in sorted(Path("out").glob("*.npy"))])
        ids = [row for path in sorted(Path("out").glob("shard-*.ids.jsonl")) for row in lines_of(path)]
        assert [row["row"] for row in ids] == list(range(50))
    if precision in ("float32", "float16"):
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 if precision == "float32" else 2e-3)
        return
    if precision.endswith("int8"):
        assert ranges is not None
        np.testing.assert_allclose(ranges, [expected.min(0), expected.max(0)], rtol=0, atol=2e-6)
        assert done.clipped < 5  # the extremes themselves, by rounding in another batch
    stock = quantize_embeddings(expected, precision=precision, ranges=ranges)
    assert found.shape == stock.shape
    differing = (found.astype(int) != stock).mean()
    assert differing < 0.02  # a value at the edge of two steps


def test_ranges_are_of_a_sample_of_the_whole_corpus(work: Callable[..., EncodeResult], expected: np.ndarray) -> None:
    done = work(precision="int8", calibration_rows=5)
    ranges = np.array(json.loads(Path("out/manifest.json").read_text())["ranges"])
    sample = expected[[0, 10, 20, 30, 40]]
    np.testing.assert_allclose(ranges, [sample.min(0), sample.max(0)], rtol=0, atol=2e-6)
    outside = ((expected < sample.min(0)) | (expected > sample.max(0))).sum()
    assert done.clipped > 100
    assert abs(done.clipped - outside) < 30  # the sample's own extremes, by rounding in another batch


def test_normalised_truncated_and_prompted(work: Callable[..., EncodeResult], model_dir: str) -> None:
    work(normalize=True, truncate_dim=16, prompt_name="query")
    model = SentenceTransformer(model_dir, trust_remote_code=True)
    wanted = model.encode(SENTENCES, normalize_embeddings=True, truncate_dim=16, prompt="the ")
    np.testing.assert_allclose(vectors(read()), wanted, rtol=0, atol=2e-6)
    with pytest.raises(UserError, match="prompts are: query"):
        work(prompt_name="answer", output="other")
    with pytest.raises(UserError, match="64 dimensions"):
        work(truncate_dim=65, output="other")
    assert not Path("other").exists()


# Kills and what comes after them


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


# Bad input


def test_malformed_rows(work: Callable[..., EncodeResult], capsys: pytest.CaptureFixture[str]) -> None:
    rows = ['{"text": "a man"}', '{"text": 3}', "{", '{"other": "x"}', '{"text": ""}', '{"text": null}', '["a"]']
    Path("bad.jsonl").write_text("\n".join(rows) + "\n")
    with pytest.raises(UserError) as caught:
        work(source="bad.jsonl", column="text")
    said = str(caught.value)
    for part in ("line 2: expected text, found 3", "line 3: not JSON", "line 4: no column", "line 6", "line 7"):
        assert part in said
    assert "5 malformed, 2 usable" in said
    assert not Path("out").exists()
    done = work(source="bad.jsonl", column="text", on_bad_row="skip")
    assert (done.rows, done.bad_rows, done.empty) == (2, 5, 1)
    assert read()["line"].to_pylist() == [1, 5]


def test_a_model_that_computes_nan(work: Callable[..., EncodeResult], monkeypatch: pytest.MonkeyPatch) -> None:
    real = TextEncoder.encode

    def broken(self: Any, texts: Any, **options: Any) -> np.ndarray:
        found = real(self, texts, **options)
        found[3, 5] = np.nan
        return found

    monkeypatch.setattr(TextEncoder, "encode", broken)
    with pytest.raises(UserError, match=r"in.txt, line 4 is not finite \(1 of 20"):
        work()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing.txt", "out"], "nothing.txt"),
        (["in.txt", "out", "--precision", "int4"], "int4"),
        (["in.txt", "out", "--shard-rows", "0"], "shard_rows"),
        (["in.txt", "out", "--batch-size", "many"], "many"),
        (["in.txt", "out", "--resume", "--overwrite"], "one of them"),
        (["in.txt", "out", "--device", "quantum"], "quantum"),
        (["in.txt", "out", "--device", "cpu", "meta"], "device 'meta' cannot be used here"),
        (["in.txt", "out", "--column", "text"], "text"),
        (["empty.txt", "out"], "no usable row"),
        (["utf16.txt", "out"], "UTF-16"),
    ],
)
def test_mistakes_on_the_command_line(
    work: object, model_dir: str, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    Path("empty.txt").write_text("")
    Path("utf16.txt").write_text("a man", encoding="utf-16")
    refused(capsys, main(["encode", model_dir, *arguments]), said)
    assert not Path("out").exists()


def test_the_command(work: object, model_dir: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["encode", model_dir, "in.txt", "out", "--precision", "int8", "--calibration-rows", "5"]
    assert main(line) == 0
    out = capsys.readouterr()
    assert "50 rows, 1 shards in" in out.out
    assert "2 empty sentences, kept" in out.out
    assert f"limit of {LIMIT} tokens" in out.out
    assert "clipped" in out.out
    assert "sentences/s" not in out.err  # no terminal, no line of progress
    assert main([*line, "--resume", "--quiet"]) == 0
    assert capsys.readouterr().out == ""


# Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress() -> None:
    now = 0.0
    stream = Terminal()
    progress = Progress(10_000, done=2_000, stream=stream, clock=lambda: now)
    now = 10.0
    progress.add(1_000, 5_000)
    assert progress.line() == "3,000 of 10,000 rows (30.0 %), 100 sentences/s, 500 tokens/s, 1 min left"
    for _ in range(190):
        now += 1
        progress.add(10, 0)
    assert " 10 sentences/s" in progress.line()  # the last minute
    progress.close()
    assert stream.getvalue().startswith("\r3,000 of")
    quiet = io.StringIO()
    Progress(10, stream=quiet).add(5, 5)
    Progress(10, stream=Terminal(), show=False).add(5, 5)
    assert quiet.getvalue() == ""
    assert duration(3599) == "1 h 0 min"


# Processes


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
