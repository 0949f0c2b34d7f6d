"""`lacos-st plan --law FILE --runs CSV`: a plan as the runs of its law were."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import sweeps
import yaml

from lacos_st.cli import main
from lacos_st.recipe.cost import parameters
from lacos_st.recipe.grid import Grid
from lacos_st.recipe.job import Job
from lacos_st.recipe.law_file import fit_laws
from lacos_st.recipe.memory import predict
from lacos_st.recipe.published import published_shape
from lacos_st.recipe.runs_table import Run, append_run
from lacos_st.settings import TrainConfig


def _fitted(folder: Path, method: str, runs: list[Run]) -> Path:
    """A folder with a table of runs, the law that was fitted on it, and a family of bases."""
    for run in runs:
        append_run(folder / "runs.csv", run)
    laws = fit_laws({method: runs}, source="runs.csv", date="2026-11-21", bootstrap=4, forms=("ND",))
    laws.save(folder / "law.json")
    (folder / "bases.txt").write_text("pythia-14m\npythia-31m\npythia-70m\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Full fine-tuning."""
    runs = sweeps.sweep(sizes=sweeps.SIZES[::2], budgets=sweeps.BUDGETS[::2], seeds=1)
    return _fitted(tmp_path_factory.mktemp("fitted"), "full", runs)


@pytest.fixture(scope="module")
def fitted_lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LoRA, at the one setting lr=0.001."""
    runs = sweeps.sweep(method="lora", sizes=sweeps.SIZES[::2], budgets=sweeps.BUDGETS[::2], shares=(0.1,), seeds=1)
    return _fitted(tmp_path_factory.mktemp("fitted_lora"), "lora", runs)


def test_the_command_with_a_fitted_law(
    fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib", reason="the extra lacos_st[plot] is not installed")
    monkeypatch.chdir(fitted)
    (fitted / "runs.conditions.yaml").write_text(
        "train: [preset=recipe, batch_size=32, weight_decay=0.3]\n", encoding="utf-8"
    )
    command = "plan --flops 1e15 --family bases.txt --law law.json --runs runs.csv --data pairs.tsv"
    assert main([*command.split(), "--plots", str(tmp_path), "--yaml", str(tmp_path / "plan.yaml"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["plan"]["learning_rate"] == 1e-3  # that of the runs
    assert found["plan"]["loss"]["low"] <= found["plan"]["loss"]["loss"] <= found["plan"]["loss"]["high"]
    drawn = {path.name for path in tmp_path.iterdir()}
    assert drawn == {"choices.png", "isoflops.png", "frontier.png", "plan.yaml"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.glob("*.png"))
    config = TrainConfig.from_yaml(tmp_path / "plan.yaml")
    assert (config.base, config.max_steps) == (found["plan"]["base"], found["plan"]["steps"])
    assert (config.batch_size, config.weight_decay, config.scale) == (32, 0.3, 40)  # the runs', the runs', the preset's
    append_run(tmp_path / "other.csv", sweeps.sweep(seeds=1)[0])
    assert main([*command.replace("runs.csv", str(tmp_path / "other.csv")).split()[:-2]]) == 2


@pytest.mark.parametrize(
    "train",
    [
        {},
        {"preset": "best"},
        {"batch_size": 16, "symmetric": True, "lora_rank": 2, "optimizer": "adamw", "max_seq_length": 24},
        {"gradient_checkpointing": True, "mini_batch_size": 4, "adapter_dtype": "bfloat16"},
        {"preset": "recipe", "lora_targets": ["query_key_value", "dense"], "weight_decay": 0.2, "echo": True},
    ],
)
def test_the_run_of_a_law_is_told_what_its_runs_were(
    train: dict[str, Any],
    fitted_lora: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(fitted_lora)
    told = {"family": "toy", "bases": ["b"], "budgets": ["1e12"], "methods": ["lora lr=1e-3"], "data": "pairs.tsv"}
    grid = Grid.from_mapping({**told, "output": "runs.csv", "train": train})
    run = grid.config(base="b", method="lora", setting={"lr": 1e-3}, seed=0)
    Path("runs.conditions.yaml").write_text(yaml.safe_dump({"train": sorted(grid.train)}), encoding="utf-8")
    command = "plan --flops 1e15 --family bases.txt --law law.json --runs runs.csv --json --data pairs.tsv"
    assert main([*command.split(), "--yaml", str(tmp_path / "plan.yaml")]) == 0
    found = json.loads(capsys.readouterr().out)["plan"]
    config = TrainConfig.from_yaml(tmp_path / "plan.yaml").resolved()
    its_own = ("base", "data", "output", "max_steps", "seed", "eval_rows", "progress")
    assert config == replace(run, **{name: getattr(config, name) for name in its_own})
    # what it costs and needs is that of this run
    shape = published_shape(config.base.partition("/")[2])
    rank = run.lora_rank or 0
    counts = parameters(shape, "lora", rank=rank, targets=run.lora_targets)
    length = min(32, run.max_seq_length or 32) * (1 + run.echo)
    job = Job("lora", batch_size=run.batch_size, length=length, rank=rank, targets=run.lora_targets)
    assert (found["counts"], found["batch_size"]) == (asdict(counts), run.batch_size)
    assert found["tokens"] == found["steps"] * run.batch_size * 2 * length
    job = replace(job, optimizer=run.optimizer, adapter_dtype=run.adapter_dtype, mini_batch=run.mini_batch_size)
    assert found["peak_bytes"] == predict(shape, replace(job, checkpointing=run.gradient_checkpointing)).peak


def test_the_cost_is_that_of_the_settings_own_batch_and_length(
    fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a sweep compared batches: the file said the setting's, steps and cost were of the preset's."""
    runs = sweeps.sweep(sizes=sweeps.SIZES[::2], budgets=sweeps.BUDGETS[::2], seeds=1)
    setting = "batch_size=8 lr=0.001 max_seq_length=16 mini_batch_size=4"
    folder = _fitted(tmp_path, "full", [replace(run, setting=setting) for run in runs])
    monkeypatch.chdir(folder)
    command = "plan --flops 1e15 --family bases.txt --law law.json --runs runs.csv --json --data pairs.tsv"
    assert main([*command.split(), "--yaml", "plan.yaml"]) == 0
    found = json.loads(capsys.readouterr().out)["plan"]
    config = TrainConfig.from_yaml("plan.yaml").resolved()
    assert (config.batch_size, config.max_seq_length, config.mini_batch_size) == (8, 16, 4)
    assert (found["batch_size"], found["mini_batch_size"]) == (8, 4)
    assert found["tokens"] == found["steps"] * 8 * 2 * 16
