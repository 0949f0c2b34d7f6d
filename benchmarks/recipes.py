"""Recipes beyond the paper, one change at a time at equal compute, judged on a dev set.

    python -m benchmarks.recipes --data DIR --rows ROWS.tsv --output FOLDER          # every variant that has no row yet
    python -m benchmarks.recipes --data DIR --rows ROWS.tsv --output FOLDER --only echo negatives
    python -m benchmarks.recipes --report                                            # the table alone

ROWS is the file of `examples/smollm2_pairs.py`; the rows in `results/` are of what it drew at commit 3480961 (`--rows
45000`). Each variant is one change ("paper": all of the paper's settings at once) and trains SmolLM2-135M for as many
steps as cost what `--steps` of the starting point cost: reading twice or a third column means fewer of them. Spearman
on STS-B dev counts (max of four similarities, as the paper has it), with the interval of the difference over 1,000
resamples of the pairs; other seeds of the starting point show what a seed alone does. Resumable: a variant's row is
written when it is done, and a training that was broken off goes on, in a folder for its steps, rows and base. Rows,
table: `results/recipes.*`; the similarities of the starting point, to which intervals are drawn, stay beside them. Rows
of 44,447 pairs (44,167 with hard negatives) were trained before overlap was looked for in letters and digits alone, the
others without the 223 pairs that this found, and so in another order: each is compared with the starting point of its
own pairs, and the first with the last ones only roughly.
"""

from __future__ import annotations

import argparse
import hashlib
import runpy
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

from benchmarks import models, rows
from benchmarks.paper.cells import go_on
from lacos_st.atomic import write_text
from lacos_st.report import markdown_table
from lacos_st.settings import TrainConfig
from lacos_st.sts import StsTask, load_tasks

STEPS = 48
RESAMPLES = 1000
DEV = "STSBenchmark-dev"
SIMILARITIES = ("cosine", "manhattan", "euclidean", "dot")

START: dict[str, Any] = {
    "method": "lacos",
    "block_size": 192,
    "lora_rank": 16,
    "lora_targets": ["all-linear"],
    "pooling": "weightedmean",
    "symmetric": True,
    "lr": 8e-4,
    "batch_size": 64,
    "scheduler": "cosine",
    "max_seq_length": 64,
}
"""What every variant has but for its change."""


@dataclass(frozen=True)
class Variant:
    """One change.

    Attributes:
        says: what is changed.
        settings: options of `lacos-st train` in place of `START`'s.
        cost: of a step, as a multiple of the starting point's: tokens, and passes of a cached loss.
        nli_only: whether captions and simplifications are left out of the data.
    """

    says: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    cost: float = 1.0
    nli_only: bool = False

    def steps(self, budget: int) -> int:
        """That cost what `budget` steps of the starting point cost."""
        return max(2, round(budget / self.cost))


PAPER: dict[str, Any] = {
    "lora_rank": 4,
    "lora_targets": ["paper"],
    "pooling": "mean",
    "symmetric": False,
    "lr": 1e-4,
    "batch_size": 32,
    "scheduler": "linear",
}
"""`--preset paper`, as far as the starting point differs from it."""

LAST_50: dict[str, Any] = {"pooling": "lasttoken", "scale": 50.0}
"""What won most alone, together."""

