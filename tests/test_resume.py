"""A run that is stopped after any step and resumed is bit-equal to the one that was never stopped."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import pytest
import resume_runs
import tiny
import torch
from marks import thorough
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from transformers import TrainerCallback

from lacos_st.arguments import training_arguments
from lacos_st.errors import UserError
from lacos_st.freezing import frozen_hash
from lacos_st.methods import build_loss, build_model, load_rows
from lacos_st.models import load_model
from lacos_st.runs import RunFolder
from lacos_st.settings import ADAPTER_METHODS, Method, TrainConfig
from lacos_st.training import train

sys.path.insert(0, str(Path(__file__).parents[1]))  # for benchmarks, which are not installed

from benchmarks import same  # noqa: E402

METHODS = typing.get_args(Method)
WAYS: dict[str, dict[str, Any]] = {
    "accumulated": {"gradient_accumulation": 2, "lora_dropout": 0.1},
    "cached": {"mini_batch_size": 3, "lora_dropout": 0.1},
    "duplicates": {"allow_duplicates": True, "scheduler": "cosine"},
    "bfloat16": {"adapter_dtype": "bfloat16", "dtype": "bfloat16", "lora_dropout": 0.1},
    "checkpointing": {"gradient_checkpointing": True, "optimizer": "adamw", "lora_dropout": 0.1},
    "autocast": {"autocast": "bfloat16", "lora_targets": "all-linear"},
    "last": {"eval_rows": 0},  # no best one is loaded at the end
}


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("resume")
    bases = {name: tiny.save(folder / name, name) for name in ("bloom", "bert")}
    return {
        "bases": bases,
        "data": resume_runs.pairs(folder, rows=16),
        "block_size": 64,
        "batch_size": 8,
        "epochs": 2,
        "eval_steps": 2,
        "eval_rows": 6,
        "log_steps": 1,
        "lr": 5e-3,
        "cpu": True,
        "progress": False,
    }


def configure(options: dict[str, Any], output: Path, method: str, **changes: Any) -> TrainConfig:
    rest = {key: value for key, value in options.items() if key != "bases"}
    base = options["bases"]["bert" if method == "sbert" else "bloom"]
    if method in ADAPTER_METHODS:
        rest["lora_rank"] = 64  # tensors of 4096 values and more: those have an optimiser state of 8 bits
    else:
        changes = {key: value for key, value in changes.items() if not key.startswith(("lora_", "adapter_"))}
    if method == "sbert":
        changes.pop("mini_batch_size", None)
    if method == "freeze":
        rest["frozen_blocks"] = 1
    return TrainConfig.from_mapping({**rest, "base": base, "output": str(output), "method": method, **changes})


def check(options: dict[str, Any], folder: Path, method: str, steps: list[int] | None, **changes: Any) -> None:
    """Stop after each of `steps` (all of them for None) and compare everything with the unbroken run."""
    whole = folder / "whole"
    result = train(configure(options, whole, method, **changes))
    for step in range(result.steps) if steps is None else steps:
        assert step < result.steps
        output = folder / f"stopped-{step}"
        config = configure(options, output, method, **changes)
        with pytest.MonkeyPatch.context() as patch:
            resume_runs.stop_after(config, step, patch)
        resumed = resume_runs.resume(config)
        assert resumed.steps == result.steps
        assert same.differences(same.state(whole), same.state(output)) == [], step
        assert same.differences(same.figures(whole), same.figures(output)) == [], step
        vectors = [each.model.encode(tiny.SENTENCES, show_progress_bar=False) for each in (result, resumed)]
        assert (vectors[0] == vectors[1]).all()
        shutil.rmtree(output)


def test_a_resumed_run_is_bit_equal(options: dict[str, Any], tmp_path: Path) -> None:
    """Stopped before the first checkpoint, which is to start again, and between two."""
    check(options, tmp_path, "lacos", [1, 3], lora_dropout=0.1)


def test_a_base_that_is_cast_on_loading_is_known_again(options: dict[str, Any], tmp_path: Path) -> None:
    """Its hash is that of its files; in memory it has another one."""
    check(options, tmp_path, "lacos", [2], dtype="bfloat16", max_steps=3)


def test_a_run_that_ended_before_its_model_was_saved_takes_no_further_step(
    options: dict[str, Any], tmp_path: Path
) -> None:
    """Resumed from its last checkpoint in the middle of an epoch, the stock loop trains once more before it looks."""
    ways = {"epochs": 1.5, "eval_rows": 0, "eval_steps": 1}
    whole = train(configure(options, tmp_path / "whole", "lacos", **ways))
    shutil.copytree(tmp_path / "whole", tmp_path / "ended")
    shutil.rmtree(tmp_path / "ended" / "model")
    resumed = resume_runs.resume(configure(options, tmp_path / "ended", "lacos", **ways))
    assert resumed.steps == whole.steps
    for found in (same.state, same.figures):
        assert same.differences(found(tmp_path / "whole"), found(tmp_path / "ended")) == []


@pytest.mark.slow
@pytest.mark.parametrize("method", thorough(METHODS, but=("lacos", "sbert")))
def test_every_method_stopped_after_any_step(options: dict[str, Any], tmp_path: Path, method: str) -> None:
    check(options, tmp_path, method, None, lora_dropout=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("way", thorough(WAYS, but=("cached",)))
def test_every_way_of_training(options: dict[str, Any], tmp_path: Path, way: str) -> None:
    method = "lora" if way == "bfloat16" else "lacos"
    check(options, tmp_path, method, [1, 2] if way == "accumulated" else [1, 3, 4], **WAYS[way])


def test_the_comparison_sees_a_change_in_the_8bit_state(options: dict[str, Any], tmp_path: Path) -> None:
    train(configure(options, tmp_path / "a", "lacos", max_steps=2))
    left, right = same.state(tmp_path / "a"), same.state(tmp_path / "a")
    assert same.differences(left, right) == []
    (name,) = [name for name in right if name.endswith("optimizer.pt")]
    states = [s["__bnb_optimizer_quant_state__"] for s in right[name]["state"].values()]
    small = [s for s in states if s["state1"].dtype == torch.uint8]
    assert small, "no tensor is large enough for a state of 8 bits"
    largest = max(small, key=lambda state: state["absmax1"].max())  # another's may be zero, and twice that too
    largest["state1"].view(-1)[0] ^= 1
    largest["absmax1"][largest["absmax1"].argmax()] *= 2
    assert len(same.differences(left, right)) == 2


class StopAt(TrainerCallback):
    """Raises after a step and all that belongs to it."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise resume_runs.Stop


