"""Echo embeddings: each text is read twice, and the tokens of its second reading, which have seen all of it, are kept.

After Springer et al., "Repetition improves language model embeddings" (arXiv 2402.15449), without words between the
two readings. A causal model's tokens see what stands before them only; in the second reading that is the whole text.
"""

from __future__ import annotations

from typing import Any

import torch

from lacos_st.ragged import padded_to_flat


def doubled(features: dict[str, Any]) -> tuple[dict[str, Any], torch.Tensor, torch.Tensor]:
    """A batch in which each text stands twice in a row.

    Args:
        features: `input_ids` int64 (1, ΣT) with `cu_seq_lens_q` int32 (N + 1,), or (N, T) with `attention_mask` or
            without one, where every token is real.

    Returns:
        The flat features, `input_ids` (1, 2·ΣT) of the real tokens and `cu_seq_lens_q`; where the tokens of the second
        readings stand among them, int64 (ΣT,); and where each of these stands in the flattened input, int64 (ΣT,).
    """
    ids = features["input_ids"]
    bounds = features.get("cu_seq_lens_q")
    if bounds is None:
        mask = features.get("attention_mask")
        place, bounds = padded_to_flat(torch.ones_like(ids) if mask is None else mask)
    else:
        place = torch.arange(ids.numel(), device=ids.device)
    tokens = ids.flatten()[place]
    starts = bounds[:-1].to(ids.device, torch.int64)
    lengths = bounds.diff().to(ids.device, torch.int64)
    first = torch.arange(len(tokens), device=ids.device) + starts.repeat_interleave(lengths)
    second = first + lengths.repeat_interleave(lengths)
    twice = tokens.new_empty(2 * len(tokens))
    twice[first] = tokens
    twice[second] = tokens
    flat = {"input_ids": twice[None], "cu_seq_lens_q": bounds * 2, "modality": features.get("modality", "text")}
    return flat, second, place
