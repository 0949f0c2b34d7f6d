"""Inputs of the page of `lacos-st report`, made in memory, and what it makes of them, read."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from lacos_st.html_report.inputs import TrainedRun
from lacos_st.report import SIMILARITIES, ModelScores, Results, TaskScores
from lacos_st.settings import TrainConfig

EVIL = "</script><img src=x onerror=window.hacked=1>&\"'"
LAST = {
    "train_runtime": 3.5, "train_samples_per_second": 10.2, "train_loss": 1.1, "predicted_weights_bytes": 100 * 2**20,
    "predicted_adapters_bytes": 10 * 2**20, "predicted_optimizer_bytes": 5 * 2**20, "predicted_peak_bytes": 200 * 2**20,
    "predicted_at": "optimiser step", "measured": "resident", "peak_bytes": 900 * 2**20, "before_bytes": 650 * 2**20,
}  # fmt: skip


def task(name: str, value: float, *, group: Any = "sts", languages: str = "en-en") -> TaskScores:
    scores = {similarity: value - place for place, similarity in enumerate(SIMILARITIES)}
    scores["dot"] = value + 1
    return TaskScores(name, group, languages, 100, scores, dict(scores))


def results(*models: tuple[str, float], baseline: str | None = None, names: str = "AB") -> Results:
    made = []
    for name, value in models:
        tasks = [*(task(each, value) for each in names), task("X", value, group="xsts", languages="es-en")]
        made.append(ModelScores(name, {"base": "b"}, tuple(tasks)))
    return Results(tuple(made), baseline, "2026-01-02T03:04:05+00:00", {"torch": "2"})


def log(*, steps: int = 4, last: dict[str, Any] | None = LAST, factor: float = 1.0) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{"step": 0, "epoch": 0, "eval_loss": 2.0}]
    for step in range(1, steps + 1):
        rows.append(
            {"step": step, "epoch": step / 8, "loss": factor * 3 / step, "grad_norm": 1.0, "learning_rate": 1e-3}
        )
        rows.append({"step": step, "epoch": step / 8, "eval_loss": factor * 2 / step})
    return rows + ([] if last is None else [{"step": steps, "epoch": steps / 8, **last}])


def run(name: str = "a", *, rows: list[dict[str, Any]] | None = None, **options: Any) -> TrainedRun:
    config = TrainConfig.from_mapping({"base": "bloom-nano", "data": "pairs.tsv", "output": name, **options})
    return TrainedRun(name, Path(name), config, tuple(log() if rows is None else rows))


def write_run(folder: Path, rows: list[dict[str, Any]]) -> str:
    folder.mkdir()
    (folder / "train.yaml").write_text(run(folder.name).config.to_yaml())
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def values(chart: dict[str, Any]) -> list[dict[str, Any]]:
    return list(chart["data"]["values"])


class Read(HTMLParser):
    """Elements and texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


OPTION: dict[str, Any] = {
    "base": "b", "method": "full", "parameters": 1000, "tokens": 2e6, "steps": 10, "batch_size": 8, "lora_rank": None,
    "frozen_blocks": None, "learning_rate": 1e-3, "loss": {"loss": 1.5, "low": 1.4, "high": None}, "paper_flops": 1e13,
    "training_seconds": None, "peak_bytes": 2**30,
}  # fmt: skip


PLAN: dict[str, Any] = {
    "law": "law.json", "budget": {"flops": 1e13}, "plan": OPTION, "runner_up": None, "why": ["because"], "notes": [],
    "considered": [OPTION, {**OPTION, "parameters": 10, "loss": {"loss": 1.6, "low": 1.5, "high": 1.7}}],
}  # fmt: skip
