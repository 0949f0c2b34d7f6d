"""Wrong files, places and devices on the command line: one line of error that says what, where and what to do."""

from __future__ import annotations

import errno
import logging
from pathlib import Path

import pytest

from lacos_st import cli
from lacos_st.cli import main
from lacos_st.errors import UserError
from lacos_st.evaluation import evaluate
from lacos_st.models import load_model
from lacos_st.sts import StsTask, load_task_file

PAIRS = [(f"a man walks {i}", f"the man plays {i}") for i in range(12)]
LONG = "x" * 5000


@pytest.fixture
def folder(tmp_path: Path, tiny_bloom_dir: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").symlink_to(tiny_bloom_dir)
    (tmp_path / "pairs.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in PAIRS))
    (tmp_path / "sts").mkdir()
    (tmp_path / "sts" / "one.tsv").write_text("".join(f"{i % 5}\t{a}\t{b}\n" for i, (a, b) in enumerate(PAIRS)))
    return tmp_path


def train(*more: str, data: str = "pairs.tsv", output: str = "out") -> list[str]:
    line = ["train", "--base", "base", "--data", data, "--output", output, "--block-size", "64", "--batch-size", "4"]
    return [*line, "--eval-rows", "0", "--max-steps", "1", "--cpu", "--no-progress", *more]


def said(capsys: pytest.CaptureFixture[str], line: list[str]) -> str:
    assert main(line) == 2
    error = capsys.readouterr().err
    assert error.count("lacos-st: error: ") == 1
    assert "Traceback" not in error
    return error


@pytest.mark.parametrize("device", ["cp", "cuda:99", "meta", ""])
def test_a_device_that_is_not_here(folder: Path, capsys: pytest.CaptureFixture[str], device: str) -> None:
    error = said(capsys, ["evaluate", "base", "--data", "sts", "--device", device])
    assert f"device {device!r} cannot be used here" in error
    assert "choose cpu" in error


@pytest.mark.parametrize("size", ["0", "-1"])
def test_a_batch_of_nothing(folder: Path, capsys: pytest.CaptureFixture[str], size: str) -> None:
    line = ["evaluate", "base", "--data", "sts", "--device", "cpu", "--batch-size", size]
    assert f"batch_size is {size}: expected 1 or more" in said(capsys, line)


@pytest.mark.parametrize(
    "line",
    [
        ["evaluate", LONG, "--data", "sts"],
        ["evaluate", "base", "--data", LONG],
        ["evaluate", "base", "--data", "sts", "--output", LONG, "--device", "cpu"],
        ["memory", LONG],
        ["cost", LONG, "--pairs", "100"],
        train(data=LONG),
        train(output=LONG),
        train("--eval-sts", LONG, "--best", "sts"),
        train("--exclude-sts", LONG),
    ],
    ids=lambda line: " ".join(line)[:20] + line[-1][:6],
)
def test_a_name_that_no_file_can_have(folder: Path, capsys: pytest.CaptureFixture[str], line: list[str]) -> None:
    error = said(capsys, line)
    assert "ile name too long" in error
    assert len(error) < 2000


def test_a_folder_below_a_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["evaluate", "base", "--data", "sts", "--output", "pairs.tsv/x", "--device", "cpu"]
    assert "Not a directory" in said(capsys, line)
    assert "Not a directory" in said(capsys, train(output="pairs.tsv/x"))


def test_an_error_of_the_system_that_names_no_file_is_ours_to_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object) -> None:
        raise OSError(errno.EBADF, "no file is named")

    monkeypatch.setattr(cli.argparse.Namespace, "run", run, raising=False)
    parsed = cli.argparse.Namespace(verbose=False, quiet=False)
    monkeypatch.setattr(cli.argparse.ArgumentParser, "parse_args", lambda *_: parsed)
    with pytest.raises(OSError, match="no file is named"):
        main([])


def test_duplicates_that_are_left_out_are_counted(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (folder / "pairs.tsv").open("a") as file:
        file.write("".join(f"{a}\t{b}\n" for a, b in PAIRS[:5]))
    assert main(train()) == 0
    assert "12 rows, 5 duplicates and 0 over the limit left out" in caplog.text


def test_lines_that_end_in_cr_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("old.tsv", "old.csv"):
        text = (folder / "pairs.tsv").read_text().replace("\n", "\r").replace("\t", "\t" if "tsv" in name else ",")
        (folder / name).write_bytes(text.encode())
        assert "CR" in said(capsys, train(data=name))
    (folder / "sts" / "one.tsv").write_bytes(b"1\ta\tb\r2\n3\tc\td\n")
    assert "line 1: a CR without its LF" in said(capsys, ["evaluate", "base", "--data", "sts", "--device", "cpu"])
    (folder / "old.txt").write_bytes(b"a man\rthe man\r")
    for name in ("old.tsv", "old.csv", "old.txt"):  # of which all but the first row would be gone
        assert "CR without its LF" in said(capsys, ["encode", "base", name, "out", "--column", "1", "--device", "cpu"])


def test_sentences_that_evaluate_cuts_are_counted(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = load_model(str(folder / "base"), device="cpu")
    model.max_seq_length = 8
    first, second = ("a man " * 9, "guitar", "x"), ("a man", "guitar " * 12, "y")
    task = StsTask("one", "sts", "en-en", first, second, (1.0, 2.0, 3.0), (0.0, 5.0))
    with caplog.at_level(logging.WARNING, "lacos_st"):
        evaluate({"tiny": model}, tasks=[task])
    (line,) = [record.getMessage() for record in caplog.records if record.name.startswith("lacos_st")]
    longest = max(len(ids) for ids in model.tokenizer([*first, *second], truncation=False).input_ids)
    assert line.startswith("tiny: 2 of 6 sentences are longer than the model's limit of 8 tokens (the longest: ")
    assert f"the longest: {longest})" in line
    caplog.clear()
    model.max_seq_length = 64
    evaluate({"tiny": model}, tasks=[task])
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_score_that_is_no_number_is_said_plainly(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (folder / "sts" / "one.tsv").open("a") as file:
        file.write("nan\ta\tb\n")
    error = said(capsys, ["evaluate", "base", "--data", "sts", "--device", "cpu"])
    assert "one.tsv, line 13: score 'nan' is not a finite number (1 malformed, 12 usable rows): mend them" in error


def test_a_field_that_is_not_there_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ['{"anchor": "a", "positive": "b"}', '{"anchor": "a"}', '{"anchor": "a", "positive": null}']
    (folder / "rows.jsonl").write_text("\n".join(lines))
    error = said(capsys, train(data="rows.jsonl"))
    assert "line 2: no positive; line 3: expected text, found None (2 malformed, 1 usable rows)" in error


def test_the_folder_of_a_run_is_told_from_its_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "run" / "model").mkdir(parents=True)
    (folder / "run" / "model" / "modules.json").write_text("[]")
    error = said(capsys, ["evaluate", "run", "--data", "sts", "--device", "cpu"])
    assert "run: the folder of a training run, not a model: name run/model" in error


def test_a_revision_of_an_embedded_base(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = said(capsys, train("--base", "bloom-nano", "--revision", "abc"))
    assert "revision is for a base from the hub: bloom-nano comes with the package" in error


def test_the_devices_that_are_here(tiny_bloom_dir: str) -> None:
    load_model(tiny_bloom_dir, device="cpu")
    with pytest.raises(UserError, match="device 'cp' cannot be used here"):
        load_model(tiny_bloom_dir, device="cp")


def test_other_files_beside_the_graded_one_do_not_matter(folder: Path) -> None:
    for name in ("one.csv", "pairs.csv", "pairs.tsv"):
        (folder / "sts" / name).write_text("anchor\tpositive\n")
    (folder / "sts" / "en").mkdir()
    assert load_task_file(folder / "sts" / "one.tsv").sentences1[0] == PAIRS[0][0]
    (folder / "sts" / "one.txt").write_text("1\ta\tb\n2\tc\td\n")
    with pytest.raises(UserError, match="one.txt ends in neither"):
        load_task_file(folder / "sts" / "one.txt")


@pytest.mark.parametrize("seed", ["-1", "4294967296", "99999999999"])
def test_a_seed_that_no_generator_takes(folder: Path, capsys: pytest.CaptureFixture[str], seed: str) -> None:
    assert f"seed is {seed}: expected 0 to 4294967295" in said(capsys, train("--seed", seed))
    if seed == "-1":
        assert "seed is -1: expected 0 or more" in said(capsys, ["fit", "runs.csv", "--seed", seed])


def test_the_largest_seed_trains(folder: Path) -> None:
    assert main(train("--seed", "4294967295")) == 0
