"""What a run tells beside its log: its peak of memory in the last line, and the stock trackers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny

from lacos_st import peak
from lacos_st.cli import main
from lacos_st.html_report.inputs import read_inputs
from lacos_st.html_report.memory import memory_section
from lacos_st.peak import PeakMemory
from lacos_st.recipe.memory import PARTS
from lacos_st.runs import read_log

MIB = 2**20


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps that also told TensorBoard."""
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed: pip install tensorboardX")
    folder = tmp_path_factory.mktemp("trackers")
    tiny.save(folder / "base")
    (folder / "pairs.tsv").write_text("".join(f"a man walks {i}\ta man {i}\n" for i in range(24)), encoding="utf-8")
    line = [
        "train",
        "--base",
        str(folder / "base"),
        "--data",
        str(folder / "pairs.tsv"),
        "--output",
        str(folder / "out"),
    ]
    line += ["--block-size", "64", "--batch-size", "8", "--max-steps", "2", "--eval-rows", "2", "--log-steps", "1"]
    assert main([*line, "--cpu", "--quiet", "--report-to", "tensorboard"]) == 0
    return folder / "out"


def test_tensorboard_is_told_what_the_log_holds(trained: Path) -> None:
    from tensorboardX.proto.event_pb2 import Event

    (file,) = trained.rglob("events.out.tfevents.*")
    content, events = file.read_bytes(), []
    while content:  # length, its checksum, the event, its checksum
        length = int.from_bytes(content[:8], "little")
        events.append(Event.FromString(content[12 : 12 + length]))
        content = content[16 + length :]
    told = {(value.tag, event.step): value.simple_value for event in events for value in event.summary.value}
    logged = [row for row in read_log(trained / "log.jsonl") if "loss" in row]
    assert len(logged) == 2
    for row in logged:
        assert told["train/loss", row["step"]] == pytest.approx(row["loss"])


def test_the_last_line_holds_memory_and_no_other_does(trained: Path) -> None:
    *rows, last = read_log(trained / "log.jsonl")
    assert not any("peak_bytes" in row or "predicted_peak_bytes" in row for row in rows)
    parts = [last[f"predicted_{name}_bytes"] for name in PARTS]
    assert max(parts) < last["predicted_peak_bytes"] < sum(parts) + 64 * MIB
    section = memory_section([run for _, run in read_inputs([str(trained)]).runs])
    assert section is not None
    bars = section.charts["memory"]["data"]["values"]
    predicted = sum(bar["mib"] for bar in bars if bar["kind"] == "predicted")
    assert predicted == pytest.approx(last["predicted_peak_bytes"] / MIB)
    if "peak_bytes" in last:  # not where a test before this one took more
        assert last["measured"] == "resident"
        assert last["peak_bytes"] > last["before_bytes"] > 0


def test_a_peak_is_the_runs_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status = tmp_path / "status"
    monkeypatch.setattr(peak, "STATUS", status)

    def say(resident: int, highest: int) -> None:
        status.write_text(f"Name:\tx\nVmHWM:\t  {highest} kB\nVmRSS:\t  {resident} kB\n")

    say(100, 150)
    memory = PeakMemory(cpu=True)
    assert memory.figures() == {}, "something before took more"
    say(120, 180)
    assert memory.figures() == {"measured": "resident", "peak_bytes": 180 * 1024, "before_bytes": 100 * 1024}
    status.write_text("Name:\tx\n")
    assert PeakMemory(cpu=True).figures() == memory.figures() == {}
    status.unlink()
    assert PeakMemory(cpu=True).figures() == {}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["wandb"], "report_to is wandb, which is not installed: pip install wandb"),
        (["mlflow"], "report_to is mlflow: expected none, or of tensorboard, wandb"),
        (["none", "wandb"], "give none alone"),
    ],
)
def test_trackers_that_cannot_be_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: list[str], said: str
) -> None:
    monkeypatch.setattr("lacos_st.trackers.find_spec", lambda name: None)
    line = ["train", "--base", "bloom-nano", "--data", "pairs.tsv", "--output", str(tmp_path / "out")]
    assert main([*line, "--report-to", *given]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_run_keeps_what_it_reports_to(trained: Path) -> None:
    assert "report_to:\n- tensorboard" in (trained / "train.yaml").read_text()
    assert main(["train", "--output", str(trained), "--resume", "--report-to", "none", "--quiet"]) == 0
    assert json.loads((trained / "log.jsonl").read_text().splitlines()[-1])["step"] == 2
