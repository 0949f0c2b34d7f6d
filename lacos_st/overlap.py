"""Sentences that stand in training rows and in evaluation sets alike: found, and left out.

>>> normalise("``We did n't ,'' she said .") == normalise('"We didn\u2019t," she said.')
True
"""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)


def remove_overlap(
    pairs: Dataset, sentences: Collection[str], *, name: str = "an evaluation set"
) -> tuple[Dataset, int]:
    """Drop the rows that hold any of the evaluation `sentences`, whatever its case, white space and punctuation.

    Args:
        pairs: Dataset of any columns; those that hold text are compared.
        sentences: Sentences of the evaluation sets.
        name: What the warning calls them.

    Returns:
        The rows that are left, and how many were dropped.
    """
    found = find_overlap(pairs, sentences)
    level = logging.WARNING if found.rows else logging.INFO
    logger.log(
        level,
        "%d of %d training rows hold a sentence of %s and are left out (%d of its %d sentences)",
        *(len(found.rows), len(pairs), name, found.sentences, found.of),
    )
    dropped = set(found.rows)
    return pairs.select([place for place in range(len(pairs)) if place not in dropped]), len(dropped)


def without_overlap(negatives: Sequence[tuple[str, str]], sentences: Collection[str]) -> list[tuple[str, str]]:
    """The negatives, each beside its anchor, that are none of the evaluation `sentences`; compared as above."""
    known = {normalise(sentence) for sentence in sentences} if negatives else set()
    return [(anchor, negative) for anchor, negative in negatives if normalise(negative) not in known]


@dataclass(frozen=True)
class Overlap:
    """What training rows and an evaluation set have in common; sentences are compared as `remove_overlap` does.

    Attributes:
        rows: Places of the training rows that hold a sentence of the evaluation set, ascending.
        sentences: How many different sentences of the evaluation set they hold.
        of: How many different sentences the evaluation set has.
    """

    rows: tuple[int, ...]
    sentences: int
    of: int


def find_overlap(pairs: Dataset, sentences: Collection[str]) -> Overlap:
    """The training rows that hold any of `sentences`, of an evaluation set; nothing is left out."""
    known = {normalise(sentence) for sentence in sentences}
    columns = [pairs[name] for name, kind in pairs.features.items() if getattr(kind, "dtype", None) == "string"]
    places, shared = [], set()
    for place, texts in enumerate(zip(*columns, strict=True) if known else ()):
        held = known.intersection(normalise(text) for text in texts if text is not None)
        if held:
            places.append(place)
            shared |= held
    return Overlap(rows=tuple(places), sentences=len(shared), of=len(known))


class _Kept(dict[int, int | None]):
    """For str.translate: letters, their marks and digits as they are, nothing else; filled as it is asked."""

    def __missing__(self, code: int) -> int | None:
        self[code] = code if unicodedata.category(chr(code))[0] in "LMN" else None
        return self[code]


_KEPT = _Kept()


def normalise(sentence: str) -> str:
    """The form in which sentences are compared: case-folded (NFKC), letters, their marks and digits alone.

    Raw text and the same text tokenised differ in spaces and in punctuation. Where nothing else is left of a sentence
    (an emoji, say), it is these, without the spaces.
    """
    folded = unicodedata.normalize("NFKC", sentence).casefold()
    return folded.translate(_KEPT) or "".join(folded.split())
