"""Importing the package registers it; the command line puts that off until a command runs, and answers help at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from test_imports import HEAVY

import lacos_st
from lacos_st import registration

SCRIPT = "import sys\nfrom lacos_st.cli import main\nif __name__ == '__main__':\n    sys.exit(main())\n"
LATER = """
import sys
import lacos_st
assert "torch" not in sys.modules and "layer_errors" not in vars(lacos_st)
from lacos_st.cli import main
assert main(["-q", "encode", *sys.argv[1:]]) == 0
from sentence_transformers.base.model import BaseModel
assert BaseModel._module_classes["lacos_st.transformer.BloomLoRA8bit"] is lacos_st.BloomLoRA8bit
assert callable(lacos_st.layer_errors)  # and not the file of that name
"""
CHILDREN = """
import sys
import multiprocessing
import lacos_st

def registered():
    return "lacos_st.registration" in sys.modules

if __name__ == "__main__":
    assert not registered()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(registered)
"""


def run(*line: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *line], capture_output=True, text=True, check=True, timeout=300)


@pytest.mark.parametrize("asked", [["--help"], ["--version"], ["encode", "--help"], ["completion", "bash"]])
def test_help_imports_nothing_heavy(asked: list[str], tmp_path: Path) -> None:
    script = tmp_path / "lacos-st"
    script.write_text(SCRIPT, encoding="utf-8")
    for start in (["-m", "lacos_st"], [script]):
        done = run("-X", "importtime", *start, *asked)
        imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
        assert "argparse" in imported and "lacos" in done.stdout
        assert not imported & HEAVY


def test_a_command_loads_a_saved_model(tiny_bloom_dir: str, tmp_path: Path) -> None:
    lacos_st.encoder(tiny_bloom_dir, block_size=64, device="cpu").save_pretrained(str(tmp_path / "model"))
    (tmp_path / "texts.txt").write_text("one\ntwo\n", encoding="utf-8")
    script = tmp_path / "lacos-st"
    script.write_text(LATER, encoding="utf-8")
    done = run(script, *(str(tmp_path / name) for name in ("model", "texts.txt", "vectors")))
    assert done.stderr == "" and (tmp_path / "vectors").is_dir()


@pytest.mark.slow
def test_a_process_that_the_command_line_starts_is_registered(tmp_path: Path) -> None:
    script = tmp_path / "lacos-st"
    script.write_text(CHILDREN, encoding="utf-8")
    run(script)


@pytest.mark.parametrize(
    ("argv", "started", "expected"),
    [
        (["/bin/lacos-st", "--help"], ["python", "/bin/lacos-st", "--help"], True),
        (["C:\\lacos-st.exe"], ["python.exe", "C:\\lacos-st.exe"], sys.platform == "win32"),
        (["lacos-st.exe"], ["python.exe", "lacos-st.exe"], True),
        (["-m", "--help"], ["python", "-X", "dev", "-m", "lacos_st", "--help"], True),
        (["-m", "lacos_st"], ["python", "-m", "lacos_st.bench", "lacos_st"], False),
        (["-m", "lacos_st"], ["python", "-m", "torch.distributed.run", "-m", "lacos_st"], False),
        (["-c"], ["python", "-c", "import lacos_st"], False),
        (["train.py", "lacos-st"], ["python", "train.py", "lacos-st"], False),
        (["/bin/lacos-st"], ["python", "-c", "from multiprocessing.spawn import spawn_main", "fork"], False),
        ([""], ["python"], False),
        ([], ["python"], False),
    ],
)
def test_the_command_line_is_known(
    argv: list[str], started: list[str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", started)
    assert lacos_st._is_command_line() == expected


def test_the_names_are_those_of_the_registration() -> None:
    for name in lacos_st.__all__:
        assert getattr(lacos_st, name) is getattr(registration, name)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = lacos_st.nonsense
