"""The command line as people expect it: examples that parse, JSON for scripts, quiet runs, completion, the doctor."""

from __future__ import annotations

import json
import logging
import os
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import tiny
import torch
from transformers.utils.logging import is_progress_bar_enabled

from lacos_st import blockwise, doctor, training
from lacos_st.cli import COMMANDS, TOUR, build_parser, main
from lacos_st.commands import completion
from lacos_st.errors import UserError
from lacos_st.settings import TrainConfig

NAMES = [module.__name__.rpartition(".")[2] for module in COMMANDS]


def examples() -> list[str]:
    """All command lines that any help shows; of `a && b` each."""
    lines = [line for module in COMMANDS for line in module.EXAMPLES]
    lines += [line.strip().split("  ")[0] for line in TOUR.splitlines() if line.startswith("  lacos-st")]
    return [part for line in lines for part in line.split(" && ")]


@pytest.mark.parametrize("line", examples())
def test_every_example_can_be_parsed(line: str) -> None:
    words = shlex.split(line.partition(" > ")[0])
    assert words[0] == "lacos-st"
    arguments = build_parser().parse_args(words[1:])
    assert callable(arguments.run)


@pytest.mark.parametrize("name", NAMES)
def test_help_shows_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])
    shown = capsys.readouterr().out
    assert f"examples:\n  lacos-st {name}" in shown
    assert "--quiet" in shown and "--verbose" in shown


def test_help_is_a_tour_with_the_exit_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    shown = capsys.readouterr().out
    assert TOUR in shown
    for status in ("0 done", "2 something", "130 interrupted", "1 a defect"):
        assert status in shown.replace("\n", " ")
    assert "\x1b[" not in shown  # no colours off a terminal


@pytest.mark.parametrize("line", [["-q", "-v", "doctor"], ["doctor", "-q", "-v"]])
def test_quiet_and_verbose_exclude_each_other(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line) == 2
    assert "not allowed with" in capsys.readouterr().err


def test_what_is_said_may_stand_before_and_behind_the_name() -> None:
    for line in (["-q", "doctor"], ["doctor", "-q"], ["doctor", "--quiet"]):
        assert build_parser().parse_args(line).quiet
    assert build_parser().parse_args(["-v", "doctor"]).verbose


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base, eight pairs and four graded ones."""
    folder = tmp_path_factory.mktemp("line")
    tiny.model().save_pretrained(folder / "base")
    tiny.tokenizer().save_pretrained(folder / "base")
    lines = [
        f"a man walks {word}\ta man walks on the {word}" for word in "street guitar man long x in plays is".split()
    ]
    (folder / "pairs.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "sts").mkdir()
    graded = "5\ta man walks\ta man walks on\n3\ta man plays\ta guitar\n0\tthe street is long\tx\n1\tx\tguitar\n"
    (folder / "sts" / "graded.tsv").write_text(graded, encoding="utf-8")
    return folder


def train(folder: Path, *more: str) -> int:
    return main(
        ["train", "--base", str(folder / "base"), "--data", str(folder / "pairs.tsv"), "--output", str(folder / "run"),
         "--batch-size", "4", "--block-size", "32", "--max-steps", "2", "--eval-rows", "0", "--cpu", "--overwrite",
         *more]
    )  # fmt: skip


def test_a_run_as_json_has_standard_output_to_itself(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(folder, "--json", "--log-steps", "1") == 0
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert found["steps"] == 2 and found["train_rows"] == 8
    assert found["best"] is None and found["best_metric"] is None  # nothing was measured
    assert Path(found["model"]).is_dir()
    assert found["train_loss"] > 0
    assert "'loss'" in shown.err  # the trainer's log is not lost


def test_a_quiet_run_prints_its_result_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(folder, "--quiet", "--log-steps", "1") == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("8 rows, 2 steps in")
    assert shown.out.count("\n") == 1
    assert "loss" not in shown.err and "memory:" not in shown.err
    for bar in ("Loading weights", "Writing model shards", "it/s"):
        assert bar not in shown.err


def test_a_quiet_run_leaves_the_process_as_it_was(folder: Path) -> None:
    before = (dict(os.environ), logging.getLogger().level, is_progress_bar_enabled())
    assert train(folder, "--quiet") == 0
    assert (dict(os.environ), logging.getLogger().level, is_progress_bar_enabled()) == before
    assert logging.getLogger("lacos_st").level == logging.WARNING  # as of any run
    assert main(["train", "-q", "--base", "nowhere/at-all", "--data", "x", "--output", str(folder / "no")]) == 2
    assert (dict(os.environ), logging.getLogger().level, is_progress_bar_enabled()) == before


def test_quiet_hides_no_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "-q", "--base", "nowhere/at-all", "--data", "x", "--output", str(folder / "no")]) == 2
    assert capsys.readouterr().err.startswith("lacos-st: error: ")


def test_a_preset_goes_before_what_a_file_has_from_another(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runs: list[TrainConfig] = []

    def start(config: TrainConfig) -> None:
        runs.append(config)
        raise UserError("far enough")

    monkeypatch.setattr(training, "train", start)
    values = {"base": "b", "data": "d", "output": "o", "dtype": "bfloat16", "scale": 30, "lora_rank": 8}
    file = folder / "written.yaml"
    file.write_text(TrainConfig.from_mapping(values).resolved().to_yaml())
    for more in ([], ["--preset", "paper"], ["--preset", "best", "--lora-rank", "2"]):
        assert main(["train", "--config", str(file), *more]) == 2
    first, same, best = runs
    assert first == same == TrainConfig.from_mapping(values).resolved()
    assert best == TrainConfig.from_mapping({**values, "preset": "best", "lora_rank": 2}).resolved()
    said = [record.getMessage() for record in caplog.records if "stays" in record.getMessage()]
    assert said == [f"of {file} stays, in place of what preset best says: scale 30.0; remove it there to change that"]


def test_what_the_checkpoint_was_chosen_by_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graded = ["--eval-sts", str(folder / "sts" / "graded.tsv"), "--max-steps", "1"]
    graded += ["--eval-rows", "500"]  # a tenth of eight rows at most: none for the loss
    assert train(folder, *graded, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["best"] == "sts"
    assert train(folder, *graded) == 0
    assert f", best sts {found['best_metric']:.4f} at 1: " in capsys.readouterr().out.splitlines()[-1]


def test_scores_as_json_are_those_of_the_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["evaluate", str(folder / "base"), "--data", str(folder / "sts")]
    assert main([*line, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (task,) = found["models"][0]["tasks"]
    assert task["task"] == "graded" and task["pairs"] == 4
    assert main(line) == 0
    assert f"{task['spearman']['cosine']:.2f}" in capsys.readouterr().out


def test_memory_as_json_is_that_of_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["memory", "bloom-560m", "--method", "lacos", "--budget", "2GiB"]
    assert main([*line, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["budget_bytes"] == 2**31
    assert main(line) == 0
    table = capsys.readouterr().out
    for row in found["rows"]:
        assert row["fits"] == (row["peak_bytes"] <= 2**31)
        (shown,) = [text for text in table.splitlines() if text.startswith(row["what"] + "  ")]
        assert shown.endswith(str(row["largest_batch"])) and row["reached_at"] in shown


def test_encoding_as_json(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.txt").write_text("a man\na street\n", encoding="utf-8")
    assert main(["encode", "bloom-nano", str(tmp_path / "in.txt"), str(tmp_path / "out"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["new_rows"], found["output"]) == (2, 2, str(tmp_path / "out"))


def test_bash_completes_commands_and_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab", reason='shtab is not installed: pip install "lacos_st[completion]"')
    assert main(["completion", "bash"]) == 0
    (tmp_path / "complete").write_text(capsys.readouterr().out, encoding="utf-8")
    script = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
_shtab_lacos_st; printf '%s\\n' "${COMPREPLY[@]}"
"""

    def complete(*words: str) -> list[str]:
        line = ["bash", "-c", script, "bash", str(tmp_path / "complete"), *words]
        return subprocess.run(line, capture_output=True, text=True, check=True).stdout.split()

    assert complete("lacos-st", "enc") == ["encode"]
    assert set(NAMES) <= set(complete("lacos-st", ""))
    assert complete("lacos-st", "train", "--lora-r") == ["--lora-rank"]
    assert complete("lacos-st", "completion", "z") == ["zsh"]


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_each_shell_has_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab", reason='shtab is not installed: pip install "lacos_st[completion]"')
    assert main(["completion", shell]) == 0
    shown = capsys.readouterr().out
    assert "lacos-st" in shown and "evaluate" in shown


