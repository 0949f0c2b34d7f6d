"""README's tables of scores on real weights, from the rows of `benchmarks.scored` and `benchmarks.eight_bits`.

Where a model was measured several times under one name, each row has its line: a seed that did worse is not hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from benchmarks import rows
from benchmarks.eight_bits_report import ENGLISH, current, differences, label
from benchmarks.figures import table
from lacos_st.settings import TrainConfig

STS17 = tuple(f"STS17.{pair}" for pair in ("es-es", "en-en", "es-en", "ar-ar", "ar-en"))
"""Whose mean is told of models of many languages."""

TRAINING = ("pairs seen", "training time")
STORED = ("float32", "dynamic-64", "dynamic-256", "linear-256", "stock-8bit", "stock-nf4")
"""Ways that are stored as they are: of blocks across rows only the rounding is measured."""

NAMES = {
    "minilm": "all-MiniLM-L6-v2, an encoder",
    "smollm2": "SmolLM2-135M, zero-shot, mean pooling",
    "smollm2-trained": "SmolLM2-135M, 480 steps of --preset best (texts not cut)",
    "smollm2-echo": "SmolLM2-135M, 230 steps with echo and weighted mean, seed 1",
    "gemma3-trained": "Gemma 3 270M, mean of adapters of steps 80 and 100 of 120 (many languages, English)",
    "gemma3": "Gemma 3 270M, zero-shot, mean pooling",
}


def cell(row: dict[str, Any], tasks: Sequence[str]) -> str:
    """The mean over the tasks, the highest of four similarities (cosine); "-" where one was not measured."""
    if any(task not in row["tasks"] for task in tasks):
        return "-"
    best, cosine = (fmean(row["tasks"][task][figure] for task in tasks) for figure in ("max", "cosine"))
    return f"{best:.2f} ({cosine:.2f})"


def says(row: dict[str, Any]) -> str:
    """What the model of a row is; a few rows of before do not say it."""
    return str(row.get("says", "-"))


def training(row: dict[str, Any]) -> list[str]:
    """What a model saw and for how long; "-" for what was not trained, or is made of several trainings.

    The pairs are those up to the checkpoint that was kept, the time is that of the whole training. Rows of before have
    no `kept_step`, and name a batch only where it is not the default.
    """
    if "settings" not in row:
        return ["-", "-"]
    steps, kept = row["steps"], row.get("kept_step", row["steps"])
    in_a_step = row["settings"].get("batch_size", TrainConfig.batch_size)
    in_a_step *= row["settings"].get("gradient_accumulation", TrainConfig.gradient_accumulation)
    of_steps = f" (step {kept} of {steps})" if kept < steps else ""
    return [f"{kept * in_a_step:,}{of_steps}", f"{row['train_seconds'] / 60:.0f} min"]


def lacos_rows() -> list[dict[str, Any]]:
    """The rows of SmolLM2 trained in 8 bits that have all seven English sets."""
    return [
        row
        for row in rows.read("smollm2")
        if row["tasks"].keys() >= ENGLISH and row.get("settings", {}).get("method", "lacos") == "lacos"
    ]


def smollm2_table() -> list[str]:
    """SmolLM2-135M after its trainings."""
    columns = {
        "STS-B dev": ["STSBenchmark-dev"],
        "STS-B test": ["STSBenchmark"],
        "STS-Avg": sorted(ENGLISH),
        "STS17 en-en": ["STS17.en-en"],
    }
    lines = [[says(row), *training(row), *(cell(row, tasks) for tasks in columns.values())] for row in lacos_rows()]
    if not lines:
        return []
    head = "SmolLM2-135M-Instruct (GGUF, Q4_1; English) in 8 bits after training on real pairs, one thread; Spearman "
    head += "x100, max over four similarities (cosine); pairs with a sentence of an evaluation set were left out:"
    return ["", head, "", table(["training", *TRAINING, *columns], lines)]


def gemma3_rows() -> list[dict[str, Any]]:
    """The rows of Gemma that have all five language pairs."""
    return [row for row in rows.read("gemma3") if row["tasks"].keys() >= set(STS17)]


def gemma3_table() -> list[str]:
    """Gemma 3 270M on the language pairs of STS17."""
    lines = [
        [says(row).partition(":")[0], *training(row), cell(row, STS17), *(cell(row, [task]) for task in STS17)]
        for row in gemma3_rows()
    ]
    if not lines:
        return []
    head = "Gemma 3 270M (GGUF, Q4_K_M) in 8 bits on STS17's language pairs, likewise (float32: the file de-quantised):"
    return ["", head, "", table(["training", *TRAINING, "mean", *(task[6:] for task in STS17)], lines)]


def eight_bits_rows() -> dict[tuple[str, str], list[dict[str, Any]]]:
    """By model and way, its newest row of each of the seven English sets, where all of them were measured."""
    found = rows.read("eight_bits")
    whole = {}
    for model in dict.fromkeys(row["model"] for row in found):
        gaps = differences(found, model)
        for way in STORED:
            newest = {row["task"]: row for row in current(found, model) if row["way"] == way and "max" in row}
            if gaps[way].keys() >= ENGLISH:
                whole[model, way] = [newest[task] for task in sorted(ENGLISH)]
    return whole


def eight_bits_table() -> list[str]:
    """What storage in fewer bits costs of STS-Avg."""
    whole = eight_bits_rows()
    lines = []
    for (model, way), of_way in whole.items():
        exact = whole[model, "float32"]
        best, cosine = ([fmean(row[kind] for row in each) for each in (of_way, exact)] for kind in ("max", "cosine"))
        less = "" if way == "float32" else f"{best[0] - best[1]:+.3f} ({cosine[0] - cosine[1]:+.3f})"
        size = f"{of_way[0]['stored_bytes'] / 2**20:.0f} MiB"
        lines.append([NAMES.get(model, model), label(of_way[0]), size, f"{best[0]:.2f} ({cosine[0]:.2f})", less])
    if not lines:
        return []
    head = "What 8 bits cost, on the same weights, Spearman x100, max over four similarities (cosine); float32 of a "
    head += "GGUF file is the file de-quantised:"
    return ["", head, "", table(["model", "weights", "size", "STS-Avg", "less float32"], lines)]


def used() -> list[dict[str, Any]]:
    """The rows of the tables, for the sources."""
    return [*lacos_rows(), *gemma3_rows(), *(row for of_way in eight_bits_rows().values() for row in of_way)]


def lines() -> list[str]:
    """All of the tables that there are rows for."""
    return [*smollm2_table(), *gemma3_table(), *eight_bits_table()]
