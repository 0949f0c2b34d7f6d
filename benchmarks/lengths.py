"""Lengths of real NLI pairs, recorded once so that the benchmarks run anywhere; `python -m benchmarks.lengths` did it.

`data/nli_lengths.json` holds 2,000 English entailment pairs, in random order, half from SNLI and half from XNLI (which
is MNLI's test domain), as [premise tokens, hypothesis tokens, premise characters, hypothesis characters]; no text. The
tokens are bloom-nano's. Stock `encode` sorts by characters, so both are kept.
"""

from __future__ import annotations

import json
import os
import random
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoTokenizer

from benchmarks import rows

FILE = Path(__file__).parent / "data" / "nli_lengths.json"
SOURCES = {"SNLI": ("snli_sample18k.tsv",), "XNLI": ("xnli/dev.en.tsv", "xnli/test.en.tsv")}
PAIRS_PER_SOURCE = 1000
WORD_CHARACTERS = 3
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
WORDS = len(DIGITS) ** WORD_CHARACTERS


@dataclass(frozen=True)
class Length:
    """A sentence's length."""

    tokens: int
    characters: int


Pair = tuple[Length, Length]


def read() -> list[Pair]:
    """The recorded pairs (premise, hypothesis), in their random order."""
    found = json.loads(FILE.read_text(encoding="utf-8"))["pairs"]
    return [(Length(a, c), Length(b, d)) for a, b, c, d in found]


def word(number: int) -> str:
    """The synthetic word of a number below `WORDS`: three digits in base 36, one token."""
    digits = ""
    for _ in range(WORD_CHARACTERS):
        number, digit = divmod(number, len(DIGITS))
        digits = DIGITS[digit] + digits
    return digits


def text(length: Length, *, words: int, generator: random.Random) -> str:
    """A sentence of `length.tokens` random words, with blanks up to `length.characters` where the words are shorter.

    Args:
        length: of a real sentence.
        words: how many different words there are.
        generator: of the choice of words.
    """
    chosen = (word(generator.randrange(words)) for _ in range(length.tokens))
    return " ".join(chosen).ljust(length.characters)


def texts(pairs: list[Pair], *, words: int, seed: int = 0) -> list[tuple[str, str]]:
    """Synthetic pairs of these lengths, always the same ones."""
    generator = random.Random(seed)
    return [
        (text(first, words=words, generator=generator), text(second, words=words, generator=generator))
        for first, second in pairs
    ]


def tokens(pairs: list[Pair]) -> list[int]:
    """Tokens of every sentence: first all premises, then all hypotheses."""
    return [pair[0].tokens for pair in pairs] + [pair[1].tokens for pair in pairs]


def record() -> dict[str, object]:
    """Measure the real sentences below LACOS_DATA (default: ../shared/data beside the repository)."""
    data = Path(os.environ.get("LACOS_DATA", rows.ROOT.parent / "shared" / "data")) / "nli"
    tokenizer = AutoTokenizer.from_pretrained(rows.ROOT / "lacos_st" / "assets" / "bloom-nano")
    pairs = []
    for files in SOURCES.values():
        lines = [line for file in files for line in (data / file).read_text(encoding="utf-8").splitlines()]
        found = [cells[1:] for line in lines if (cells := line.split("\t"))[0] == "entailment"]
        for first, second in random.Random(0).sample(found, PAIRS_PER_SOURCE):
            counts = [len(ids) for ids in tokenizer([first, second]).input_ids]
            pairs.append([*counts, len(first), len(second)])
    random.Random(0).shuffle(pairs)
    return {
        "tokenizer": "bloom-nano",
        "sources": {name: list(files) for name, files in SOURCES.items()},
        "pairs": pairs,
    }


def main() -> None:
    """Write the file anew."""
    found = record()
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps(found).replace("], [", "],\n [") + "\n", encoding="utf-8")
    counts = tokens(read())
    print(f"{len(counts)} sentences, mean {sum(counts) / len(counts):.1f}, longest {max(counts)} tokens")


if __name__ == "__main__":
    main()