def stock_run(
    options: dict[str, Any], output: Path, method: str, *, stop: int | None = None, resume: bool = False, **changes: Any
) -> SentenceTransformer:
    """With sentence-transformers' own trainer, that knows nothing of us."""
    config = configure(options, output, method, **changes).resolved()
    rows, held_out = load_rows(config)
    torch.manual_seed(config.seed)
    model = build_model(config)
    before = frozen_hash(model)
    arguments = training_arguments(config, RunFolder(output), rows=len(rows), eval_rows=len(held_out or ()), sts=False)
    arguments.eval_on_start = False
    trainer = SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        eval_dataset=held_out,
        loss=build_loss(config, model),
        callbacks=[StopAt(stop)] if stop is not None else [],
    )
    trainer.train(resume_from_checkpoint=resume)
    assert frozen_hash(model) == before
    return model


def check_stock(options: dict[str, Any], folder: Path, method: str, steps: list[int], **changes: Any) -> None:
    whole = stock_run(options, folder / "whole", method, **changes)
    for step in steps:
        run = folder / f"stopped-{step}"
        with pytest.raises(resume_runs.Stop):
            stock_run(options, run, method, stop=step, **changes)
        resumed = stock_run(options, run, method, resume=True, **changes)
        assert same.differences(whole.state_dict(), resumed.state_dict()) == [], step
        # optimiser, schedule, random numbers; in the log's history losses and learning rates
        assert same.differences(same.state(folder / "whole"), same.state(run)) == [], step
        vectors = [model.encode(tiny.SENTENCES, show_progress_bar=False) for model in (whole, resumed)]
        assert (vectors[0] == vectors[1]).all()


