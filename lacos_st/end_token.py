"""The token that ends a text, put behind each one: what last-token pooling reads is then not a text's last word."""

from __future__ import annotations

from typing import Any

from lacos_st.errors import UserError


def end_texts_(tokenizer: Any) -> None:
    """Have a tokenizer put its `eos_token` behind each text; a text that is cut off keeps it.

    By the tokenizer's own switch, which is saved with it: other libraries that load it read alike.

    Args:
        tokenizer: of transformers, with the tokenizers library behind it.

    Raises:
        UserError: it has no such token, or no way to put it there.
    """
    end = getattr(tokenizer, "eos_token_id", None)
    if end is None:
        raise UserError("end_token: the base's tokenizer has no token that ends a text (eos_token); leave it out")
    if _ends(tokenizer, end):
        return
    tokenizer.add_eos_token = True
    if not _ends(tokenizer, end):
        raise UserError(
            f"end_token: the base's {type(tokenizer).__name__} puts no {tokenizer.eos_token!r} behind a text when it "
            "is told to; leave it out"
        )


def _ends(tokenizer: Any, end: int) -> bool:
    return tokenizer("a").input_ids[-1:] == [end]