def test_without_shtab_the_extra_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert 'pip install "lacos_st[completion]"' in capsys.readouterr().err


def test_the_doctor_finds_this_machine_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--offline", "--json"]) == 0
    found = {one["what"]: one for one in json.loads(capsys.readouterr().out)}
    assert found["torch"]["said"].startswith(metadata.version("torch"))
    for what in ("8-bit storage on cpu", "8-bit Adam on cpu", "attention on cpu", "embedded model"):
        assert found[what]["works"] is True, found[what]
    assert found["attention on cpu"]["said"] == "by torch CPU, in float32"
    assert found["hub"]["said"] == "not asked"


def test_a_kernel_that_computes_nonsense_is_found(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = blockwise.dequantize
    monkeypatch.setattr(blockwise, "dequantize", lambda *args, **options: right(*args, **options) * 1.1)
    assert main(["doctor", "--offline"]) == 2
    shown = capsys.readouterr()
    assert "FAILS 8-bit storage on cpu: RuntimeError: a weight comes back with a relative error of 0.1" in shown.out
    assert "8-bit storage on cpu" in shown.err and "8-bit Adam" not in shown.err


def test_an_optimiser_that_does_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from bitsandbytes.optim import AdamW8bit

    monkeypatch.setattr(AdamW8bit, "step", lambda self, closure=None: None)
    found = doctor.tried("Adam", lambda: doctor.adam("cpu"))
    assert found.works is False and "moved the weights by" in found.said


def test_a_version_out_of_range_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "0.1" if name == "peft" else real(name))
    monkeypatch.setattr(metadata, "requires", lambda name: ["peft>=0.19.1,<1", 'gguf>=0.17; extra == "gguf"'])
    found = {one.what: one for one in doctor.packages()}
    assert found["peft"].works is False
    assert found["peft"].advice == 'pip install "peft>=0.19.1,<1"'
    assert found["extra ray"].advice == 'pip install "lacos_st[ray]"'  # not among what is declared here


@pytest.mark.parametrize("error", [OSError("no route"), RuntimeError("proxy")])
def test_a_hub_out_of_reach_is_no_failure(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    from huggingface_hub import constants, utils

    class Session:
        def head(self, url: str, timeout: float) -> None:
            assert url == constants.ENDPOINT and timeout <= 10
            raise error

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(utils, "get_session", Session)
    found = doctor.hub_access()
    assert found.works is None and type(error).__name__ in found.said and "HF_ENDPOINT" in found.advice
    monkeypatch.setattr(Session, "head", lambda self, url, timeout: None)
    assert doctor.hub_access().works is True
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in doctor.hub_access().said


def test_devices_are_named() -> None:
    found = list(doctor.devices())
    assert found[0].what == "CPU" and "cores" in found[0].said
    if not torch.cuda.is_available():
        assert found[1].said.startswith("none that torch sees")
