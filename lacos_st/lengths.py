"""How many tokens of a text a model can read, and does: by its positions, its attention's window and its readings."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lacos_st.errors import UserError

if TYPE_CHECKING:
    from lacos_st.settings import TrainConfig

logger = logging.getLogger(__name__)


def window(config: Any) -> int | None:
    """The tokens that the attention of a base looks back over, as its configuration has them; None: over all.

    Llama 4 looks back to the beginning of a chunk of them: the first chunk is a window.
    """
    text = config.get_text_config()
    kinds = getattr(text, "layer_types", None)
    if kinds is not None and "chunked_attention" in kinds:
        return int(text.attention_chunk_size)
    size = getattr(text, "sliding_window", None)
    if not isinstance(size, int) or size < 1 or (kinds is not None and "sliding_attention" not in kinds):
        return None
    return size


def most_tokens(config: Any, *, echo: bool, position_offset: int = 0) -> int | None:
    """The longest text that can be read.

    Args:
        config: of the base.
        echo: whether the text is read twice (`lacos_st.echo`), which takes two positions for each token.
        position_offset: the position of a text's first token.

    Returns:
        tokens; None where nothing of ours limits them. Positions do under echo only: else sentence-transformers heeds
        them.
    """
    positions = getattr(config.get_text_config(), "max_position_embeddings", None) if echo else None
    room = None if positions is None or positions < 1 else positions - position_offset
    sizes = [size for size in (window(config), room) if size is not None]
    return min(sizes) // (1 + echo) if sizes else None


def cap_length_(module: Any, asked: int | None, *, position_offset: int) -> None:
    """Have a module's tokenizer cut texts where `most_tokens` says; the log tells where more was to be expected.

    Args:
        module: a `LoRA8bit`.
        asked: the length that its caller named, if any.
        position_offset: the position of a text's first token.
    """
    tokenizer = module.tokenizer
    most = most_tokens(module.config, echo=module.echo, position_offset=position_offset)
    if tokenizer is None or most is None or tokenizer.model_max_length <= most:
        return
    tokenizer.model_max_length = most
    if asked is not None or window(module.config) is not None:
        logger.warning(f"texts are cut after {most} tokens: {_why(module.config, echo=module.echo)}")


def check_length(config: Any, length: int, *, echo: bool, position_offset: int) -> None:
    """That a batch can be read, whatever `max_seq_length` was set to since the model was made.

    Args:
        config: of the base.
        length: tokens of the batch's longest text, all readings together.
        echo: as in `most_tokens`.
        position_offset: as in `most_tokens`.

    Raises:
        UserError: it cannot.
    """
    most = most_tokens(config, echo=echo, position_offset=position_offset)
    if most is not None and length > most * (1 + echo):
        raise UserError(
            f"a text of {length // (1 + echo)} tokens is too long: {_why(config, echo=echo)}; set max_seq_length={most}"
        )


def _why(config: Any, *, echo: bool) -> str:
    size = window(config)
    has = (
        f"has {config.get_text_config().max_position_embeddings} positions"
        if size is None
        else f"attends within a window of {size} tokens"
    )
    return f"the base {has}" + (", and echo reads each text twice" if echo else "")


def tokens_read(config: TrainConfig, tokenizer: Any, texts: Sequence[str]) -> list[int]:
    """Tokens that a run reads of each text: in its chat template, with its prompt, cut off, and twice with echo.

    Args:
        config: of the run.
        tokenizer: of its base.
        texts: sentences.
    """
    limit = min(config.max_seq_length or tokenizer.model_max_length, tokenizer.model_max_length)
    prompt = config.prompt or ""
    if config.chat_template and tokenizer.chat_template and texts:
        system = [{"role": "system", "content": prompt}] * bool(prompt)
        messages = [[*system, {"role": "user", "content": text}] for text in texts]
        found = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    else:
        found = tokenizer([prompt + text for text in texts], verbose=False).input_ids if texts else []
    return [(1 + config.echo) * min(len(ids), limit) for ids in found]
