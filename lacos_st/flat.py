"""A batch in sentence-transformers' features as one flat row of real tokens, for transformers' models."""

from __future__ import annotations

from typing import Any, cast

import torch
from transformers import DataCollatorWithFlattening

from lacos_st.errors import UserError
from lacos_st.ragged import RaggedLayout, padded_to_flat, ragged_layout


def attended(stock: Any) -> Any:
    """The stock property `query_expansion`, which refuses tokens that nothing attends to: they have no embedding here.

    Args:
        stock: property of sentence-transformers' `Transformer`.
    """

    def expand(module: Any, value: Any) -> None:
        if value is not None and not value.get("attend", False):
            raise UserError('query_expansion needs "attend": True: without, its tokens are padding, which is not read')
        stock.__set__(module, value)

    return property(stock.__get__, expand, doc=stock.__doc__)


class FlatCollator(DataCollatorWithFlattening):
    """The stock collator, which leaves token types out: texts that have any, the second ones of pairs, are refused."""

    def __init__(self) -> None:
        super().__init__(return_seq_idx=True, return_flash_attn_kwargs=True, return_position_ids=True)

    def __call__(self, features: list[dict[str, Any]], *args: Any, **kwargs: Any) -> dict[str, Any]:
        """See the stock collator.

        Raises:
            UserError: a token type is not 0.
        """
        if any(any(sample.get("token_type_ids", ())) for sample in features):
            raise UserError(
                "the second text of a pair has token types, which batches without padding leave out: set "
                "model[0].unpad_inputs = False"
            )
        return cast(dict[str, Any], super().__call__(features, *args, **kwargs))


def flat_features(
    features: dict[str, Any], *, position_offset: int
) -> tuple[dict[str, Any], torch.Tensor, RaggedLayout]:
    """Lay the real tokens of a batch in a row, in the order in which ragged attention wants them.

    Args:
        features: `input_ids` int64 (1, ΣT) with `cu_seq_lens_q` int32 (N + 1,), or (N, T) with `attention_mask` or
            without one, where every token is real.
        position_offset: the position of a sentence's first token (RoBERTa's is 2, most models' 0).

    Returns:
        The features for the model: `input_ids`, `position_ids` and, where there are any, `token_type_ids` (1, number
        of real tokens); where each of those tokens stands in the flattened `input_ids`, int64; the layout of the row.
    """
    input_ids = features["input_ids"]
    index = None
    cu_seq_lens = features.get("cu_seq_lens_q")
    if cu_seq_lens is None:
        mask = features.get("attention_mask")
        index, cu_seq_lens = padded_to_flat(torch.ones_like(input_ids) if mask is None else mask)
    layout = ragged_layout(cu_seq_lens)
    source = torch.arange(input_ids.numel(), device=input_ids.device) if index is None else index
    source = source if layout.order is None else source[layout.order]
    flat = {
        "input_ids": input_ids.flatten()[source][None],
        "position_ids": layout.position_ids[None] + position_offset,
        "modality": features.get("modality", "text"),
    }
    if "token_type_ids" in features:
        flat["token_type_ids"] = features["token_type_ids"].flatten()[source][None]
    return flat, source, layout


def restored(embedded: torch.Tensor, source: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Token embeddings back at their places: (n, H) to (rows, columns, H), zeros where there was no token.

    Args:
        embedded: of n real tokens.
        source: where each of them stands in the flattened batch, int64 (n,).
        rows: of the batch.
        columns: of the batch.
    """
    full = embedded.new_zeros(rows * columns, embedded.shape[-1]).index_copy(0, source, embedded)
    return full.unflatten(0, (rows, columns))
