"""Training pairs of many languages, or as many English ones: `python -m benchmarks.multilingual.pairs DATA OUT.tsv`.

All kinds hold the same English caption pairs. The rest of `--kind many` is XNLI's entailments (premise and hypothesis
in one language, or each in its own), NTREX and Multi30k's translations; of `en`, the entailments of SNLI and of XNLI's
English rows; of `monolingual`, XNLI's entailments, both sentences in one language; of `translated`, sentences beside
their translations: XNLI's premises, NTREX and Multi30k. No sentence of STS-B's dev sets in any language is kept;
`lacos-st train --exclude-sts` leaves out those of the test sets. Nothing is taken from Tatoeba, which is evaluation.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from datasets import Dataset

from lacos_st.data import load_pairs
from lacos_st.errors import UserError
from lacos_st.overlap import remove_overlap
from lacos_st.sts import load_tasks

Pair = tuple[str, str]
Item = TypeVar("Item")
KINDS = ("many", "en", "monolingual", "translated")
ENGLISH_CAPTIONS = 5  # the first columns of the captions of a picture
SHARES = {"xnli": 0.45, "ntrex": 0.25, "multi30k": 0.15}  # of `many`; the rest are captions
CAPTIONS = 1.0 - sum(SHARES.values())
CROSS_LINGUAL = 1 / 2  # of XNLI's pairs
SPARE = (1.1, 1.5, 2.0, 3.0)  # times as many are drawn as are wanted: pairs drawn twice and those of dev sets go
FAVOURED = {"ar", "en", "es", "arb", "spa"}  # the languages of STS17's tracks that the mean is over
FAVOUR = 6  # times as often as another language


def xnli(data: Path, rows: int, chance: random.Random, *, across: float = CROSS_LINGUAL) -> list[Pair]:
    """Entailments, each premise and hypothesis in drawn languages; a pair is drawn again only when all were.

    Args:
        data: folder with `nli`.
        rows: pairs to draw.
        chance: of the draws.
        across: the part of them whose hypothesis is in another language than their premise.

    Raises:
        UserError: the languages' files are not aligned line by line.
    """
    pairs = []
    for row in _draw(_entailed(data), rows, chance):
        first = second = _language(row, chance)
        if chance.random() < across:
            second = _language(set(row) - {first}, chance)
        pairs.append((row[first][0], row[second][1]))
    return pairs


def xnli_translations(data: Path, rows: int, chance: random.Random) -> list[Pair]:
    """Premises in two drawn languages; raises as `xnli`."""
    pairs = []
    for row in _draw(_entailed(data), rows, chance):
        first = _language(row, chance)
        pairs.append((row[first][0], row[_language(set(row) - {first}, chance)][0]))
    return pairs


def _entailed(data: Path) -> list[dict[str, Pair]]:
    """XNLI's entailments: of each, premise and hypothesis by language."""
    entailed: list[dict[str, Pair]] = []
    for split in ("dev", "test"):
        tables = {
            file.name.split(".")[1]: _cells(file)
            for file in sorted((data / "nli" / "xnli").glob(f"{split}.*.tsv"))
            if file.name.split(".")[1] != "eu"  # a later translation of the test split alone
        }
        for number, line in enumerate(zip(*tables.values(), strict=True), start=1):
            labels = {cells[0] for cells in line}
            if len(labels) != 1:
                raise UserError(f"XNLI {split}, line {number}: labels {sorted(labels)}: the files are not aligned")
            if labels == {"entailment"}:
                entailed.append({name: (cells[1], cells[2]) for name, cells in zip(tables, line, strict=True)})
    return entailed


def ntrex(data: Path, rows: int, chance: random.Random) -> list[Pair]:
    """English lines with their translation into a drawn language."""
    texts = {file.stem: _lines(file) for file in sorted((data / "parallel" / "ntrex").glob("*.txt"))}
    english = texts.pop("eng", [])
    numbers = _draw(range(len(english)), rows, chance)
    return [(english[number], texts[_language(texts, chance)][number]) for number in numbers]


def multi30k(data: Path, rows: int, chance: random.Random) -> list[Pair]:
    """English captions with their German, French or Czech translation."""
    table = _cells(data / "parallel" / "multi30k.en-de-fr-cs.train.tsv")
    return [(cells[0], chance.choice(cells[1:])) for cells in _draw(table, rows, chance)]


def captions(data: Path, rows: int, chance: random.Random) -> list[Pair]:
    """Two English captions of one picture."""
    table = _cells(data / "para" / "multi30k_captions.train.tsv")
    drawn = [chance.sample(cells[:ENGLISH_CAPTIONS], 2) for cells in _draw(table, rows, chance)]
    return [(first, second) for first, second in drawn]


