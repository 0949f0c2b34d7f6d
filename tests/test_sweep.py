from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from datasets import Dataset
from torch.nn.functional import cross_entropy, normalize

from lacos_st import training
from lacos_st.bench import Bench, distinct_pairs, mean_loss
from lacos_st.cli import main
from lacos_st.errors import UserError
from lacos_st.methods import build_model
from lacos_st.recipe.choice import common_config, conditions
from lacos_st.recipe.grid import Grid
from lacos_st.recipe.runs_table import Run, read_runs
from lacos_st.recipe.trials import Trial
from lacos_st.sweep import Sweep, conditions_file

WORDS = "a man plays guitar street is long and walks x the on in at by dog cat red house sings".split()


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two sizes, 32 and 64 wide."""
    folders = []
    for hidden in (64, 32):  # the larger first: the sweep sorts them
        folder = tmp_path_factory.mktemp(f"tiny-{hidden}")
        tiny.model(hidden=hidden).save_pretrained(folder)
        tiny.tokenizer().save_pretrained(folder)
        folders.append(str(folder))
    return folders


@pytest.fixture
def options(bases: list[str], tmp_path: Path) -> dict[str, Any]:
    rng = random.Random(0)
    pairs = [rng.sample(WORDS, 6) for _ in range(150)]
    lines = ["\t".join((" ".join(words), " ".join(reversed(words[:4])))) for words in pairs]
    (tmp_path / "pairs.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    graded = ["5\ta man walks\ta man walks on", "3\ta man plays\ta guitar", "0\tthe street is long\tx", "1\tx\tguitar"]
    (tmp_path / "graded.tsv").write_text("\n".join(graded) + "\n", encoding="utf-8")
    return {
        "family": "tiny",
        "bases": bases,
        "budgets": ["5e7", "2e8", "1e12"],
        "methods": ["full lr=3e-3", "lora rank=2 lr=1e-2"],
        "seeds": [0],
        "data": str(tmp_path / "pairs.tsv"),
        "output": str(tmp_path / "runs.csv"),
        "held_out_rows": 8,
        "held_out_batch": 4,
        "sts": str(tmp_path / "graded.tsv"),
        "sts_rows": 3,
        "train": {"batch_size": 4, "symmetric": True, "optimizer": "adamw", "cpu": True, "max_seq_length": 8},
    }


def write(options: dict[str, Any], **changes: Any) -> list[str]:
    """The command line for a grid."""
    import yaml

    file = Path(options["output"]).with_name("grid.yaml")
    file.write_text(yaml.safe_dump({**options, **changes}), encoding="utf-8")
    return ["sweep", "--config", str(file)]


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what does not depend on training: runs as they are, without it."""
    from lacos_st import training

    monkeypatch.setattr(training, "fit_", lambda model, config, rows: 1.0)


def without_seconds(runs: list[Run]) -> list[tuple[Any, ...]]:
    return sorted((*run.key, run.loss, run.sts_dev, run.tokens, run.reached) for run in runs)


