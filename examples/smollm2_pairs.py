"""The rows that SmolLM2-135M is trained on: NLI, simplifications, paraphrases, captions of one picture.

    python examples/smollm2_pairs.py DATA OUTPUT.tsv --captions 8000

All rows have a label, as NLI has: what says the same counts as entailment, what was judged to say something else as
neutral. So one file serves every method: pairs are its entailments, hard negatives the contradictions of a premise, and
softmax over three classes takes all of it.

DATA is a folder with `nli`, `para` and `sts` in the layout that docs/formats.md gives for data. No sentence of STS-B's
dev set is kept, by which recipes are chosen; `lacos-st train --exclude-sts` leaves out those of the test sets.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

from datasets import Dataset

from lacos_st.data import load_nli
from lacos_st.nli import LABEL_NAMES
from lacos_st.overlap import remove_overlap
from lacos_st.sts import load_tasks

Row = tuple[str, str, str]
ENTAILMENT = LABEL_NAMES[0]
NEUTRAL = LABEL_NAMES[1]
COLUMNS = ("label", "premise", "hypothesis")
CAPTIONS = 5  # English captions of a picture, the first columns


def nli(data: Path) -> list[Row]:
    """Label, premise and hypothesis of SNLI (sample, dev, test) and of XNLI's English rows."""
    files = [*sorted((data / "nli").glob("snli_*.tsv")), *sorted((data / "nli" / "xnli").glob("*.en.tsv"))]
    rows = load_nli([str(file) for file in files], on_bad_row="skip")
    return [(LABEL_NAMES[label], first, second) for first, second, label in zip(*rows[:].values(), strict=True)]


def simplifications(data: Path, chance: random.Random) -> list[Row]:
    """Each sentence of ASSET and its ten simplifications, in pairs by chance: five of them, where all differ."""
    pairs: list[Row] = []
    for file in sorted((data / "para").glob("asset.*.tsv")):
        for cells in _rows(file):
            texts = list(dict.fromkeys(cells))
            chance.shuffle(texts)
            pairs += [(ENTAILMENT, *both) for both in zip(texts[::2], texts[1::2], strict=False)]
    return pairs


def paraphrases(data: Path) -> list[Row]:
    """MRPC and PAWS-X's English rows."""
    files = [*sorted((data / "para").glob("mrpc.*.tsv")), data / "para" / "pawsx_dev.en.tsv"]
    rows = (cells for file in files for cells in _rows(file))
    return [(ENTAILMENT if label == "1" else NEUTRAL, first, second) for label, first, second in rows]


def captions(data: Path, chance: random.Random) -> list[Row]:
    """Two pairs for each picture of Multi30k: four of its five captions, drawn."""
    pairs: list[Row] = []
    for cells in _rows(data / "para" / "multi30k_captions.train.tsv"):
        first, second, third, fourth = chance.sample(cells[:CAPTIONS], 4)
        pairs += [(ENTAILMENT, first, second), (ENTAILMENT, third, fourth)]
    return pairs


def without(rows: list[Row], sentences: set[str], *, name: str) -> list[Row]:
    """The rows without a sentence of `sentences`, each once; and none that says a sentence of itself."""
    rows = [row for row in dict.fromkeys(rows) if row[1] != row[2]]
    columns = {name: [row[place] for row in rows] for place, name in enumerate(COLUMNS)}
    kept, dropped = remove_overlap(Dataset.from_dict(columns), sentences, name="STS-B dev")
    print(f"{name}: {len(kept)} rows, {dropped} left out for a sentence of STS-B dev")
    return list(zip(*(kept[name] for name in COLUMNS), strict=True))


def _rows(file: Path) -> Iterator[list[str]]:
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            yield line.rstrip("\n").split("\t")


def main() -> None:
    """Write all rows but for the captions, of which as many are drawn as are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--captions", type=int, default=8000, help="pairs of captions [8000]")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    (dev,) = load_tasks(options.data, names=["STSBenchmark-dev"])
    sentences = {*dev.sentences1, *dev.sentences2}
    chosen = without(nli(options.data), sentences, name="NLI")
    chosen += without(simplifications(options.data, chance), sentences, name="simplifications")
    chosen += without(paraphrases(options.data), sentences, name="paraphrases")
    described = without(captions(options.data, chance), sentences, name="captions")
    if not 0 <= options.captions <= len(described):
        parser.error(f"--captions {options.captions}: there are {len(described)}")
    chosen += chance.sample(described, options.captions)
    chance.shuffle(chosen)
    lines = ["\t".join(COLUMNS), *map("\t".join, chosen)]
    options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    pairs = sum(label == ENTAILMENT for label, _, _ in chosen)
    print(f"{len(chosen)} rows, {pairs} of them pairs, {options.captions} of these captions: {options.output}")


if __name__ == "__main__":
    main()
