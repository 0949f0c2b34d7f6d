"""`check_isolation`: that a base reads each text of a flat batch as if it were alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel

from lacos_st.errors import UserError

PROVEN = frozenset(
    ("llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "gemma", "gemma3_text", "gpt_neox", "opt", "gpt2")
    + ("gpt_bigcode", "phi", "phi3", "olmo2", "smollm3", "granite", "cohere", "starcoder2")
)
"""Decoders that `tests/test_isolation.py` compares with stock: large ones would be read three times for nothing."""

LENGTHS = (9, 5)
"""Tokens of the two texts that are read together and alone."""

TOLERANCE = {torch.float32: 1e-3}
HALF = 5e-2
"""Of 16-bit bases, whose rounding depends on the batch."""

Read = Callable[[dict[str, Any]], torch.Tensor]


def check_isolation(model: PreTrainedModel, read: Read, *, limit: int | None = None) -> None:
    """Read two texts in one flat batch and each alone, unless the architecture is one that tests prove.

    Layers that take their attention from elsewhere than transformers' interface, convolutions and recurrent layers see
    a flat batch as one long text, without an error.

    Args:
        model: the base.
        read: gives the token embeddings, (1, ΣT, H), of `input_ids` (1, ΣT) with `cu_seq_lens_q` (N + 1,).
        limit: the longest text that may be read.

    Raises:
        UserError: it cannot be read so, or its token embeddings are others beside another text.
    """
    kind = getattr(model.config, "model_type", type(model).__name__)
    if kind in PROVEN:
        return
    table: Any = model.get_input_embeddings()
    lengths = [max(1, min(length, limit or length)) for length in LENGTHS]
    count = sum(lengths)
    ids = torch.arange(1, count + 1, device=model.device) * max(1, table.weight.shape[0] // (count + 2))
    ids = ids.clamp(max=table.weight.shape[0] - 1)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(model.device.type, enabled=False):
            together = _read(read, ids, lengths)
            alone = torch.cat([_read(read, part, [len(part)]) for part in ids.split(lengths)])
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise UserError(f"{_cannot(kind)} ({type(error).__name__}: {error})") from error
    finally:
        model.train(was_training)
    apart = max(
        float((one - other).norm() / other.norm().clamp(min=1e-12))
        for one, other in zip(together.split(lengths), alone.split(lengths), strict=True)
    )
    if not apart <= TOLERANCE.get(model.dtype, HALF):
        raise UserError(f"{_cannot(kind)} (beside another text its token embeddings differ by {100 * apart:.2g} %)")


def _read(read: Read, ids: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    ends = torch.tensor([0, *lengths], device=ids.device).cumsum(0).to(torch.int32)
    return read({"input_ids": ids[None], "cu_seq_lens_q": ends})[0].float()


def _cannot(kind: str) -> str:
    return (
        f"a base of type {kind!r} does not keep the texts of a batch apart in lacos_st's batches without padding: its "
        "layers do not take their attention from transformers' attention interface, or carry a state along. Take "
        "another base, or sentence-transformers' own Transformer module"
    )