VARIANTS: dict[str, Variant] = {
    "start": Variant("the starting point"),
    "paper": Variant("--preset paper", PAPER, cost=0.5),
    "seed 1": Variant("another seed", {"seed": 1}),
    "echo": Variant("echo: each text twice", {"echo": True}, cost=2),
    "bidirectional": Variant("bidirectional attention", {"attention": "bidirectional"}),
    "bidirectional mean": Variant("the same, mean pooling", {"attention": "bidirectional", "pooling": "mean"}),
    "mean": Variant("mean pooling", {"pooling": "mean"}),
    "last token": Variant("last-token pooling", {"pooling": "lasttoken"}),
    "negatives": Variant("hard negatives where there are any", {"hard_negatives": True}, cost=1.5),
    "one direction": Variant("the stock loss in one direction", {"symmetric": False}),
    "same side": Variant("all four directions in one softmax", {"symmetric": False, "same_side_negatives": True}),
    "scale 50": Variant("scale 50, temperature 0.02", {"scale": 50.0}),
    "scale 10": Variant("scale 10, temperature 0.1", {"scale": 10.0}),
    "lr 4e-4": Variant("half the learning rate", {"lr": 4e-4}),
    "lr 16e-4": Variant("twice the learning rate", {"lr": 16e-4}),
    "batch 32": Variant("half the batch", {"batch_size": 32}, cost=0.5),
    "batch 128": Variant("twice the batch", {"batch_size": 128}, cost=2),
    "cached 256": Variant("batch 256, cached loss", {"batch_size": 256, "mini_batch_size": 32}, cost=4 * 4 / 3),
    "rank 4": Variant("rank 4", {"lora_rank": 4}),
    "rank 64": Variant("rank 64", {"lora_rank": 64}, cost=1.19),
    "paper targets": Variant("adapters on feed-forward and embedding", {"lora_targets": ["paper"]}),
    "matryoshka": Variant("Matryoshka loss, 64 to 576", {"matryoshka_dims": [64, 128, 256]}),
    "prompt": Variant('prompt "This sentence means: "', {"prompt": "This sentence means: "}, cost=1.3),
    "linear code": Variant("linear 8-bit code", {"code": "linear"}),
    "nli": Variant("NLI alone", nli_only=True),
    "nli negatives": Variant("NLI alone, hard negatives", {"hard_negatives": True}, cost=1.5, nli_only=True),
    "scale 100": Variant("scale 100, temperature 0.01", {"scale": 100.0}),
    "last 50": Variant("last token, scale 50", LAST_50),
    "last 50 lr 16e-4": Variant("last token, scale 50, twice the rate", {**LAST_50, "lr": 16e-4}),
    "last 50 lr 32e-4": Variant("last token, scale 50, four times the rate", {**LAST_50, "lr": 32e-4}),
    "last 100 lr 16e-4": Variant("last token, scale 100, twice the rate", {**LAST_50, "scale": 100.0, "lr": 16e-4}),
    "last 50 lr 16e-4 rank 64": Variant(
        "last token, scale 50, twice the rate, rank 64", {**LAST_50, "lr": 16e-4, "lora_rank": 64}, cost=1.19
    ),
    "last 50 echo lr 16e-4": Variant(
        "last token, scale 50, echo, twice the rate", {**LAST_50, "echo": True, "lr": 16e-4}, cost=2
    ),
    "scale 50 echo lr 16e-4": Variant(
        "weighted mean, scale 50, echo, twice the rate", {"scale": 50.0, "echo": True, "lr": 16e-4}, cost=2
    ),
    "seed 2": Variant("a third seed", {"seed": 2}),
    "last 50 lr 16e-4 batch 32": Variant(
        "last token, scale 50, twice the rate, half the batch", {**LAST_50, "lr": 16e-4, "batch_size": 32}, cost=0.5
    ),
    "last 50 rank 64": Variant("last token, scale 50, rank 64", {**LAST_50, "lora_rank": 64}, cost=1.19),
}
"""In the order in which they are run. A prompt of four tokens makes a sentence of 14 tokens 1.3 times as long; rank 64
has 1.19 times the FLOP of rank 16 (`lacos-st cost`)."""


def config(variant: Variant, *, base: str, data: str, sts: str, output: Path, budget: int) -> TrainConfig:
    """The training of a variant; nothing is validated before its end, where the dev set is."""
    values = {
        **START,
        **variant.settings,
        "base": base,
        "data": [data],
        "exclude_sts": [sts],
        "output": str(output),
        "max_steps": variant.steps(budget),
        "eval_rows": 0,
        "eval_steps": 16,
        "log_steps": 1,
        "progress": False,
        "cpu": True,
    }
    return TrainConfig.from_mapping(values, source="recipes")


