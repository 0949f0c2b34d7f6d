"""The rows that SmolLM2-135M is trained on: NLI, captions of one picture, simplifications.

    python examples/smollm2_pairs.py DATA OUTPUT.tsv --rows 30000

All rows have a label, as NLI has: captions and simplifications are entailments. So one file serves every method: pairs
are its entailments, hard negatives the contradictions of a premise, and softmax over three classes takes all of it.

DATA is a folder with `nli`, `para` and `sts` in the layout that docs/formats.md gives for data. No sentence of STS-B's
dev set is kept, by which recipes are chosen; `lacos-st train --exclude-sts` leaves out those of the test sets.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

from datasets import Dataset

from lacos_st.data import load_nli, remove_overlap
from lacos_st.nli import LABEL_NAMES
from lacos_st.sts import load_tasks

Row = tuple[str, str, str]
ENTAILMENT = LABEL_NAMES[0]
COLUMNS = ("label", "premise", "hypothesis")
CAPTIONS = 5  # English captions of a picture, the first columns


def nli(data: Path) -> list[Row]:
    """Label, premise and hypothesis of SNLI (sample, dev, test) and of XNLI's English rows."""
    files = [*sorted((data / "nli").glob("snli_*.tsv")), *sorted((data / "nli" / "xnli").glob("*.en.tsv"))]
    rows = load_nli([str(file) for file in files], on_bad_row="skip")
    return [(LABEL_NAMES[label], first, second) for first, second, label in zip(*rows[:].values(), strict=True)]


def captions(data: Path, chance: random.Random) -> list[Row]:
    """Two pairs for each picture of Multi30k: four of its five captions, drawn."""
    pairs: list[Row] = []
    for cells in _rows(data / "para" / "multi30k_captions.train.tsv"):
        first, second, third, fourth = chance.sample(cells[:CAPTIONS], 4)
        pairs += [(ENTAILMENT, first, second), (ENTAILMENT, third, fourth)]
    return pairs


def simplifications(data: Path, chance: random.Random) -> list[Row]:
    """Each sentence of ASSET with one of its ten simplifications, drawn."""
    files = sorted((data / "para").glob("asset.*.tsv"))
    return [(ENTAILMENT, cells[0], chance.choice(cells[1:])) for file in files for cells in _rows(file)]


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
    """Write the pairs: all entailments and simplifications, captions up to the number of rows asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--rows", type=int, required=True, help="pairs to write, beside the other rows of NLI")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    (dev,) = load_tasks(options.data, names=["STSBenchmark-dev"])
    sentences = {*dev.sentences1, *dev.sentences2}
    fixed = without(nli(options.data), sentences, name="NLI")
    fixed += without(simplifications(options.data, chance), sentences, name="simplifications")
    described = without(captions(options.data, chance), sentences, name="captions")
    pairs = sum(label == ENTAILMENT for label, _, _ in fixed)
    wanted = options.rows - pairs
    if not 0 <= wanted <= len(described):
        parser.error(f"--rows {options.rows}: {wanted} captions would be needed, there are {len(described)}")
    chosen = [*fixed, *chance.sample(described, wanted)]
    chance.shuffle(chosen)
    lines = ["\t".join(COLUMNS), *map("\t".join, chosen)]
    options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(chosen)} rows, {options.rows} of them pairs, {wanted} of these captions: {options.output}")


if __name__ == "__main__":
    main()
