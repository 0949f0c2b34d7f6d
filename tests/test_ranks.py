"""Several processes train as one: the same losses, gradients and weights, one of them writes, and a death is survived.

What is computed is computed in processes of their own (gloo, on this machine): see rank_run.py.
"""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rank_run
import resume_runs
import tiny
import torch
from marks import thorough
from torch.utils.data import BatchSampler

from lacos_st import ranks
from lacos_st.errors import UserError
from lacos_st.resume import check_processes
from lacos_st.runs import read_log
from lacos_st.settings import TrainConfig
from lacos_st.shares import SharedBatches

sys.path.insert(0, str(Path(__file__).parents[1]))  # for benchmarks, which are not installed

from benchmarks import same  # noqa: E402

EQUAL = 1e-5


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("ranks")
    graded = [f"{i % 6}\t{' '.join(resume_runs.WORDS[i : i + 4])}\tguitar street {i}" for i in range(12)]
    (folder / "sts.tsv").write_text("\n".join(graded) + "\n", encoding="utf-8")
    return {
        "base": tiny.save(folder / "bloom"),
        "data": [resume_runs.pairs(folder, rows=80)],
        "block_size": 64,
        "lora_rank": 8,
        "batch_size": 4,
        "max_steps": 4,
        "eval_steps": 2,
        "eval_rows": 10,
        "eval_sts": str(folder / "sts.tsv"),
        "log_steps": 1,
        "lr": 5e-3,
        "max_grad_norm": 0,
        "optimizer": "adamw",
        "cpu": True,
        "progress": False,
    }


