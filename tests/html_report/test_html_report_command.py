"""`lacos-st report` from the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from html_report.report_parts import EVIL, log, write_run
from lacos_st.cli import main
from lacos_st.errors import UserError


def test_a_page_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, page = write_run(tmp_path / "run", log()), tmp_path / "new" / "page.html"
    line = ["report", folder, "--output", str(page), "--title", EVIL]
    assert main(line) == 0
    out = capsys.readouterr().out
    assert "curves of 1 run, memory of 1 run\n" in out
    assert "left out: Scores: no results.json" in out
    text = page.read_text(encoding="utf-8")
    assert EVIL not in text
    assert "No model was named" not in text
    assert 'http-equiv="Content-Security-Policy" content="default-src \'none\';' in text
    assert main(line) == 2
    assert "exists: choose another place, or say --overwrite" in capsys.readouterr().err
    assert main([*line, "--overwrite", "--json", "--skip", "memory"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["page"], told["shown"]) == (str(page), ["curves of 1 run"])
    assert told["bytes"] == page.stat().st_size
    assert "Memory: skipped, as asked." in told["left_out"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "run"], "given 2 times"),
        (["run", "--skip", "charts"], "there is no section charts"),
        (["run", "--skip", "curves", "memory"], "there is nothing to show"),
        (["run", "--output", "."], "is a folder"),
        (["run", "--sentences", "gone.txt"], "gone.txt cannot be read"),
        (["run", "--device", "cuda:99"], "device 'cuda:99' cannot be used here"),
    ],
)
def test_what_cannot_be_shown_leaves_no_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "run", log())
    assert main(["report", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_base_or_model_that_cannot_be_loaded_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "run", log())
    (tmp_path / "run" / "model").mkdir()
    (tmp_path / "run" / "model" / "modules.json").write_text("[]")
    assert main(["report", folder, "--quantization", "--output", str(tmp_path / "p.html"), "--json"]) == 0
    left_out = "\n".join(json.loads(capsys.readouterr().out)["left_out"])
    assert "Quantisation error: bloom-nano is quantised already" in left_out
    assert left_out.count("Similarity: ") == left_out.count("Quantisation error: ") == 1, "one reason each"


def test_without_vl_convert_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lacos_st.html_report.assemble import library

    library.cache_clear()
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(UserError, match=r"pip install 'lacos_st\[report\]'"):
        library()
