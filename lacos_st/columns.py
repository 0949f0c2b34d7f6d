"""Both columns of a batch of pairs in one pass: weights are de-quantised once, and products see twice the tokens.

A stock loss calls the model once per column. The trainer ties the columns of a batch together beforehand; the first
call then embeds the tokens of all of them, and the others take their part of that result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

COLUMN = "tied_column"
"""The key of a tied column's features that holds its `Column`."""

Embed = Callable[[dict[str, Any]], torch.Tensor]


class TiedColumns:
    """The flat batches of several columns as one.

    Args:
        columns: features of each column, with `input_ids` (1, ΣT) and `cu_seq_lens_q` (N + 1,).
    """

    def __init__(self, columns: Sequence[dict[str, Any]]) -> None:
        self.tokens = [features["input_ids"].shape[1] for features in columns]
        ends = torch.tensor([0, *self.tokens[:-1]]).cumsum(0).tolist()
        bounds = [features["cu_seq_lens_q"] for features in columns]
        # a column's last bound is the next one's first
        shifted = [bound[1:] + end for bound, end in zip(bounds, ends, strict=True)]
        self.features = {
            "input_ids": torch.cat([features["input_ids"] for features in columns], 1),
            "cu_seq_lens_q": torch.cat([bounds[0][:1], *shifted]),
            "modality": columns[0].get("modality", "text"),
        }
        self._parts: dict[int, torch.Tensor] = {}
        self._made: tuple[Any, ...] = ()

    def token_embeddings(self, index: int, module: torch.nn.Module, embed: Embed) -> torch.Tensor:
        """The part of column `index`, (1, ΣT, H); each part is given out once and then forgotten.

        Args:
            index: of the column.
            module: that embeds; a part made by another one, or in another mode, is not used.
            embed: from features to token embeddings (1, ΣT, H).
        """
        how = (id(module), module.training, torch.is_grad_enabled())
        if how != self._made or index not in self._parts:
            self._made = how
            self._parts = dict(enumerate(embed(dict(self.features)).split(self.tokens, 1)))
        return self._parts.pop(index)


class Column:
    """One of the tied columns, as its features carry it."""

    def __init__(self, tied: TiedColumns, index: int) -> None:
        self.tied, self.index = tied, index

    def token_embeddings(self, module: torch.nn.Module, embed: Embed) -> torch.Tensor:
        """See `TiedColumns.token_embeddings`."""
        return self.tied.token_embeddings(self.index, module, embed)


def tie_columns_(columns: Sequence[dict[str, Any]]) -> None:
    """Have the columns of a batch embedded in one pass; padded columns, or a single one, are left as they are.

    Args:
        columns: features of each column, as a loss gets them.
    """
    if len(columns) > 1 and all("cu_seq_lens_q" in features for features in columns):
        tied = TiedColumns(columns)
        for index, features in enumerate(columns):
            features[COLUMN] = Column(tied, index)
