"""The pairs that SmolLM2-135M is trained on: entailments, captions of one picture, simplifications.

    python examples/smollm2_pairs.py DATA OUTPUT.tsv --rows 30000

DATA is a folder with `nli`, `para` and `sts` in the layout that docs/formats.md gives for data. No sentence of STS-B's
dev set is kept, by which recipes are chosen; `lacos-st train --exclude-sts` leaves out those of the test sets.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

from datasets import Dataset

from lacos_st.data import load_pairs, remove_overlap
from lacos_st.sts import load_tasks

Pair = tuple[str, str]
CAPTIONS = 5  # English captions of a picture, the first columns


def entailments(data: Path) -> list[Pair]:
    """Premise and hypothesis of SNLI (sample, dev, test) and of XNLI's English rows."""
    files = [*sorted((data / "nli").glob("snli_*.tsv")), *sorted((data / "nli" / "xnli").glob("*.en.tsv"))]
    rows = load_pairs([str(file) for file in files], on_bad_row="skip")
    return list(zip(rows["anchor"], rows["positive"], strict=True))


def captions(data: Path, chance: random.Random) -> list[Pair]:
    """Two pairs for each picture of Multi30k: four of its five captions, drawn."""
    pairs: list[Pair] = []
    for cells in _rows(data / "para" / "multi30k_captions.train.tsv"):
        first, second, third, fourth = chance.sample(cells[:CAPTIONS], 4)
        pairs += [(first, second), (third, fourth)]
    return pairs


def simplifications(data: Path, chance: random.Random) -> list[Pair]:
    """Each sentence of ASSET with one of its ten simplifications, drawn."""
    files = sorted((data / "para").glob("asset.*.tsv"))
    return [(cells[0], chance.choice(cells[1:])) for file in files for cells in _rows(file)]


def _rows(file: Path) -> Iterator[list[str]]:
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            yield line.rstrip("\n").split("\t")


def main() -> None:
    """Write the pairs: all entailments and simplifications, captions up to the number of rows asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--rows", type=int, required=True, help="pairs to write")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    parts = {
        "entailments": entailments(options.data),
        "simplifications": simplifications(options.data, chance),
        "captions": captions(options.data, chance),
    }
    (dev,) = load_tasks(options.data, names=["STSBenchmark-dev"])
    for name, pairs in parts.items():
        pairs = [pair for pair in dict.fromkeys(pairs) if pair[0] != pair[1]]
        rows = Dataset.from_dict({"anchor": [pair[0] for pair in pairs], "positive": [pair[1] for pair in pairs]})
        rows, dropped = remove_overlap(rows, {*dev.sentences1, *dev.sentences2}, name="STS-B dev")
        parts[name] = list(zip(rows["anchor"], rows["positive"], strict=True))
        print(f"{name}: {len(rows)} pairs, {dropped} left out for a sentence of STS-B dev")
    wanted = options.rows - len(parts["entailments"]) - len(parts["simplifications"])
    if not 0 <= wanted <= len(parts["captions"]):
        parser.error(f"--rows {options.rows}: {wanted} captions would be needed, there are {len(parts['captions'])}")
    chosen = [*parts["entailments"], *parts["simplifications"], *chance.sample(parts["captions"], wanted)]
    chance.shuffle(chosen)
    lines = ["anchor\tpositive", *("\t".join(pair) for pair in chosen)]
    options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(chosen)} pairs, {wanted} of them captions: {options.output}")


if __name__ == "__main__":
    main()
