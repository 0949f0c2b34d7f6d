"""What is said of training rows beforehand: duplicates in a batch, cut sentences, overlap with evaluation sets."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lacos_st.embedded import resolve
from lacos_st.errors import UserError
from lacos_st.lengths import most_tokens
from lacos_st.overlap import find_overlap
from lacos_st.settings import TrainConfig

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

TOKENIZED_AT_A_TIME = 1000
GROWTH = 11  # bytes that Unicode's normal forms make of one, at most: Unicode Standard Annex 15, "Stability"; U+FDFA
ADDED_TOKENS = 16  # more than any tokenizer adds around a sentence
FEW = 0.01  # of the rows: so many an epoch may miss at its end without a warning
BLOOM_LENGTH = 2048  # tokens BLOOM was trained on; its tokenizer names no limit
NO_LIMIT = 1_000_000  # transformers writes "no limit" as 1e30


@dataclass(frozen=True)
class CutSentences:
    """Sentences of which the model sees only the start.

    Attributes:
        limit: Tokens that the model keeps, those that the tokenizer adds included; None where it keeps all.
        sentences: Sentences looked at.
        cut: How many are longer than the limit.
        longest: Tokens of the longest of these; 0 without any.
    """

    limit: int | None
    sentences: int
    cut: int
    longest: int


def tell(config: TrainConfig, rows: Dataset, *, evaluation: Mapping[str, Sequence[str]]) -> None:
    """Log what is the matter with the training rows: a warning for each finding, a line of the log for what is fine.

    Args:
        config: The run's options.
        rows: What it trains on, validation left out.
        evaluation: Sentences of the evaluation sets, by the name that the warning gives them.

    Raises:
        UserError: The base has no configuration or no tokenizer.
    """
    for name, sentences in evaluation.items():
        found = find_overlap(rows, sentences)
        if found.rows:
            logger.warning(
                "%d of %d training rows hold a sentence of %s (%d of its %d sentences): its figures will flatter the "
                "model; leave such rows out of the training data, with exclude_sts where it is a set of graded pairs",
                *(len(found.rows), len(rows), name, found.sentences, found.of),
            )
        else:
            logger.info("no training row holds a sentence of %s", name)
    texts = _texts(rows)
    _tell_duplicates(config, texts, rows=len(rows))
    prompt = config.prompt or ""
    found_cut = cut_sentences(config, [prompt + text for column in texts for text in column])
    if prompt and found_cut.limit is not None and found_cut.cut and (room := _room(config)) < 1:
        raise UserError(
            f"prompt takes {found_cut.limit - room} tokens and the model keeps {found_cut.limit} of a text, so that it "
            "would see nothing of any sentence: shorten the prompt, or raise max_seq_length"
        )
    if found_cut.cut:
        logger.warning(
            "%d of %d training sentences are longer than the model's limit of %d tokens (the longest: %d): the rest of "
            "them is cut off; shorten them, or raise max_seq_length as far as the base allows",
            *(found_cut.cut, found_cut.sentences, found_cut.limit, found_cut.longest),
        )
    else:
        logger.info("no training sentence is longer than the model's limit of %s tokens", found_cut.limit)


def _texts(rows: Dataset) -> list[list[str]]:
    """The columns of text."""
    return [list(rows[name]) for name, kind in rows.features.items() if getattr(kind, "dtype", None) == "string"]


def _tell_duplicates(config: TrainConfig, texts: list[list[str]], *, rows: int) -> None:
    if config.method == "sbert":
        return  # no negatives in a batch, so no false ones
    count = duplicates_in_batches(texts, batch_size=config.batch_size, seed=config.seed)
    start = f"in the first epoch's order {count} of {rows} rows share a sentence with a row before them in their batch"
    if not count:
        logger.info("%s", start)
    elif config.allow_duplicates:
        logger.warning("%s, a false negative: allow_duplicates leaves them there", start)
    else:
        _tell_epoch(config, texts, rows=rows, start=start)


def _tell_epoch(config: TrainConfig, texts: list[list[str]], *, rows: int, start: str) -> None:
    """What of the rows the first epoch reaches: it has as many batches as if all of them were full."""
    sizes = batch_sizes(texts, batch_size=config.batch_size, seed=config.seed)
    missed = rows - sum(sizes)
    level = logging.WARNING if missed > FEW * rows else logging.INFO
    logger.log(
        level,
        "%s, a false negative: the no-duplicates sampler moves them to later batches. An epoch of %d batches, with "
        "%.1f rows on average, does not reach %d of the rows%s",
        *(start, len(sizes), sum(sizes) / len(sizes), missed),
        ": lower batch_size, take more epochs, or allow_duplicates with its false negatives"
        if missed > FEW * rows
        else "",
    )


def can_validate(config: TrainConfig, rows: Dataset) -> bool:
    """Whether any of the rows has a negative; without, the validation loss is 0 whatever the model.

    Batches hold no sentence twice: of rows that all share one, each would be a batch of its own. Where less than half
    of the rows are reached, a warning says so.

    Args:
        config: The run's options.
        rows: To validate on.
    """
    if config.method == "sbert":
        return True
    if config.allow_duplicates:
        return len(rows) > 1 or config.hard_negatives
    sizes = batch_sizes(_texts(rows), batch_size=config.batch_size, seed=config.seed)
    if max(sizes) < 2 and not config.hard_negatives:  # which are negatives of their own row
        return False
    if 2 * sum(sizes) < len(rows):
        logger.warning(
            "the validation loss is of %d of its %d rows, in batches of %.1f rows on average: the others share "
            "sentences with these, which batches hold once; more different sentences would make it steadier",
            *(sum(sizes), len(rows), sum(sizes) / len(sizes)),
        )
    return True


def duplicates_in_batches(texts: Sequence[Sequence[str]], *, batch_size: int, seed: int) -> int:
    """How many rows the no-duplicates sampler has to move: those that repeat a text of their batch.

    The order is that of the stock sampler in the first epoch, cut into batches as it stands: a row counts where one of
    its texts is a text of a row before it in the batch. (The stock sampler puts such a row off to the next batch that
    has none of its texts; each batch then starts a few rows later, which is not followed up here.)

    Args:
        texts: Columns of N texts each.
        batch_size: Rows of a batch.
        seed: The run's seed.
    """
    import torch

    count = len(texts[0]) if texts else 0
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed), dtype=torch.int32).tolist()
    moved = 0
    for start in range(0, count, batch_size):
        seen: set[str] = set()
        for place in order[start : start + batch_size]:
            row = {column[place] for column in texts}
            if row.isdisjoint(seen):
                seen |= row
            else:
                moved += 1
    return moved


def batch_sizes(texts: Sequence[Sequence[str]], *, batch_size: int, seed: int) -> list[int]:
    """Rows in each batch of the first epoch, as the no-duplicates sampler makes them.

    A row that repeats a text of its batch waits for the next; a batch that no row is left for stays smaller. The epoch
    ends after as many batches as full ones would be, whatever still waits.

    Args:
        texts: Columns of N texts each.
        batch_size: Rows of a full batch.
        seed: The run's seed.
    """
    import torch

    numbers: dict[str, int] = {}
    rows = [tuple(numbers.setdefault(text, len(numbers)) for text in row) for row in zip(*texts, strict=True)]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed), dtype=torch.int32).tolist()
    waiting = [rows[place] for place in order]
    sizes: list[int] = []
    start = 0  # of those that no batch has come to yet
    deferred: list[tuple[int, ...]] = []
    while len(sizes) < -(-len(rows) // batch_size):
        seen: set[int] = set()
        size, again = 0, []
        queue = iter(deferred)
        for row in queue:
            if seen.isdisjoint(row):
                seen.update(row)
                size += 1
                if size == batch_size:
                    break
            else:
                again.append(row)
        again += queue
        while size < batch_size and start < len(waiting):
            row = waiting[start]
            start += 1
            if seen.isdisjoint(row):
                seen.update(row)
                size += 1
            else:
                again.append(row)
        deferred = again
        sizes.append(size)
    return sizes


def _room(config: TrainConfig) -> int:
    """Tokens that the prompt leaves for a sentence."""
    tokenizer, limit = _tokenizer_and_limit(config)
    assert limit is not None  # else nothing is cut
    (length,) = _lengths(tokenizer, [(config.prompt or "").rstrip()])
    return limit - length


def cut_sentences(config: TrainConfig, sentences: Sequence[str]) -> CutSentences:
    """Count the sentences longer than the model's limit, before the model is there: its tokenizer is enough.

    Only sentences that can be too long are tokenised: one has no more tokens than bytes, after normalisation.

    Raises:
        UserError: The base has no configuration or no tokenizer.
    """
    tokenizer, limit = _tokenizer_and_limit(config)
    return _count_cut(tokenizer, sentences, limit)


def _tokenizer_and_limit(config: TrainConfig) -> tuple[PreTrainedTokenizerBase, int | None]:
    from lacos_st.loading import read_config, read_tokenizer

    path = resolve(config.base)
    hub = {} if config.revision is None else {"revision": config.revision}
    base = read_config(path, **hub)
    tokenizer = read_tokenizer(path, **hub)
    return tokenizer, model_limit(base, tokenizer, max_seq_length=config.max_seq_length, echo=config.echo)


def cut_by(model: SentenceTransformer, sentences: Sequence[str]) -> CutSentences | None:
    """The sentences that a loaded model will cut, prompts left out; None where its first module tokenises otherwise."""
    from transformers import PreTrainedTokenizerBase

    tokenizer = getattr(model, "tokenizer", None)
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        return None
    return _count_cut(tokenizer, sentences, model.max_seq_length)


def _count_cut(tokenizer: PreTrainedTokenizerBase, sentences: Sequence[str], limit: int | None) -> CutSentences:
    cut = longest = 0
    if limit is not None:
        for length in _lengths(tokenizer, [text for text in sentences if _most_tokens(text) > limit]):
            if length > limit:
                cut, longest = cut + 1, max(longest, length)
    return CutSentences(limit=limit, sentences=len(sentences), cut=cut, longest=longest)


def model_limit(
    base: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, *, max_seq_length: int | None, echo: bool = False
) -> int | None:
    """Tokens that the encoder of this base will keep of a sentence, as `SentenceTransformer.max_seq_length` has it."""
    most = most_tokens(base, echo=echo)
    if max_seq_length is not None:
        return max_seq_length if most is None else min(max_seq_length, most)
    limit = int(tokenizer.model_max_length)
    positions = getattr(base, "max_position_embeddings", -1)
    if positions != -1:
        limit = min(limit, positions)
    if base.model_type == "bloom" and limit > NO_LIMIT:
        limit = (getattr(base, "seq_length", None) or BLOOM_LENGTH) // (1 + echo)
    if most is not None:
        limit = min(limit, most)
    return None if limit > NO_LIMIT else limit


def _most_tokens(text: str) -> int:
    return len(text.encode()) * (1 if text.isascii() else GROWTH) + ADDED_TOKENS


def _lengths(tokenizer: Any, sentences: list[str]) -> Iterable[int]:
    for start in range(0, len(sentences), TOKENIZED_AT_A_TIME):
        batch = sentences[start : start + TOKENIZED_AT_A_TIME]
        for ids in tokenizer(batch, truncation=False, padding=False, verbose=False).input_ids:
            yield len(ids)
