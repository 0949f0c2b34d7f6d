"""What 8 bits cost: STS scores of real models with weights in float32, in our 8-bit blocks, and in stock formats.

    python -m benchmarks.eight_bits --data DIR [--models minilm smollm2 gemma3] [--tasks STSBenchmark] [--ways ...]
    python -m benchmarks.eight_bits --data DIR --models mine=runs/mine    # a trained model: float base and adapter
    python -m benchmarks.eight_bits --report                               # table and plot of the rows that there are

A row for each model, way and task goes to results/eight_bits.jsonl as soon as it is measured; what has a row is not
measured again. `--quick` measures few pairs of each task and adds no row. `--models` are names of `benchmarks.models`,
embedded bases, or NAME=PATH.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from benchmarks import rows
from benchmarks.eight_bits_report import PICTURE, plot, table
from benchmarks.eight_bits_ways import WAYS, Source, build, source, stored_bytes
from benchmarks.paper.names import fingerprint
from lacos_st.errors import UserError
from lacos_st.evaluation import evaluate
from lacos_st.sts import StsTask, load_tasks

NAME = "eight_bits"
MODELS = ("minilm", "smollm2", "gemma3")
TASKS = ("STS12", "STS13", "STS14", "STS15", "STS16", "STSBenchmark", "SICK-R")
QUICK_PAIRS = 40
SAMPLE = 256
"""Sentences whose embeddings are compared with those of float32."""

Key = tuple[str, str, str, str, str, str]
logger = logging.getLogger("lacos_st.benchmarks")


def key_of(row: dict[str, Any]) -> Key:
    """What makes a row one that need not be measured again."""
    return row["model"], row["identity"], row["base_sha256"], row["way"], row["task"], row["pairs_sha256"]


def measured() -> list[dict[str, Any]]:
    """The newest row of each model, way and task; a failed one counts where there is nothing else."""
    found: dict[Key, dict[str, Any]] = {}
    for row in rows.read(NAME):
        if "failed" not in row or key_of(row) not in found:
            found[key_of(row)] = row
    return list(found.values())


def measure(
    sources: Sequence[Source],
    ways: Sequence[str],
    tasks: Sequence[StsTask],
    *,
    append: Callable[..., dict[str, Any]],
    done: Sequence[dict[str, Any]] = (),
) -> Iterator[dict[str, Any]]:
    """Rows of all models, ways and tasks that have none yet, one by one.

    Args:
        sources: of the models.
        ways: names of `WAYS`; each model's float32 is measured first.
        tasks: graded pairs.
        append: writes a row and returns it.
        done: rows of before.
    """
    have = {key_of(row): row for row in done if "failed" not in row}
    hashes = {task.name: pairs_sha256(task) for task in tasks}
    for given in sources:
        weights = given.name, given.identity, fingerprint([given.base])
        reference: NDArray[np.float32] | None = None
        sample = _sample(tasks)
        for way in [name for name in WAYS if name in ways or name == "float32"]:
            missing = [task for task in tasks if (*weights, way, task.name, hashes[task.name]) not in have]
            if not missing:
                continue
            start = time.perf_counter()
            facts = {**dict(zip(("model", "identity", "base_sha256"), weights, strict=True)), "way": way}
            try:
                model, stored = build(given, way)
                stored["stored_bytes"] = stored_bytes(model)  # stock layers move their scales when they are first used
                if reference is None:
                    exact = model if way == "float32" else build(given, "float32")[0]
                    reference = _embed(exact, sample)
                    del exact
                drift = float(np.linalg.norm(_embed(model, sample) - reference) / np.linalg.norm(reference))
            except Exception as error:
                if WAYS[way].stock is None:
                    raise
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                for task in missing:
                    yield append(**facts, task=task.name, pairs_sha256=hashes[task.name], failed=reason)
                continue
            stored["embedding_drift"] = float(f"{drift:.4g}")
            for task in missing:
                of_task = {"task": task.name, "pairs_sha256": hashes[task.name]}
                other = _same_as(way, stored["tensors"])
                if same := have.get((*weights, other, task.name, hashes[task.name])):
                    scored = {key: same[key] for key in ("pairs", "max", "cosine", "spearman")}
                    yield append(**facts, **of_task, same_as=same["way"], **stored, **scored)
                    continue
                scores = evaluate({given.name: model}, tasks=[task]).models[0].tasks[0]
                seconds = round(time.perf_counter() - start, 1)
                start = time.perf_counter()
                figures = {"max": scores.figure("max"), "cosine": scores.figure("cosine"), "spearman": scores.spearman}
                row = append(**facts, **of_task, pairs=len(task.scores), seconds=seconds, **stored, **figures)
                have[key_of(row)] = row
                yield row
            del model


def pairs_sha256(task: StsTask) -> str:
    """The beginning of a hash of graded pairs, in their order."""
    digest = hashlib.sha256()
    for row in zip(task.sentences1, task.sentences2, task.scores, strict=True):
        digest.update(("\t".join(map(str, row)) + "\n").encode())
    return digest.hexdigest()[:16]


def _same_as(way: str, tensors: dict[str, int]) -> str:
    """The way that stores every tensor as "auto" does, where it chose one code for all; "" where it did not."""
    chosen = [code for code, count in tensors.items() if count]
    if WAYS[way].code != "auto" or len(chosen) != 1:
        return ""
    return next(
        (name for name, other in WAYS.items() if other == replace(WAYS[way], label=other.label, code=chosen[0])), ""
    )


def _sample(tasks: Sequence[StsTask]) -> list[str]:
    """Some sentences of the tasks, spread evenly."""
    sentences = sorted({sentence for task in tasks for sentence in (*task.sentences1, *task.sentences2)})
    return sentences[:: max(1, len(sentences) // SAMPLE)][:SAMPLE]


def _embed(model: SentenceTransformer, sentences: list[str]) -> NDArray[np.float32]:
    found = model.encode(sentences, batch_size=32, show_progress_bar=False, convert_to_numpy=True)
    assert isinstance(found, np.ndarray)
    return found


def _cut(task: StsTask) -> StsTask:
    """A few pairs of a task, spread evenly."""
    step = max(1, len(task.scores) // QUICK_PAIRS)
    return replace(
        task, sentences1=task.sentences1[::step], sentences2=task.sentences2[::step], scores=task.scores[::step]
    )


def _hush() -> None:
    """Stock formats warn about each cast and each unused head."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def main() -> None:
    """Measure what is missing, print the table, draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", metavar="MODEL", default=list(MODELS))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--tasks", nargs="+", metavar="TASK", default=list(TASKS))
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of graded pairs [$LACOS_DATA]")
    parser.add_argument("--quick", action="store_true", help=f"about {QUICK_PAIRS} pairs of each task; adds no row")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    parser.add_argument("--plot", type=Path, metavar="FILE", help=f"[{PICTURE.name}; none with --quick]")
    options = parser.parse_args()
    picture = options.plot or (None if options.quick else PICTURE)
    _hush()
    try:
        found = measured()
        if not options.report:
            data = options.data or os.environ.get("LACOS_DATA")
            if data is None:
                raise UserError("no data: give --data DIR, a folder of graded pairs as lacos-st evaluate takes it")
            sources = [source(given) for given in options.models]
            tasks = load_tasks(data, names=options.tasks)
            new: list[dict[str, Any]] = []
            arguments: dict[str, Any] = {"append": lambda **figures: rows.append(NAME, **figures), "done": found}
            if options.quick:
                tasks = [_cut(task) for task in tasks]
                arguments = {"append": lambda **figures: figures}
            for row in measure(sources, options.ways, tasks, **arguments):
                new.append(row)
                print({key: row[key] for key in ("model", "way", "task", "max", "failed") if key in row}, flush=True)
            found = new if options.quick else measured()
        print(table(found))
        if picture is not None:
            plot(found, picture)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
