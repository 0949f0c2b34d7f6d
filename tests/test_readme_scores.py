"""README's tables of scores: means over whole sets of tasks alone, differences to the same weights."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # for benchmarks, which are not installed

from benchmarks import readme, readme_scores, rows  # noqa: E402
from benchmarks.eight_bits_report import ENGLISH  # noqa: E402

TASKS = sorted(ENGLISH)


@pytest.fixture(autouse=True)
def _results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "RESULTS", tmp_path)


def test_nothing_is_told_without_rows() -> None:
    assert readme_scores.lines() == readme_scores.used() == []


def test_an_average_is_over_all_seven_sets_or_not_told() -> None:
    scores = {task: {"max": 70.0 + place, "cosine": 60.0} for place, task in enumerate(TASKS)}
    run = {"steps": 10, "settings": {"batch_size": 64}, "train_seconds": 90}
    rows.append("smollm2", says="whole", tasks=scores, **run)
    rows.append("smollm2", says="six", tasks={task: scores[task] for task in TASKS[1:]}, **run)
    rows.append("smollm2", says="classes", tasks=scores, **{**run, "settings": {"batch_size": 64, "method": "sbert"}})
    rows.append("smollm2", says="merged", tasks={**scores, "STSBenchmark-dev": {"max": 80.0, "cosine": 79.5}})
    lines = "\n".join(readme_scores.smollm2_table()).splitlines()[5:]
    benchmark = f"{70 + TASKS.index('STSBenchmark')}.00 (60.00)"
    assert lines == [
        f"| whole | 640 | 2 min | - | {benchmark} | 73.00 (60.00) | - |",
        f"| merged | - | - | 80.00 (79.50) | {benchmark} | 73.00 (60.00) | - |",
    ]


def test_pairs_seen_are_those_of_the_kept_step() -> None:
    row = {"steps": 230, "kept_step": 120, "settings": {"batch_size": 64}, "train_seconds": 90}
    assert readme_scores.training(row) == ["7,680 (step 120 of 230)", "2 min"]
    row["settings"] = {"gradient_accumulation": 2}  # 32 pairs, the default, was not written
    assert readme_scores.training({**row, "kept_step": 230}) == ["14,720", "2 min"]


def test_the_committed_rows_say_which_step_was_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "RESULTS", Path(rows.__file__).parent / "results")
    made = [row for name in ("smollm2", "gemma3") for row in rows.read(name) if "validation_loss" in row]
    earlier = {(row["says"], row["kept_step"]) for row in made if row.get("kept_step", row["steps"]) != row["steps"]}
    assert earlier >= {
        ("230 steps of --preset best with echo and weighted mean, seed 0", 120),
        ("English pairs alone, scale 50, lr 8e-4", 180),
    }


def test_the_mean_of_language_pairs_is_over_all_five() -> None:
    scores = {task: {"max": 50.0 + place, "cosine": 40.0} for place, task in enumerate(readme_scores.STS17)}
    rows.append("gemma3", says="zero-shot: plain", tasks=scores)
    rows.append("gemma3", says="four", tasks={task: scores[task] for task in readme_scores.STS17[1:]})
    (line,) = "\n".join(readme_scores.gemma3_table()).splitlines()[5:]
    assert line.startswith("| zero-shot | - | - | 52.00 (40.00) | 50.00 (40.00) | 51.00 (40.00) |")


def test_what_8_bits_cost_is_a_difference_on_the_same_weights() -> None:
    def measured(way: str, identity: str, more: float, tasks: list[str] = TASKS) -> None:
        facts = {
            "identity": identity,
            "base_sha256": "base",
            "pairs_sha256": "pairs",
            "way": way,
            "stored_bytes": 2**20,
            "block_size": None,
            "tensors": {},
        }
        for task in tasks:
            rows.append("eight_bits", model="minilm", task=task, max=70 + more, cosine=1.0, **facts)

    measured("float32", "old", 9)
    measured("float32", "new", 0)
    measured("dynamic-64", "old", 9.5)
    measured("dynamic-256", "new", 0.25)
    measured("linear-256", "new", 0.5, TASKS[1:])
    measured("dynamic-256-across", "new", 0.125)
    lines = "\n".join(readme_scores.eight_bits_table()).splitlines()[5:]
    named = "| all-MiniLM-L6-v2, an encoder"
    assert [line for line in lines if line.startswith(named)] == lines
    assert [line.removeprefix(named) for line in lines] == [
        " | float32 | 1 MiB | 70.00 (1.00) |  |",
        " | dynamic, block 256 | 1 MiB | 70.25 (1.00) | +0.250 (+0.000) |",
    ]
    assert {row["way"] for row in readme_scores.used()} == {"float32", "dynamic-256"}


def test_the_rows_named_are_those_of_the_tables() -> None:
    tasks = {task: {"max": 50.0, "cosine": 40.0} for task in TASKS}
    row = rows.append("smollm2", says="whole", trained_at="abc1234", tasks=tasks)
    rows.append("smollm2", says="a part", tasks={TASKS[0]: tasks[TASKS[0]]})
    assert readme_scores.used() == [row]
    assert f"trained at abc1234, row written at {row['commit']}" in readme.source(row)  # not the row's threads
    assert "thread" not in readme.source(row)
