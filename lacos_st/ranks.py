"""Processes that train one model together (torchrun, accelerate launch): which this is, and what one does for all.

torch calls a process's number its rank; rank 0 writes whatever is written. All of it is nothing in a single process.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from lacos_st.errors import UserError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

LOST = ("Connection closed by peer", "Connection reset by peer", "Connection refused", "Broken pipe", "NCCL", "Gloo")
"""Words in what torch raises where another process has gone."""


def count() -> int:
    """How many processes there are; known from the environment, before anything is joined."""
    return int(os.environ["WORLD_SIZE"]) if "RANK" in os.environ and "WORLD_SIZE" in os.environ else 1


def rank() -> int:
    """The number of this process, from 0."""
    return int(os.environ["RANK"]) if count() > 1 else 0


def is_first() -> bool:
    """Whether this is the process that writes."""
    return rank() == 0


def on_this_machine() -> int:
    """How many of the processes share this machine, and its memory."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", count())) if count() > 1 else 1


def join(*, cpu: bool) -> bool:
    """Join the other processes, where there are any: gloo on a CPU, NCCL on GPUs, one GPU each.

    Returns:
        Whether this call did it, and `leave` is to part from them; not so in a single process, or where they were
        together before (Ray Train).

    Raises:
        UserError: they cannot be reached, there are more of them on this machine than GPUs, or FSDP is asked for.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        raise UserError(
            "lacos-st train shares no weights out (FSDP): adapters and their optimiser are small, and an 8-bit base is "
            "whole on each GPU; start it without FSDP (torchrun, or accelerate launch --multi_gpu)"
        )
    if count() == 1:
        return False
    import warnings

    import torch
    import torch.distributed as dist

    for renamed in ("`broadcast_buffers` is deprecated", "torch.distributed.nn.functional.all_gather is deprecated"):
        warnings.filterwarnings("ignore", message=renamed)  # accelerate's and sentence-transformers' to mend
    gpus = torch.cuda.device_count() if torch.cuda.is_available() and not cpu else 0
    if gpus:
        place = int(os.environ.get("LOCAL_RANK", 0))
        if place >= gpus:
            raise UserError(
                f"{on_this_machine()} processes on a machine with {gpus} GPUs: start one for each GPU, or train on the "
                "CPU with --cpu"
            )
        torch.cuda.set_device(place)
    if dist.is_initialized():
        return False
    try:
        dist.init_process_group("nccl" if gpus else "gloo")
    except (RuntimeError, ValueError) as error:  # torch's own errors are of these two
        raise UserError(
            f"process {rank()} of {count()} cannot join the others ({str(error).splitlines()[0][:200]}): start all of "
            "them with one torchrun or accelerate launch, and see that MASTER_ADDR and MASTER_PORT can be reached"
        ) from error
    return True


def leave() -> None:
    """Part from the other processes once all of them are here."""
    import torch.distributed as dist

    if count() > 1 and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def wait() -> None:
    """Go on when all processes have come here."""
    if count() > 1:
        import torch.distributed as dist

        dist.barrier()


def share(value: T) -> T:
    """What the first process has in the place of `value`."""
    if count() == 1:
        return value
    import torch.distributed as dist

    held: list[Any] = [value]
    dist.broadcast_object_list(held, src=0)
    return held[0]


def gather(value: T) -> list[T]:
    """What each process has in the place of `value`, by rank."""
    if count() == 1:
        return [value]
    import torch.distributed as dist

    found: list[Any] = [None] * count()
    dist.all_gather_object(found, value)
    return found


def on_first(step: Callable[[], T]) -> T | None:
    """Have the first process do something while the others wait; what it cannot do ends all of them.

    Returns:
        What `step` returned in the first process, None in the others.

    Raises:
        UserError: in the others, where `step` raised in the first, with its message; there, what was raised.
    """
    if count() == 1:
        return step()
    result, failure = None, None
    if is_first():
        try:
            result = step()
        except Exception as error:
            failure = error
    problem = share(None if failure is None else str(failure))
    if failure is not None:
        raise failure
    if problem is not None:
        raise UserError(f"process 0 stopped: {problem}")
    return result


def check_same(value: str, what: str) -> None:
    """That all processes have the same text.

    Raises:
        UserError: in all of them, where one has another.
    """
    found = gather(value)
    other = [number for number, each in enumerate(found) if each != found[0]]
    if other:
        raise UserError(
            f"process {other[0]} has another {what} than process 0: start all of them with the same options, on the "
            "same files"
        )


def any_of(flag: torch.Tensor) -> bool:
    """Whether a flag is true in any process.

    Args:
        flag: bool, a scalar, on the device that is trained on.
    """
    if count() == 1:
        return bool(flag)
    import torch
    import torch.distributed as dist

    held = flag.to(torch.int32)
    dist.all_reduce(held, op=dist.ReduceOp.MAX)
    return bool(held)


def average_(tensors: list[torch.Tensor]) -> None:
    """Replace each tensor by its mean over the processes."""
    if count() == 1:
        return
    import torch.distributed as dist

    for tensor in tensors:
        dist.all_reduce(tensor)
        tensor /= count()


def lost(error: BaseException) -> bool:
    """Whether an error is that of another process having gone."""
    return count() > 1 and isinstance(error, RuntimeError) and any(word in str(error) for word in LOST)
