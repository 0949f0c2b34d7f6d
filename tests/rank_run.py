"""Processes that train together, each told by the environment which it is, as torchrun does; what each computed."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import sys
import warnings
from pathlib import Path
from typing import Any

import tiny
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import TrainerCallback

from lacos_st import training
from lacos_st.columns import tie_columns_
from lacos_st.encoders import encoder
from lacos_st.errors import UserError
from lacos_st.settings import TrainConfig
from lacos_st.trainer import LacosTrainer


class Record(TrainerCallback):
    """Gradients as the optimiser gets them, and the loss and rows of each batch."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, torch.Tensor]] = []
        self.losses: list[float] = []
        self.rows: list[list[Any]] = []
        self.saves = 0

    def on_pre_optimizer_step(self, *_: Any, **kwargs: Any) -> None:
        named = kwargs["model"].named_parameters()
        found = {n.removeprefix("module."): p.grad.detach().clone() for n, p in named if p.grad is not None}
        self.gradients.append(found)


def run(options: dict[str, Any], *, die_after: int | None = None) -> dict[str, Any]:
    """Train with these options, and return what was recorded."""
    torch.set_num_threads(1)
    record = Record()
    stock = LacosTrainer.training_step
    made = LacosTrainer.__init__
    save = SentenceTransformer.save_pretrained

    def counted(self: SentenceTransformer, *args: Any, **kwargs: Any) -> None:
        record.saves += 1
        save(self, *args, **kwargs)

    def init(self: LacosTrainer, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        self.add_callback(record)

    def step(self: LacosTrainer, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        if die_after is not None and self.state.global_step >= die_after:
            os.kill(os.getpid(), signal.SIGKILL)
        record.rows.append(inputs["lacos_rows"].rows)
        loss = stock(self, model, inputs, *args, **kwargs)
        record.losses.append(float(loss))
        return loss

    LacosTrainer.__init__, LacosTrainer.training_step = init, step  # type: ignore[method-assign]
    SentenceTransformer.save_pretrained = counted  # type: ignore[method-assign]
    try:
        result = training.train(TrainConfig.from_mapping(options))
    finally:
        LacosTrainer.__init__, LacosTrainer.training_step = made, stock  # type: ignore[method-assign]
        SentenceTransformer.save_pretrained = save  # type: ignore[method-assign]
    trained = {name: p.detach().clone() for name, p in result.model.named_parameters() if p.requires_grad}
    return {
        "losses": record.losses,
        "gradients": record.gradients,
        "rows": record.rows,
        "weights": trained,
        "saves": record.saves,
        "steps": result.steps,
        "best": result.best_metric,
    }


def worker(environment: dict[str, str], options: dict[str, Any], out: str, die_after: int | None) -> None:
    """One of several processes: 0 where it trained to the end, 2 where it says what its user can mend."""
    os.environ |= environment
    logging.disable(logging.WARNING)
    try:
        torch.save(run(options, die_after=die_after), out)
    except UserError as error:
        Path(out).with_suffix(".error").write_text(str(error))
        sys.exit(2)


def environments(processes: int) -> list[dict[str, str]]:
    """What torchrun would tell each of several processes on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


def train_together(
    options: dict[str, Any], folder: Path, *, processes: int = 2, die_after: int | None = None, **of_last: Any
) -> list[tuple[int | None, Any]]:
    """Train in several processes of this machine; the last one dies after a step, where one is named.

    Args:
        options: of the run.
        folder: for what they report.
        processes: how many.
        die_after: the step.
        **of_last: options of the last process alone.

    Returns:
        For each its exit status, and what `run` returned or the error's text.
    """
    folder.mkdir()
    started = []
    for rank, here in enumerate(environments(processes)):
        last = rank == processes - 1
        told = {**options, **(of_last if last else {})}
        started.append(
            CONTEXT.Process(target=worker, args=(here, told, str(folder / f"{rank}.pt"), die_after if last else None))
        )
        started[-1].start()
    found: list[tuple[int | None, Any]] = []
    for rank, process in enumerate(started):
        process.join(120)
        result, error = folder / f"{rank}.pt", folder / f"{rank}.error"
        said = torch.load(result, weights_only=False) if result.is_file() else None
        found.append((process.exitcode, error.read_text() if error.is_file() else said))
        process.kill()
    return found


def sharded(environment: dict[str, str], base: str, out: str) -> None:
    """One of two processes with FSDP2 (torch's `fully_shard`): gradients of half a batch, those of the whole beside."""
    os.environ |= environment
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    model = encoder(base, lora_rank=8, block_size=64, device="cpu")
    tiny.stir_(model)
    pairs = [(tiny.SENTENCES[0], "a street"), ("guitar", "x plays"), ("the street is long", "y"), ("man", "walks a x")]

    def backward(rows: list[tuple[str, str]], *, gathers: bool) -> float:
        columns = [dict(model.preprocess([row[i] for row in rows])) for i in (0, 1)]
        tie_columns_(columns)
        loss = MultipleNegativesRankingLoss(model, gather_across_devices=gathers)(columns, None)
        loss.backward()
        return float(loss.detach())

    whole = backward(pairs, gathers=False)
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    fully_shard(model, mesh=mesh)
    rank = int(environment["RANK"])
    part = backward(pairs[2 * rank : 2 * rank + 2], gathers=True)
    gradients = {name: p.grad.full_tensor() for name, p in model.named_parameters() if p.grad is not None}
    kinds = {name: type(buffer).__name__ for name, buffer in model.named_buffers() if buffer.dtype == torch.uint8}
    torch.save({"whole": whole, "part": part, "expected": expected, "gradients": gradients, "codes": kinds}, out)


CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["rank_run", "lacos_st.trainer", "lacos_st.methods", "bitsandbytes"])  # imported once
