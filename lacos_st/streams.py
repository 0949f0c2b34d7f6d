"""Streaming sets (`IterableDataset`): each process reads its own batches, as a flat batch cannot be dealt out.

accelerate reads a streaming set in one process and deals each batch out by its rows, even to a single process. A flat
batch is one row of all its tokens: what would come out is `cu_seq_lens_q` cut off to one entry.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from lacos_st.errors import UserError

REMEDY = 'accelerator_config={"dispatch_batches": False}'


def read_by_each_(arguments: Any, *, processes: int) -> None:
    """Have a single process read its batches itself, where `arguments` do not say who reads them.

    Args:
        arguments: of the trainer; their `accelerator_config.dispatch_batches` is set where it is None.
        processes: of the run.
    """
    config = arguments.accelerator_config
    if processes == 1 and config.dispatch_batches is None:
        config.dispatch_batches = False


class OfItsRows:
    """A trainer's `gather_function` by which a validation loss counts once for each row of its batch.

    Stock has each batch count for a full one, and cuts the last one down by the length of the set, which a streaming
    set does not have.

    Args:
        gather: the trainer's own.

    Attributes:
        rows: of the batch at hand; None where that is not known, and all is left as it is.
    """

    def __init__(self, gather: Callable[..., Any]) -> None:
        self.gather, self.rows = gather, None

    rows: int | None

    def __call__(self, tensors: Any, *args: Any, **kwargs: Any) -> Any:
        """What `gather` gives; of a tensor the first `rows` entries."""
        found = self.gather(tensors, *args, **kwargs)
        return found[: self.rows] if isinstance(found, torch.Tensor) and found.ndim else found


def check_streams(train: Any, evaluation: Any, arguments: Any, *, processes: int) -> None:
    """That no streaming set is dealt out to several processes.

    Args:
        train: the training set, or None.
        evaluation: the validation set, or None; a dict of them too.
        arguments: of the trainer.
        processes: of the run.

    Raises:
        UserError: one would be.
    """
    from datasets import IterableDataset

    if processes == 1:
        return
    sets = evaluation.values() if isinstance(evaluation, dict) else [evaluation]
    if any(isinstance(rows, IterableDataset) for rows in sets):
        raise UserError(
            f"the validation set is a stream, which {processes} processes cannot share: load it whole, or start one "
            "process"
        )
    if isinstance(train, IterableDataset) and arguments.accelerator_config.dispatch_batches is not False:
        raise UserError(
            f"the training set is a stream, whose batches would be dealt out to {processes} processes by rows that a "
            f"flat batch does not have: give the training arguments {REMEDY}, or load the set whole"
        )


def check_sentences(features: dict[str, Any]) -> None:
    """That a flat batch has its sentences; reads shapes alone, so that no GPU is waited for.

    Args:
        features: `input_ids` (1, ΣT) with `cu_seq_lens_q` (N + 1,); a padded batch has no such bounds.

    Raises:
        UserError: there are tokens and no sentence.
    """
    bounds = features.get("cu_seq_lens_q")
    if bounds is not None and bounds.numel() < 2 and features["input_ids"].numel():
        raise UserError(
            "a flat batch came with its tokens but without its sentences, as accelerate cuts it up where it deals out "
            f"the batches of a streaming set: train with LacosTrainer, or give the training arguments {REMEDY}"
        )
