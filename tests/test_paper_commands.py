"""The command lines of the paper's experiments: what they are by default, what they refuse, and their page."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from lacos_st.errors import UserError

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # for benchmarks, which are not installed

from benchmarks import rows  # noqa: E402
from benchmarks.paper import grid, hours, names, study, table1  # noqa: E402
from benchmarks.paper import options as command_line  # noqa: E402

COMMANDS = ("table1", "table2", "figure4", "grid", "xsts")
WRONG = {
    "two sizes": ("table2", ["--bases", "a", "b"], "the ablation is at one size"),
    "one rank": ("figure4", ["--ranks", "4"], "two ranks or more"),
    "a rank of none": ("figure4", ["--ranks", "0", "4"], "lora_rank is 0"),
    "many bases": ("table1", ["--bases", *"abcdefg"], "at most 6 with --bases"),
    "one label twice": ("table1", ["--bases", "a/x", "b/x"], "--bases has x twice"),
    "no grid": ("table1", ["--from-grid"], "has no row of"),
    "a grid's own": ("grid", ["--train", "lacos.lr=1"], "lr is set by the experiment, by an option of its own"),
    "no value": ("grid", ["--train", "lr"], "expected OPTION=VALUE"),
    "no method": ("grid", ["--train", "lacoss.lr=1"], "expected OPTION=VALUE or METHOD"),
    "no option": ("grid", ["--train", "seeed=1"], "unknown option 'seeed': did you mean 'seed'"),
    "no number": ("grid", ["--train", "seed=fast"], "expected a whole number"),
    "its own": ("grid", ["--train", "base=x"], "base is set by the experiment"),
    "no data": ("grid", ["--data", "missing.tsv"], "no file or folder 'missing.tsv'"),
    "no steps": ("grid", ["--max-steps", "0"], "max_steps is 0"),
    "a word": ("grid", ["--max-steps", "ten"], "invalid int value: 'ten'"),
    "an unknown flag": ("xsts", ["--languages", "de"], "unrecognized arguments"),
    "an unknown method": ("table2", ["--methods", "sbert"], "invalid choice: 'sbert'"),
    "one method's split": ("table2", ["--train", "lacos.seed=1"], "seed decides which rows are held out"),
    "one method's rows": ("table2", ["--train", "lora.max_rows=9"], "give max_rows=9 for all"),
    "none held out": ("grid", ["--train", "eval_rows=0"], "eval_rows=0: a validation loss needs 8 rows or more"),
    "no tasks": ("table1", ["--sts", "missing"], "missing: no such folder"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_line_and_leaves_nothing(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, more, message = WRONG[case]
    module = importlib.import_module(f"benchmarks.paper.{name}")
    data = tmp_path / "pairs.tsv"
    data.write_text("a man\tplays\n")
    given_ = ["--output", str(tmp_path / "out"), "--results", str(tmp_path / "out"), "--data", str(data), *more]
    with pytest.raises(SystemExit) as left:
        command_line.main(module.run, given_)
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert message in said
    assert not list((tmp_path).rglob("paper_*"))
    assert not (tmp_path / "out" / "runs").exists()


def test_an_output_that_is_a_file_or_in_use_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    planned: Any = study.Study("grid", (), "b", (), (), None, (), {}, {}, file, tmp_path, False)
    with pytest.raises(UserError, match="is a file"), planned.alone():
        pass
    planned = study.Study("grid", (), "b", (), (), None, (), {}, {}, tmp_path, tmp_path, False)
    with planned.alone(), pytest.raises(UserError, match="another run is at work"), planned.alone():
        pass


def test_too_few_held_out_pairs_are_refused(tiny_bloom_dir: str, tmp_path: Path) -> None:
    data = tmp_path / "pairs.tsv"
    data.write_text("".join(f"a man {i}\tplays {i}\n" for i in range(30)))
    with pytest.raises(UserError, match="has 3 pairs without a sentence that stands in two"):
        grid.run(["--bases", tiny_bloom_dir, "--data", str(data), "--output", str(tmp_path / "o"), "--results",
                  str(tmp_path / "r"), "--max-steps", "2", "--train", "cpu=true"])  # fmt: skip


def test_the_papers_own_run_is_the_default() -> None:
    planned = command_line.study("table1", table1.options().parse_args([]), table1.DEFAULTS)
    found = table1.cells(planned, with_zero_shot=False, from_grid=False)
    assert [cell.config.base for cell in found] == [names.MBERT, *names.BLOOM]
    assert [cell.method for cell in found] == ["sbert", *["lacos"] * 5]
    assert [cell.config.lora_rank for cell in found] == [0, 4, 4, 4, 4, 1]
    assert {(cell.config.epochs, cell.config.max_steps, cell.config.lora_targets) for cell in found} == {
        (1.0, None, ("paper",))
    }
    planned = command_line.study("grid", grid.options().parse_args([]), grid.DEFAULTS)
    every = grid.cells(planned, grid.BATCH_SIZES, grid.RATES, grid.RANKS)
    assert len(every) == 5 * 2 * 3 * 5 == len({cell.name for cell in every})
    assert planned.results == rows.RESULTS


def test_a_row_that_a_killed_process_left_unfinished_goes(tmp_path: Path) -> None:
    first = rows.append("b", folder=tmp_path, figure=1)
    file = tmp_path / "b.jsonl"
    with file.open("a") as opened:
        opened.write('{"benchmark": "b", "fig')
    assert rows.read("b", folder=tmp_path) == [first]
    second = rows.append("b", folder=tmp_path, figure=2)
    assert rows.read("b", folder=tmp_path) == [first, second]
    file.write_text(json.dumps(first))  # whole, but for its line end
    assert rows.read("b", folder=tmp_path) == [first]
    rows.append("b", folder=tmp_path, figure=2)
    assert len(rows.read("b", folder=tmp_path)) == 2


README = (ROOT / "benchmarks" / "paper" / "README.md").read_text(encoding="utf-8")


def test_the_page_has_every_option_and_the_hours_as_computed() -> None:
    for name in COMMANDS:
        assert f"benchmarks.paper.{name}" in README
        parser = importlib.import_module(f"benchmarks.paper.{name}").options()
        for action in parser._actions:
            assert any(f"`{flag}" in README for flag in action.option_strings), action.option_strings
    assert hours.rewrite(README) == README, "run `python -m benchmarks.paper.hours --write`"
    with pytest.raises(ValueError, match="lacks the marker lines"):
        hours.rewrite("no markers")