def similarities(model: Any, task: StsTask) -> np.ndarray:
    """Of each pair of a task, by the four functions of `SIMILARITIES`: float64 (4, N)."""
    from sentence_transformers import util

    first, second = (model.encode(list(side), convert_to_tensor=True) for side in (task.sentences1, task.sentences2))
    functions = (
        util.pairwise_cos_sim,
        util.pairwise_manhattan_sim,
        util.pairwise_euclidean_sim,
        util.pairwise_dot_score,
    )
    return np.stack([function(first, second).double().cpu().numpy() for function in functions])


def spearman(values: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Of each row of `values`, (k, N), with `scores`, (N,), x 100; ties share their ranks."""
    ranks = np.stack([rankdata(row) for row in (*values, scores)])
    return np.asarray(100 * np.corrcoef(ranks)[-1, :-1])


def difference(one: np.ndarray, other: np.ndarray, scores: np.ndarray, *, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of max-of-four of `one` less that of `other`, over resamples of the pairs.

    Args:
        one: similarities (4, N).
        other: similarities (4, N).
        scores: of the people, (N,).
        seed: of the resampling.
    """
    chance = np.random.default_rng(seed)
    found = []
    for _ in range(RESAMPLES):
        drawn = chance.integers(len(scores), size=len(scores))
        both = spearman(np.concatenate([one, other])[:, drawn], scores[drawn])
        found.append(both[:4].max() - both[4:].max())
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def nli_rows(file: Path, output: Path, *, of_nli: Collection[tuple[str, str, str]]) -> Path:
    """The rows of `file` that are of NLI, as a file of their own.

    Args:
        file: label, premise and hypothesis, with a line of names.
        output: folder of the new file.
        of_nli: the rows that NLI has; what the file has from elsewhere has labels too, and cannot be told by them.

    Raises:
        SystemExit: none of the file's rows is of NLI.
    """
    place = output / f"nli-{sha256(file)}.tsv"
    known = set(of_nli)
    head, *lines = file.read_text(encoding="utf-8").removesuffix("\n").split("\n")  # U+2028 ends no row
    kept = [line for line in lines if tuple(line.split("\t")) in known]
    if not kept:
        raise SystemExit(f"no row of {file} is one of the NLI in --data: give the folder that the rows were made from")
    write_text(place, "\n".join([head, *kept]) + "\n")
    return place


def start_file() -> Path:
    """Where the starting point's similarities on the dev set are: float32 (4, N)."""
    return rows.RESULTS / "recipes_start.npy"


def done(name: str, steps: int, data: str) -> dict[str, Any] | None:
    """The last row of a variant on this data, at this number of steps."""
    found = [row for row in rows.read("recipes") if (row["variant"], row["budget"], row["data"]) == (name, steps, data)]
    return found[-1] if found else None


def started(steps: int, data: str, scores: np.ndarray) -> np.ndarray:
    """The starting point's similarities, which intervals are drawn to: float32 (4, N).

    Raises:
        SystemExit: where there are none, or those are not of the starting point's row at these steps on this data.
    """
    row = done("start", steps, data)
    if row is None:
        raise SystemExit(f"no row of the starting point at {steps} steps on this data: run the variant start first")
    if not start_file().is_file():
        raise SystemExit(f"{start_file()} is missing, to which intervals are drawn: run the variant start first")
    found = np.load(start_file())
    if abs(spearman(found, scores).max() - row["dev_max"]) > 1e-6:
        raise SystemExit(f"{start_file()} is of other steps or data than the row: remove it and run the variant start")
    return np.asarray(found)


def run(name: str, options: argparse.Namespace) -> None:
    """Train and score one variant, and write its row."""
    variant = VARIANTS[name]
    digest = sha256(options.rows)
    (dev,) = load_tasks(options.data, names=[DEV])
    people = np.array(dev.scores)
    start = None if name == "start" else started(options.steps, digest, people)
    data = options.rows
    if variant.nli_only:
        pairs = runpy.run_path(str(rows.ROOT / "examples" / "smollm2_pairs.py"))
        data = nli_rows(options.rows, options.output, of_nli=pairs["nli"](options.data))
    sts = options.data / "sts"
    base = str(options.base or models.find("smollm2"))
    # a training of other steps, rows or base lies elsewhere: it is not gone on with, nor taken for this one
    folder = options.output / f"{name.replace(' ', '-')}-{options.steps}-{digest}-{Path(base).name}"
    wanted = config(variant, base=base, data=str(data), sts=str(sts), output=folder, budget=options.steps)
    clock = time.perf_counter()
    result = go_on(wanted)
    found = similarities(result.model, dev).astype(np.float32)
    if start is None:
        start = found
        rows.RESULTS.mkdir(parents=True, exist_ok=True)
        np.save(start_file(), found)
    scores = spearman(found, people)
    rows.append(
        "recipes",
        variant=name,
        says=variant.says,
        settings=dict(variant.settings),
        budget=options.steps,
        steps=result.steps,
        cost=variant.cost,
        data=digest,
        train_rows=result.train_rows,
        train_loss=result.train_loss,
        dev_max=float(scores.max()),
        dev=dict(zip(SIMILARITIES, map(float, scores), strict=True)),
        start_max=float(spearman(start, people).max()),
        interval=difference(found, start, people),
        seconds=time.perf_counter() - clock,
    )
    print(f"{name}: {scores.max():.2f} after {result.steps} steps", flush=True)


def sha256(file: Path) -> str:
    """The beginning of a file's."""
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def main() -> None:
    """Run what has no row yet; see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with sts, and with the nli that the rows were made from")
    parser.add_argument("--rows", type=Path, help="training rows; of --report [those of the newest starting point]")
    parser.add_argument("--output", type=Path, help="folder of the trainings")
    parser.add_argument("--base", help="another base than SmolLM2")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of the starting point [{STEPS}]")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, metavar="VARIANT", help="these variants")
    parser.add_argument("--report", action="store_true", help="write the table of the rows there are, train nothing")
    options = parser.parse_args()
    if options.report:
        data = newest_data(options.steps) if options.rows is None else sha256(options.rows)
        if data is None:
            parser.error(f"no row of the starting point at {options.steps} steps: run the variant start first")
        print(report(options.steps, data))
        return
    if missing := [f"--{name}" for name in ("data", "rows", "output") if getattr(options, name) is None]:
        parser.error(f"a training needs {', '.join(missing)}; --report needs none of them")
    options.output.mkdir(parents=True, exist_ok=True)
    data = sha256(options.rows)
    for name in options.only or VARIANTS:
        if done(name, options.steps, data) is None or (name == "start" and not start_file().is_file()):
            run(name, options)
    print(report(options.steps, data))


def newest_data(steps: int) -> str | None:
    """The data of the newest row of the starting point at these steps; None where there is none."""
    found = [row["data"] for row in rows.read("recipes") if (row["variant"], row["budget"]) == ("start", steps)]
    return found[-1] if found else None


def report(steps: int, data: str) -> str:
    """The table, also written to results/recipes.md: each variant beside the starting point."""
    lines = [["change", "pairs", "steps", f"{DEV}, max of four", "cosine", "start", "difference", "95 % interval", "s"]]
    gone = (row["variant"] for row in rows.read("recipes"))  # options that lost and are no more keep their rows
    names = dict.fromkeys([*VARIANTS, *gone])
    found = {name: row for name in names if (row := done(name, steps, data)) is not None}
    for name, row in found.items():
        cells = [row["says"], f"{row['train_rows']:,}", str(row["steps"])]
        cells += [f"{row['dev_max']:.2f}", f"{row['dev']['cosine']:.2f}", f"{row['start_max']:.2f}"]
        if name == "start":
            cells += ["", ""]
        else:
            cells += [f"{row['dev_max'] - row['start_max']:+.2f}", "{:+.2f} to {:+.2f}".format(*row["interval"])]
        lines.append([*cells, f"{row['seconds']:.0f}"])
    text = markdown_table(lines)
    write_text(rows.RESULTS / "recipes.md", text + "\n")
    return text


if __name__ == "__main__":
    main()
