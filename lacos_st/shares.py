"""`SharedBatches`: batches for several processes, cut from larger ones in which no sentence stands twice."""

from __future__ import annotations

from collections.abc import Iterator

from torch.utils.data import BatchSampler


class SharedBatches(BatchSampler):
    """A batch sampler for several processes; accelerate hands its batches to them in turn.

    Where negatives are gathered, the batches of a step are one large batch to the loss, so none of them may hold a
    sentence of another: stock code looks for duplicates in each one alone. It also never tells a sampler behind its own
    which epoch it is, so that all epochs would come in the order of the first.

    Args:
        whole: a sampler of batches of `parts` times the size that a process gets.
        parts: into how many batches each of its batches is cut, one after another: the number of processes, or 1.
    """

    def __init__(self, whole: BatchSampler, *, parts: int) -> None:
        self.whole, self.parts = whole, parts
        self.batch_size = whole.batch_size // parts
        self.drop_last = True  # a process without a batch would be waited for

    @property
    def sampler(self) -> SharedBatches:  # type: ignore[override]
        """Where accelerate looks for `set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Have the next batches in the order of this epoch."""
        self.whole.set_epoch(epoch)  # type: ignore[attr-defined]  # each of sentence-transformers' has it

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.whole:
            if len(batch) == self.batch_size * self.parts:
                for start in range(0, len(batch), self.batch_size):
                    yield batch[start : start + self.batch_size]

    def __len__(self) -> int:
        return len(self.whole) * self.parts