def test_the_stock_trainer_resumes_our_model_bit_equal(options: dict[str, Any], tmp_path: Path) -> None:
    check_stock(options, tmp_path, "lacos", [3], lora_dropout=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("method", thorough([name for name in METHODS if name != "sbert"], but=("lacos",)))
def test_the_stock_trainer_resumes_every_method(options: dict[str, Any], tmp_path: Path, method: str) -> None:
    check_stock(options, tmp_path, method, [2, 4], lora_dropout=0.1)  # stock saves no weights of sbert's loss


@pytest.mark.slow
@pytest.mark.parametrize("way", thorough(["accumulated", "cached", "last"], but=()))
def test_the_stock_trainer_resumes_every_way_of_training(options: dict[str, Any], tmp_path: Path, way: str) -> None:
    check_stock(options, tmp_path, "lacos", [2], **WAYS[way])


def test_no_state_dict_changes_a_frozen_base(options: dict[str, Any], tmp_path: Path) -> None:
    config = configure(options, tmp_path, "lacos").resolved()
    model = build_model(config)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    zeros = {name: torch.zeros_like(tensor) for name, tensor in before.items()}
    floats = {name: tensor.float() for name, tensor in before.items()}
    for bad in (zeros, floats):
        with pytest.raises(UserError, match="not of this model's frozen base"):
            model.load_state_dict(bad)
        assert same.differences(before, dict(model.state_dict())) == []
    good = {name: torch.ones_like(tensor) if ".lora_" in name else tensor for name, tensor in before.items()}
    model.load_state_dict(good)
    assert same.differences(good, dict(model.state_dict())) == []


def test_a_base_that_changed_between_the_halves_is_refused(options: dict[str, Any], tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(options["bases"]["bloom"], base)
    config = configure({**options, "bases": {"bloom": str(base)}}, tmp_path / "run", "lacos")
    with pytest.MonkeyPatch.context() as patch:
        resume_runs.stop_after(config, 2, patch)
    weights = bytearray((base / "model.safetensors").read_bytes())
    weights[-100] ^= 64
    (base / "model.safetensors").write_bytes(weights)
    with pytest.raises(UserError, match="is not the one this model was saved with"):
        resume_runs.resume(config)


@pytest.mark.slow
def test_a_run_that_has_moved_finds_its_best_checkpoint(options: dict[str, Any], tmp_path: Path) -> None:
    whole = train(configure(options, tmp_path / "a", "lacos", lr=0.5, warmup=0.0, eval_steps=1))
    assert whole.best_step is not None
    assert whole.best_step < whole.steps, "the best one is to be another than the last"
    (tmp_path / "a").rename(tmp_path / "b")
    shutil.rmtree(tmp_path / "b" / "model")
    resumed = resume_runs.resume(configure(options, tmp_path / "b", "lacos", lr=0.5, warmup=0.0, eval_steps=1))
    assert same.differences(whole.model.state_dict(), resumed.model.state_dict()) == []
    shutil.rmtree(tmp_path / "b" / "checkpoints" / f"checkpoint-{whole.best_step}")
    with pytest.raises(UserError, match=f"checkpoint-{whole.best_step}, is gone"):
        resume_runs.resume(configure(options, tmp_path / "b", "lacos", lr=0.5, warmup=0.0, eval_steps=1))


def test_accumulated_batches_go_into_one_step(options: dict[str, Any], tmp_path: Path) -> None:
    two = configure(options, tmp_path / "two", "lacos", max_steps=1, eval_rows=0, batch_size=4, gradient_accumulation=2)
    rows = len(load_rows(two.resolved())[0])
    train(two)
    (row,) = [row for row in same.figures(tmp_path / "two") if "loss" in row]
    state = json.loads(next((tmp_path / "two").rglob("trainer_state.json")).read_text())
    assert row["loss"] > 0
    assert state["epoch"] == pytest.approx(2 / -(-rows // 4))  # two batches went into the step


@pytest.mark.parametrize("at", ["config.json", "adapter", "lacos_probes.safetensors", "1_Pooling"])
def test_a_save_that_was_cut_off_is_named_at_load(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """Stopped while `save_pretrained` writes: without the mark, the base would load with stock pooling."""
    model = build_model(configure(options, tmp_path, "lacos").resolved())
    model[0].self_contained = True
    hooks = {
        "config.json": ("transformers.PreTrainedConfig.save_pretrained",),
        "adapter": ("lacos_st.adapters.save_adapter",),
        "lacos_probes.safetensors": ("lacos_st.checkpoint.write_probes",),
        "1_Pooling": ("lacos_st.pooling.Pooling.save",),
    }

    def stop(*args: Any, **kwargs: Any) -> None:
        raise resume_runs.Stop

    with monkeypatch.context() as patch:
        patch.setattr(*hooks[at], stop)
        with pytest.raises(resume_runs.Stop):
            model.save_pretrained(str(tmp_path / "model"))
    for load in (load_model, SentenceTransformer):
        with pytest.raises(UserError, match="was not saved to its end"):
            load(str(tmp_path / "model"), device="cpu")
    model.save_pretrained(str(tmp_path / "model"))
    load_model(str(tmp_path / "model"), device="cpu")


def test_a_checkpoint_holds_the_hashes_of_its_files(options: dict[str, Any], tmp_path: Path) -> None:
    train(configure(options, tmp_path / "run", "sbert", max_steps=2))
    run = RunFolder(tmp_path / "run")
    checkpoint = run.last_checkpoint()
    assert checkpoint is not None
    listed = json.loads((checkpoint / "lacos_checkpoint.json").read_text())["files"]
    there = {path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*") if path.is_file()}
    assert set(listed) == there - {"lacos_checkpoint.json"}
    assert {"loss.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json"} <= set(listed)
    weights = load_file(checkpoint / "loss.safetensors")
    assert set(weights) == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize("cached", [{}, {"mini_batch_size": 3}], ids=["plain", "cached"])
def test_a_loss_around_a_loss_saves_nothing_of_the_model(
    options: dict[str, Any], tmp_path: Path, cached: dict[str, int]
) -> None:
    """A Matryoshka loss holds the model two or three times, the 8-bit base with it."""
    check(options, tmp_path, "lacos", [3], matryoshka_dims=[16], lora_dropout=0.1, max_steps=4, **cached)
    checkpoint = RunFolder(tmp_path / "whole").last_checkpoint()
    assert checkpoint is not None
    assert not (checkpoint / "loss.safetensors").exists()


@pytest.mark.slow
def test_the_quick_crash_drill_holds() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.crash_drill", "--quick"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 corrupted files, 0 rows lost" in done.stdout