def english_entailments(data: Path, rows: int, chance: random.Random) -> list[Pair]:
    """Entailments of SNLI (sample, dev, test) and of XNLI's English rows."""
    files = [*sorted((data / "nli").glob("snli_*.tsv")), *sorted((data / "nli" / "xnli").glob("*.en.tsv"))]
    loaded = load_pairs([str(file) for file in files], on_bad_row="skip")
    return _draw(list(zip(loaded["anchor"], loaded["positive"], strict=True)), rows, chance)


def mixed(data: Path, kind: str, rows: int, seed: int) -> list[Pair]:
    """`rows` different pairs in a drawn order, without those of STS-B dev.

    Args:
        data: folder with `nli`, `para`, `parallel` and `sts`.
        kind: one of `KINDS`.
        rows: pairs to draw.
        seed: of the draws.

    Raises:
        UserError: the folder lacks a file, or has too few pairs.
    """
    for share in SPARE:
        pairs, dropped = _spare(data, kind, int(rows * share), seed)
        if len(pairs) >= rows:
            print(f"{dropped} pairs left out for a sentence of an STS-B dev set")
            return pairs[:rows]
    raise UserError(f"{kind}: {len(pairs)} pairs, {rows} wanted: ask for fewer --rows")


def _spare(data: Path, kind: str, spare: int, seed: int) -> tuple[list[Pair], int]:
    """What is left of `spare` pairs, in a drawn order, and how many had a sentence of STS-B dev."""
    pairs = captions(data, round(spare * CAPTIONS), random.Random(seed))  # the same for all
    chance = random.Random(seed + 1)
    wanted = spare - len(pairs)
    counts = {name: round(spare * share) for name, share in SHARES.items()}
    if kind == "en":
        pairs += english_entailments(data, wanted, chance)
    elif kind == "monolingual":
        pairs += xnli(data, wanted, chance, across=0.0)
    else:
        pairs += (xnli if kind == "many" else xnli_translations)(data, counts["xnli"], chance)
        pairs += ntrex(data, counts["ntrex"], chance) + multi30k(data, counts["multi30k"], chance)
    pairs = [pair for pair in dict.fromkeys(pairs) if pair[0] != pair[1] and all(pair)]
    pairs, dropped = without_dev(pairs, data)
    chance.shuffle(pairs)
    return pairs, dropped


def without_dev(pairs: list[Pair], data: Path) -> tuple[list[Pair], int]:
    """Leave out pairs with a sentence of STS-B dev in any of its languages; also how many those are."""
    languages = [file.stem.split(".")[1] for file in sorted((data / "sts" / "stsb_multi_mt").glob("dev.*.tsv"))]
    tasks = load_tasks(data, names=["STSBenchmark-dev", *(f"STSb-multi-dev.{language}" for language in languages)])
    rows = Dataset.from_dict({"anchor": [pair[0] for pair in pairs], "positive": [pair[1] for pair in pairs]})
    sentences = {text for task in tasks for text in (*task.sentences1, *task.sentences2)}
    rows, dropped = remove_overlap(rows, sentences, name="STS-B dev")
    return list(zip(rows["anchor"], rows["positive"], strict=True)), dropped


def _draw(items: Sequence[Item], count: int, chance: random.Random) -> list[Item]:
    """`count` items in a drawn order, each as often as any other, or once more."""
    if not items:
        raise UserError("the data folder has no such rows: see docs/formats.md for its layout")
    drawn: list[Item] = []
    while len(drawn) < count:
        drawn += chance.sample(items, min(len(items), count - len(drawn)))
    return drawn


def _language(names: Iterable[str], chance: random.Random) -> str:
    """One of `names`, drawn: one that is favoured is `FAVOUR` times as likely as another."""
    ordered = sorted(names)
    return chance.choices(ordered, [FAVOUR if name in FAVOURED else 1 for name in ordered])[0]


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").removesuffix("\n").split("\n")  # splitlines() knows more line ends


def _cells(file: Path) -> list[list[str]]:
    return [line.split("\t") for line in _lines(file)]


def main() -> None:
    """Write the pairs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--kind", choices=KINDS, default=KINDS[0])
    parser.add_argument("--rows", type=int, default=16_000, help="pairs to write [16000]")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        pairs = mixed(options.data, options.kind, options.rows, options.seed)
    except (UserError, OSError) as error:
        parser.error(str(error))
    lines = ["anchor\tpositive", *("\t".join(pair) for pair in pairs)]
    options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(pairs)} pairs: {options.output}")


if __name__ == "__main__":
    main()
