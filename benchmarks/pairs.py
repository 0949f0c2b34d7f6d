"""Real English pairs for the sweep: captions of one picture, and premises with what they entail.

python -m benchmarks.pairs --data ../shared/data --output runs/sweep

Writes `pairs.tsv` and `held_out.tsv`, two columns each. What belongs together (a picture's captions, a premise with all
its hypotheses) is held out together. Rows with a sentence of an evaluation set are left out of both, as are rows to
train on with a sentence that is held out.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
from collections.abc import Iterator
from pathlib import Path

from datasets import Dataset

from lacos_st.data import load_pairs
from lacos_st.overlap import remove_overlap
from lacos_st.sts import load_tasks

NLI = ("snli_sample18k.tsv", "snli_tok.dev.tsv", "snli_tok.test.tsv", "xnli/dev.en.tsv", "xnli/test.en.tsv")
ENGLISH_CAPTIONS = 5  # the first columns; German ones follow
EVALUATION = ("STS12", "STS13", "STS14", "STS15", "STS16", "STSBenchmark", "STSBenchmark-dev", "SICK-R", "STS17")
ROOT = Path(__file__).parents[1]


def captions(file: Path) -> Iterator[tuple[str, str, str]]:
    """(picture, caption, another caption): the first with the second, the third with the fourth."""
    with file.open(encoding="utf-8", newline="") as lines:
        for number, row in enumerate(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)):
            for first in range(0, ENGLISH_CAPTIONS - 1, 2):
                yield f"picture {number}", row[first].strip(), row[first + 1].strip()


def entailed(folder: Path) -> Iterator[tuple[str, str, str]]:
    """(premise, premise, hypothesis) of the entailment rows."""
    for row in load_pairs([folder / name for name in NLI]):
        yield row["anchor"], row["anchor"], row["positive"]


def write(file: Path, rows: Dataset) -> None:
    """Two columns, no header, no quoting."""
    lines = (f"{row['anchor']}\t{row['positive']}\n" for row in rows)
    file.write_text("".join(lines), encoding="utf-8")


def main() -> None:
    """Write both files and say how many rows they have."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("LACOS_DATA", ROOT / "../shared/data")))
    parser.add_argument("--output", type=Path, default=ROOT / "runs/sweep")
    parser.add_argument("--held-out", type=int, default=3000, help="rows to hold out, about")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    found = [*captions(arguments.data / "para/multi30k_captions.train.tsv"), *entailed(arguments.data / "nli")]
    rows = Dataset.from_dict(
        {name: [row[k] for row in found] for k, name in enumerate(("group", "anchor", "positive"))}
    )
    tasks = load_tasks(arguments.data, names=EVALUATION)
    rows, dropped = remove_overlap(rows, {text for task in tasks for text in (*task.sentences1, *task.sentences2)})
    rows = rows.shuffle(seed=arguments.seed)
    groups = sorted(set(rows["group"]))
    share = arguments.held_out / len(rows)
    aside = set(random.Random(arguments.seed).sample(groups, round(share * len(groups))))
    held_out = rows.select([place for place, group in enumerate(rows["group"]) if group in aside])
    train = rows.select([place for place, group in enumerate(rows["group"]) if group not in aside])
    train, shared = remove_overlap(train, {text for name in ("anchor", "positive") for text in held_out[name]})
    arguments.output.mkdir(parents=True, exist_ok=True)
    write(arguments.output / "pairs.tsv", train)
    write(arguments.output / "held_out.tsv", held_out)
    print(
        f"{len(train)} pairs to train on, {len(held_out)} held out; left out: {dropped} with a sentence of an "
        f"evaluation set, {shared} with one that is held out"
    )


if __name__ == "__main__":
    main()
