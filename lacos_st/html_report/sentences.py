"""Sentences of the heat map: a set of ours, or a file's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lacos_st.errors import UserError

MOST = 200
"""Sentences of a page: values grow with their square."""
SENTENCES = (
    "A man is playing a guitar.",
    "Un hombre toca la guitarra.",
    "Un homme joue de la guitare.",
    "Um homem toca violão.",
    "एक आदमी गिटार बजा रहा है।",
    "一个男人在弹吉他。",
    "The train is late again.",
    "El tren llega tarde otra vez.",
    "Le train est encore en retard.",
    "O trem está atrasado de novo.",
    "ट्रेन फिर से देर से आई है।",
    "火车又晚点了。",
    "A woman is cooking soup.",
    "Una mujer cocina una sopa.",
    "Une femme prépare une soupe.",
    "Someone is making music.",
    "Nobody is playing an instrument.",
    "The train is on time today.",
    "Where is the nearest hospital?",
    "The price of oil fell by three percent.",
)
"""Meanings in languages that BLOOM saw, a near one, and an opposite one."""


def read_sentences(file: Path | None) -> list[str]:
    """The sentences, each once; lines without text are left out.

    Raises:
        UserError: the file cannot be read, or holds fewer than two sentences or more than `MOST`.
    """
    if file is None:
        return list(SENTENCES)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--sentences {file} cannot be read ({error}): expected a text file, UTF-8") from error
    found: Sequence[str] = list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    if not 2 <= len(found) <= MOST:
        raise UserError(
            f"--sentences {file} holds {len(found)} sentences: expected 2 to {MOST}, one on each line, as a value is "
            "computed for each pair"
        )
    return list(found)