def largest(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    """The largest difference of tensors of the same names."""
    assert one.keys() == two.keys()
    return max(float((one[name] - two[name]).abs().max()) for name in one)


def texts(rows: list[dict[str, Any]]) -> list[str]:
    return [value for row in rows for value in row.values() if isinstance(value, str)]


def compare(options: dict[str, Any], folder: Path, **changes: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Two processes against one with batches twice as large, step by step."""
    options = {**options, **changes}
    found = rank_run.train_together({**options, "output": str(folder / "two")}, folder / "found")
    assert [status for status, _ in found] == [0, 0], found
    two = [each for _, each in found]
    mini = {"mini_batch_size": options["mini_batch_size"]} if "mini_batch_size" in options else {}
    one = rank_run.run({**options, "output": str(folder / "one"), "batch_size": 2 * options["batch_size"], **mini})
    assert (
        one["steps"]
        == two[0]["steps"]
        == two[1]["steps"]
        == len(one["losses"]) // options.get("gradient_accumulation", 1)
    )
    for step, loss in enumerate(one["losses"]):
        assert two[0]["rows"][step] + two[1]["rows"][step] == one["rows"][step]
        assert (two[0]["losses"][step] + two[1]["losses"][step]) / 2 == pytest.approx(loss, abs=EQUAL)
    for step, gradients in enumerate(one["gradients"]):
        assert max(float(gradient.abs().max()) for gradient in gradients.values()) > 100 * EQUAL
        assert largest(gradients, two[0]["gradients"][step]) <= EQUAL
        assert largest(two[0]["gradients"][step], two[1]["gradients"][step]) == 0
    assert largest(two[0]["weights"], two[1]["weights"]) == 0
    assert largest(one["weights"], two[0]["weights"]) <= options["lr"] / 10  # steps of Adam divide by small numbers
    return one, two


def test_two_processes_are_one_with_twice_the_batch(options: dict[str, Any], tmp_path: Path) -> None:
    one, two = compare(options, tmp_path, gather_across_devices=True)
    for step in range(len(one["losses"])):  # no sentence stands twice, whosever batch it is in
        held = texts(two[0]["rows"][step]) + texts(two[1]["rows"][step])
        assert len(held) == len(set(held)) == 16
    assert two[0]["best"] == two[1]["best"] == pytest.approx(one["best"], abs=EQUAL)
    assert two[1]["saves"] == 0 < two[0]["saves"]  # stock saves in all, into one folder
    # one process has written: each line of the log and each file once, beside each one's random numbers
    logs = [read_log(tmp_path / name / "log.jsonl") for name in ("one", "two")]
    for ours, expected in zip(logs[1], logs[0], strict=True):
        assert ours["step"] == expected["step"]
        for figure in ("eval_loss", "eval_sts_pearson_max"):
            assert ours.get(figure) == pytest.approx(expected.get(figure), abs=EQUAL)
    files = [
        {str(p.relative_to(tmp_path / name)) for p in (tmp_path / name).rglob("*") if p.is_file()}
        for name in ("one", "two")
    ]
    assert {name for name in files[0] ^ files[1]} == {
        f"checkpoints/checkpoint-{step}/{name}"
        for step in (2, 4)
        for name in ("rng_state.pth", "rng_state_0.pth", "rng_state_1.pth")
    }
    assert TrainConfig.from_yaml(tmp_path / "two" / "train.yaml").batch_size == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"symmetric": True, "gather_across_devices": True},
        *thorough(
            [
                {"mini_batch_size": 2, "gather_across_devices": True},
                {"gradient_accumulation": 2, "gather_across_devices": True, "lora_targets": ["all-linear"]},
                {"method": "full", "gather_across_devices": True, "lora_rank": None},
                {"gradient_checkpointing": True, "gather_across_devices": True},
                {
                    "epochs": 2,
                    "max_steps": None,
                    "max_rows": 64,
                    "eval_rows": 0,
                    "eval_sts": None,
                    "gather_across_devices": True,
                },
            ]
        ),
    ],
    ids=lambda changes: "-".join(changes),
)
def test_every_way_of_training(options: dict[str, Any], tmp_path: Path, changes: dict[str, Any]) -> None:
    compare({key: value for key, value in {**options, **changes}.items() if value is not None}, tmp_path)


@pytest.mark.slow
def test_the_weights_of_a_loss_are_averaged_too(options: dict[str, Any], tmp_path: Path) -> None:
    """Softmax has no negatives, so two batches are one without gathering; stock lets the classifiers drift apart."""
    rest = {key: value for key, value in options.items() if key not in ("lora_rank", "block_size")}
    base = tiny.save(tmp_path / "bert", "bert")
    config = json.loads((tmp_path / "bert" / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # random in each process
    (tmp_path / "bert" / "config.json").write_text(json.dumps(config))
    compare({**rest, "base": base, "method": "sbert"}, tmp_path)


@pytest.mark.thorough
@pytest.mark.slow
def test_without_gathering_each_process_has_its_own_negatives(options: dict[str, Any], tmp_path: Path) -> None:
    found = rank_run.train_together(
        {**options, "output": str(tmp_path / "two"), "epochs": 2, "max_steps": None}, tmp_path / "f"
    )
    (_, first), (_, second) = found
    steps = len(first["rows"]) // 2
    assert first["rows"][:steps] != first["rows"][steps:]  # stock has all epochs in the order of the first
    assert not {*map(str, first["rows"])} & {*map(str, second["rows"])}
    assert largest(first["weights"], second["weights"]) == 0


@pytest.mark.slow
def test_a_process_that_dies_ends_the_run_which_can_be_resumed(options: dict[str, Any], tmp_path: Path) -> None:
    options = {**options, "gather_across_devices": True, "lora_dropout": 0.1, "optimizer": "adam8bit", "lora_rank": 64}
    options = {**options, "max_steps": 6}
    whole = rank_run.train_together({**options, "output": str(tmp_path / "whole")}, tmp_path / "w")
    assert [status for status, _ in whole] == [0, 0]
    stopped = {**options, "output": str(tmp_path / "stopped")}
    (first, said), (second, _) = rank_run.train_together(stopped, tmp_path / "s", die_after=3)
    assert (first, second) == (2, -9)
    assert "another process of the run" in said
    assert "--resume" in said
    assert [path.name for path in sorted((tmp_path / "stopped" / "checkpoints").glob("checkpoint-*"))] == [
        "checkpoint-2"
    ]
    alone = {**stopped, "resume": True}
    with pytest.raises(UserError, match="is of a run of 2 processes, 1 are to go on with it"):
        rank_run.run(alone)
    resumed = rank_run.train_together(alone, tmp_path / "r")
    assert [status for status, _ in resumed] == [0, 0]
    for found in (same.state, same.figures):
        assert same.differences(found(tmp_path / "whole"), found(tmp_path / "stopped")) == []
    assert largest(whole[0][1]["weights"], resumed[1][1]["weights"]) == 0


@pytest.mark.thorough
@pytest.mark.slow
def test_processes_that_differ_are_refused(options: dict[str, Any], tmp_path: Path) -> None:
    found = rank_run.train_together({**options, "output": str(tmp_path / "a")}, tmp_path / "x", lr=1e-3)
    assert [status for status, _ in found] == [2, 2]
    assert all("process 1 has another set of options than process 0" in said for _, said in found)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    found = rank_run.train_together({**options, "output": str(tmp_path / "full")}, tmp_path / "y")
    assert [status for status, _ in found] == [2, 2]
    assert "is not empty" in found[0][1]
    assert found[1][1].startswith("process 0 stopped: output folder")
    found = rank_run.train_together({**options, "output": str(tmp_path / "b"), "batch_size": 500}, tmp_path / "z")
    assert [status for status, _ in found] == [2, 2]
    assert "fewer than the 1000 that 2 processes take at a time" in found[0][1]
    assert not (tmp_path / "b").exists()


@pytest.mark.slow
def test_the_modules_work_sharded(options: dict[str, Any], tmp_path: Path) -> None:
    """FSDP2 shares out floats, adapters too; codes are buffers, and whole in each process. docs/distributed.md."""
    started = [
        rank_run.CONTEXT.Process(target=rank_run.sharded, args=(here, options["base"], str(tmp_path / f"{rank}.pt")))
        for rank, here in enumerate(rank_run.environments(2))
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in (0, 1))
    assert (first["part"] + second["part"]) / 2 == pytest.approx(first["whole"], abs=EQUAL)
    assert first["expected"]
    assert largest(first["expected"], first["gradients"]) <= EQUAL
    assert set(first["codes"].values()) == {"Tensor"}


def test_fsdp_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UserError, match="shares no weights out"):
        ranks.join(cpu=True)


def test_a_loss_that_is_not_finite_elsewhere_ends_this_process_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import TrainerState, TrainingArguments

    from lacos_st.finite import NonFiniteLoss, StopOnNonFinite

    arguments = TrainingArguments(output_dir="nowhere", use_cpu=True)
    monkeypatch.setattr(ranks, "any_of", lambda flag: True)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(NonFiniteLoss, match=r"loss was 1.5 in process 0, and not finite in one of 2"):
        StopOnNonFinite().check_loss(torch.tensor(1.5), None, arguments, TrainerState())


EXAMPLES = Path(__file__).parents[1] / "examples"


def test_the_examples_name_options_that_exist() -> None:
    """They start clusters, which is not tried here: they parse, and say what `lacos-st train` knows."""
    known = {"--" + field.name.replace("_", "-") for field in dataclasses.fields(TrainConfig)} | {"--config"}
    known |= {f"--no-{name[2:]}" for name in known}
    script = (EXAMPLES / "train_slurm.sh").read_text(encoding="utf-8")
    subprocess.run(["bash", "-n", str(EXAMPLES / "train_slurm.sh")], check=True)
    command = script.partition("lacos_st train")[2]
    assert set(re.findall(r"--[a-z-]+", command)) <= known
    compile((EXAMPLES / "train_ray.py").read_text(encoding="utf-8"), "train_ray.py", "exec")
    page = (EXAMPLES.parent / "docs" / "distributed.md").read_text(encoding="utf-8")
    for line in re.findall(r"lacos_st train (.*)", page):
        assert set(re.findall(r"--[a-z-]+", line)) <= known


class Batches(BatchSampler):
    """Batches of known rows, in an order of the epoch's."""

    def __init__(self, batches: list[list[int]], *, batch_size: int) -> None:
        self.batches, self.batch_size, self.epoch = batches, batch_size, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches[self.epoch :] + self.batches[: self.epoch])

    def __len__(self) -> int:
        return len(self.batches)


def test_batches_are_cut_in_turn_and_know_their_epoch() -> None:
    from accelerate.data_loader import BatchSamplerShard, DataLoaderShard

    whole = Batches([[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]], batch_size=4)
    shared = SharedBatches(whole, parts=2)
    assert (shared.batch_size, len(shared)) == (2, 6)
    shards = [BatchSamplerShard(shared, num_processes=2, process_index=rank, even_batches=False) for rank in (0, 1)]
    assert [list(shard) for shard in shards] == [[[0, 1], [4, 5]], [[2, 3], [6, 7]]]  # the short one is left out
    loader = DataLoaderShard(list(range(10)), batch_sampler=shards[1], device=None)
    loader.set_epoch(1)
    assert whole.epoch == 1  # through accelerate's own sampler, which has no epochs
    assert list(shards[0]) == [[4, 5], [0, 1]]


def test_a_checkpoint_is_of_a_number_of_processes(tmp_path: Path) -> None:
    check_processes(tmp_path, processes=1)
    for rank in range(2):
        (tmp_path / f"rng_state_{rank}.pth").touch()
    check_processes(tmp_path, processes=2)
    with pytest.raises(UserError, match=r"of a run of 2 processes, 3 are to go on"):
        check_processes(tmp_path, processes=3)


def test_a_single_process_needs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (ranks.count(), ranks.rank(), ranks.is_first(), ranks.on_this_machine()) == (1, 0, True, 1)
    ranks.join(cpu=True)
    ranks.wait()
    ranks.leave()
    tensor = torch.ones(2)
    ranks.average_([tensor])
    assert (ranks.share("a"), ranks.gather("a"), ranks.on_first(lambda: "a"), tensor.tolist()) == (
        *("a", ["a"], "a"),
        [1.0, 1.0],
    )
    assert not torch.distributed.is_initialized()
    with pytest.raises(UserError, match="x"):
        ranks.on_first(lambda: (_ for _ in ()).throw(UserError("x")))
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert (ranks.count(), ranks.rank(), ranks.is_first(), ranks.on_this_machine()) == (8, 3, False, 4)
    assert ranks.lost(RuntimeError("Connection closed by peer [127.0.0.1]"))
    assert not ranks.lost(RuntimeError("shape"))
    assert not ranks.lost(ValueError("NCCL"))


def test_softmax_gathers_nothing(options: dict[str, Any], tmp_path: Path) -> None:
    rest = {key: value for key, value in options.items() if key != "lora_rank"}
    with pytest.raises(UserError, match="gather_across_devices is for in-batch negatives"):
        TrainConfig.from_mapping(
            {**rest, "method": "sbert", "gather_across_devices": True, "output": str(tmp_path)}
        ).resolved()