@pytest.mark.usefixtures("untrained")
def test_a_sweep_stops_anywhere_and_goes_on(
    options: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line, table, stock = write(options), Path(options["output"]), Bench.run
    assert main([*line, "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("12 runs: 0 have their row, 12 are left, 4 have too little data")
    assert not table.exists()
    done: list[Trial] = []

    def interrupted(self: Bench, trial: Trial) -> Run:
        run = stock(self, trial)  # what is lost is a run that was trained already
        done.append(trial)
        if len(done) == 6:
            raise KeyboardInterrupt
        return run

    with monkeypatch.context() as patch:
        patch.setattr(Bench, "run", interrupted)
        assert main(line) == 130
    first = read_runs(table)
    assert [run.key for run in first] == [trial.key for trial in done[:5]]
    assert main(line) == 0
    runs = read_runs(table)
    assert runs[:5] == first
    assert len(runs) == 12
    text = table.read_text()
    assert main(line) == 0
    assert table.read_text() == text
    assert capsys.readouterr().out.endswith(f"have too little data for their budget\ncomplete: {table}\n")
    trained = [run for run in runs if run.reached]
    assert [run.budget_flops for run in trained] == [5e7] * 4 + [2e8] * 4
    for run in trained:  # each has what its budget buys, to a pair's tokens
        assert abs(run.flops_per_token * run.tokens - run.budget_flops) <= run.flops_per_token * 10
        assert run.loss is not None
        assert run.sts_dev is not None
    assert all(run.loss is None and run.budget_flops == 1e12 for run in runs if not run.reached)
    assert len({run.tokens for run in runs if not run.reached}) == 1  # all there is


def test_a_run_learns_and_is_the_same_again_and_with_another_seed_another(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"budgets": ["6e7"], "methods": ["full lr=1e-2"], "bases": options["bases"][1:]}
    assert main(write(options, **small, seeds=[0, 1])) == 0
    assert main(write(options, **small, output=str(tmp_path / "again.csv"))) == 0
    monkeypatch.setattr("lacos_st.training.fit_", lambda model, config, rows: 1.0)
    assert main(write(options, **small, output=str(tmp_path / "untrained.csv"))) == 0
    runs, again = read_runs(options["output"]), read_runs(tmp_path / "again.csv")
    (untrained,) = read_runs(tmp_path / "untrained.csv")
    assert without_seconds(runs[:1]) == without_seconds(again)
    assert runs[0].loss != runs[1].loss
    assert untrained.loss is not None
    assert all(run.loss is not None and run.loss < 0.97 * untrained.loss for run in runs)


@pytest.mark.usefixtures("untrained")
def test_a_failing_run_is_reported_and_the_others_have_their_rows(
    options: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lacos_st import training

    def failing(model: Any, config: Any, rows: Any) -> float:
        if config.method == "full":
            raise UserError("the loss was nan at step 3")
        return 1.0

    line = write(options, budgets=["5e7"])
    with monkeypatch.context() as patch:
        patch.setattr(training, "fit_", failing)
        assert main(line) == 2
    said = capsys.readouterr()
    assert "full lr=0.003, 5e+07 FLOP, seed 0: FAILED: the loss was nan at step 3" in said.out
    assert "2 of 4 runs failed and have no row" in said.err
    assert [run.method for run in read_runs(options["output"])] == ["lora", "lora"]
    assert main(line) == 0
    assert sorted(run.method for run in read_runs(options["output"])) == ["full", "full", "lora", "lora"]


def test_a_run_whose_loss_is_not_finite_has_no_row(
    options: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lacos_st import training

    stock = training.build_loss

    def broken(config: Any, model: Any) -> torch.nn.Module:
        loss = stock(config, model)
        loss.register_forward_hook(lambda module, given, value: value * float("nan"))
        return loss

    monkeypatch.setattr(training, "build_loss", broken)
    small = {"budgets": ["5e7"], "methods": ["full lr=1e-3"], "bases": options["bases"][:1]}
    assert main(write(options, **small)) == 2
    assert "lower learning rate" in capsys.readouterr().err
    assert not Path(options["output"]).exists()


@pytest.mark.parametrize("more", [{}, {"prompt": "so "}])
def test_the_loss_is_that_of_the_definition_on_the_same_pairs(options: dict[str, Any], more: dict[str, Any]) -> None:
    grid = Grid.from_mapping({**options, "train": {**options["train"], "scale": 30, "mini_batch_size": 2, **more}})
    plan, bench = Sweep.of(grid)
    held_out = [text for pair in bench.held_out for text in pair]
    assert len(set(held_out)) == 16
    assert not set(held_out) & {*bench.rows["anchor"], *bench.rows["positive"]}
    model = build_model(plan.planned[0].config).eval()
    losses = []
    for start in (0, 4):
        a, b = (
            normalize(torch.stack([model.encode(text, convert_to_tensor=True) for text in texts]), dim=1)
            for texts in zip(*bench.held_out[start : start + 4], strict=True)
        )
        logits = 30 * a @ b.T
        losses.append((cross_entropy(logits, torch.arange(4)) + cross_entropy(logits.T, torch.arange(4))) / 2)
    found = mean_loss(model, plan.planned[0].config, bench.held_out, batch_size=4)
    assert found == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)


@pytest.mark.parametrize("more", [{}, {"echo": True}, {"prompt": "so "}])
def test_tokens_are_counted_as_a_run_reads_them(options: dict[str, Any], more: dict[str, Any]) -> None:
    methods = ["lora rank=1 lr=1e-3", "lora rank=2 lr=1e-3 max_seq_length=4"]
    changed = {**options, "methods": methods, "train": {**options["train"], **more}}
    plan, bench = Sweep.of(Grid.from_mapping(changed))
    counts = {trial.config.max_seq_length: bench.supply(trial.config) for trial in plan.planned}
    assert len(counts) == 2
    for trial in plan.planned:
        read = training.sampled_lengths(trial.config, bench.rows)
        found = counts[trial.config.max_seq_length]
        assert (found.pairs, found.tokens) == (len(read[0]), sum(map(sum, read)))


def test_the_third_column_of_hard_negatives_is_not_held_out() -> None:
    rows = Dataset.from_dict({"anchor": ["a", "c", "b"], "positive": ["b", "d", "e"], "negative": ["a", "x", "y"]})
    assert distinct_pairs(rows, 3) == [("a", "b"), ("c", "d")]


@pytest.mark.usefixtures("untrained")
def test_rows_of_other_conditions_are_not_added(
    options: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    small = {"budgets": ["5e7"], "methods": ["full lr=3e-3"], "bases": options["bases"][:1]}
    assert main(write(options, **small)) == 0
    for changes, said in (
        ({"held_out_batch": 2}, "held_out_batch 4 -> 2"),
        ({"train": {**options["train"], "scale": 40}}, "train"),
        ({"data_seed": 1}, "held_out_sha256"),
    ):
        capsys.readouterr()
        assert main(write(options, **{**small, **changes})) == 2
        assert said in capsys.readouterr().err
    assert main(write(options, **{**small, "methods": ["lora rank=1"], "seeds": [5]})) == 0  # axes may grow
    assert len(read_runs(options["output"])) == 2
    conditions_file(Path(options["output"])).unlink()
    capsys.readouterr()
    assert main(write(options, **small)) == 2
    assert "is missing" in capsys.readouterr().err


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(
    "train", [{"preset": "best"}, {"lora_targets": ["query_key_value", "dense"]}, {"prompt": "x: "}]
)
def test_the_conditions_are_read_as_the_runs_had_them(options: dict[str, Any], train: dict[str, Any]) -> None:
    small = {"budgets": ["3e9"], "methods": ["lora rank=2"], "bases": options["bases"][:1], "held_out": options["data"]}
    assert main(write(options, **small, train=train)) == 0
    grid = Grid.from_mapping({**options, **small, "train": train})
    run = grid.config(base="b", method="lora", setting={"rank": 2}, seed=0)
    common = common_config(conditions(Path(options["output"])))
    its_own = ("base", "data", "output", "method", "seed", "eval_rows", "progress", "lora_rank", "lr")
    assert run == replace(common, **{name: getattr(run, name) for name in its_own})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"budgets": ["1e4"]}, "a budget too small for one step of 4 pairs"),
        ({"held_out_rows": 400}, "lower held_out_rows"),
        ({"bases": ["no-such-base"]}, "no-such-base"),
        ({"sts": "none.tsv"}, "sts none.tsv is no file"),
        ({"data": "none.tsv"}, "none.tsv"),
        ({"methods": ["freeze frozen_blocks=7"]}, "the model has 2 blocks"),
        ({"methods": ["magic"]}, "full, freeze, bias, lora, lacos"),
    ],
)
def test_a_grid_that_cannot_be_run(
    options: dict[str, Any], capsys: pytest.CaptureFixture[str], changes: dict[str, Any], said: str
) -> None:
    assert main(write(options, **changes)) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert "Traceback" not in captured.err
    assert not Path(options["output"]).exists()


@pytest.mark.thorough
@pytest.mark.slow
def test_several_processes_give_the_rows_of_one_and_sigterm_leaves_whole_rows(
    options: dict[str, Any], tmp_path: Path
) -> None:
    import signal

    threads = torch.get_num_threads()
    try:  # rows are equal for equal threads only
        assert main(write(options, threads=1)) == 0
    finally:
        torch.set_num_threads(threads)
    one = read_runs(options["output"])
    line = [sys.executable, "-m", "lacos_st", *write(options, output=str(tmp_path / "two.csv"), jobs=2, threads=1)]
    started = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert started.stdout is not None
    seen = [text for text, _ in zip(started.stdout, range(6), strict=False)]  # the heading, four short rows and one
    started.send_signal(signal.SIGTERM)
    started.communicate(timeout=60)  # closes its output too
    assert started.returncode == 130
    some = read_runs(tmp_path / "two.csv")
    assert 5 <= len(some) < 12, seen
    assert (
        subprocess.run(line, check=True, capture_output=True, text=True).stdout.splitlines()[-1].startswith("complete")
    )
    assert json.dumps(without_seconds(read_runs(tmp_path / "two.csv"))) == json.dumps(without_seconds(one))
