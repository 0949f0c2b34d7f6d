"""Hard negatives: for each pair a sentence that is about the same and means something else."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence

from lacos_st.errors import UserError

logger = logging.getLogger(__name__)

TRIES = 20
"""Draws of another pair's positive before a pair is given up; in data of one sentence all of them fail."""


def draw_negatives(
    anchors: Sequence[str],
    positives: Sequence[str],
    negatives: Sequence[tuple[str, str]],
    *,
    seed: int,
    spare: Sequence[str] | None = None,
) -> list[str]:
    """A negative for each pair: one of its anchor's, or else the positive of another pair.

    The stock loss takes rows of one width. Another pair's positive, for the pairs without a negative of their own, is
    what the batch holds anyway, once more.

    Args:
        anchors: N sentences.
        positives: N sentences.
        negatives: (an anchor, a sentence that does not mean the same); several of one anchor are drawn from.
        seed: of the draws.
        spare: positives of other pairs, for a pair that none of `positives` can be a negative of. Where they are given,
            the pairs are a part of the data, and none of them needs a negative of its own.

    Raises:
        UserError: no anchor has a negative where there is no `spare`, or a pair's negative cannot be drawn.
    """
    known: dict[str, list[str]] = {}
    for anchor, negative in dict.fromkeys(negatives):
        known.setdefault(anchor, []).append(negative)
    chance = random.Random(seed)
    meant: dict[str, set[str]] = {}
    for anchor, positive in zip(anchors, positives, strict=True):
        meant.setdefault(anchor, {anchor}).add(positive)
    drawn = []
    own = 0
    for anchor in anchors:
        choices = [negative for negative in known.get(anchor, ()) if negative not in meant[anchor]]
        own += bool(choices)
        pools = [pool for pool in (positives, spare) if pool]
        drawn.append(chance.choice(choices) if choices else _another(pools, meant[anchor], chance))
    if not own and spare is None:
        raise UserError(
            "no pair has a hard negative: expected NLI rows with contradictions of the same premise, or a column "
            "negative beside anchor and positive; leave hard_negatives out otherwise"
        )
    logger.info("hard negatives: %d of %d pairs have one; the others get another pair's positive", own, len(drawn))
    return drawn


def _another(pools: Sequence[Sequence[str]], not_these: set[str], chance: random.Random) -> str:
    for pool in pools:
        for _ in range(TRIES):
            if (drawn := chance.choice(pool)) not in not_these:
                return drawn
    raise UserError(f"{TRIES} draws gave no negative that differs from its pair: the data holds too few sentences")
