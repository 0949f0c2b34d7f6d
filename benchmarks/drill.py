"""What the crash drill works with: a base, pairs, unbroken runs to compare with, and the tally of what came of it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import doomed, same, synthetic
from benchmarks.lengths import word
from lacos_st.errors import UserError

SHAPE = synthetic.Shape(vocabulary=512, hidden=64, layers=2, heads=4)
ROWS = 48
WAYS: dict[str, dict[str, Any]] = {
    "best": {},
    "last": {"eval_rows": 0},
    "full": {"method": "full", "lora_rank": None, "lora_dropout": 0.0},
}
"""Runs by name: LoRA over 8 bits, the best checkpoint loaded at the end; the same without; all weights trained."""

PARTS = ("training", "saving", "exporting", "replacing", "reporting", "encoding")
LEFTOVERS = (".new", ".old")


@dataclass
class Tally:
    """What came of it; `problems` is empty where all held."""

    kills: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PARTS, 0))
    kills_while_writing: int = 0
    resumes: int = 0
    named_errors: int = 0
    whole_files_checked: int = 0
    corrupted_files: int = 0
    rows_lost: int = 0
    compared_runs: int = 0
    not_shown: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def corrupted(self, what: str) -> None:
        """A file or a model that is not what was written."""
        self.corrupted_files += 1
        self.problems.append(what)


class Drill:
    """Everything in one folder.

    Args:
        folder: an empty one.
        seed: of the moments of the kills.
        counts: how many kills of each of `PARTS`.
    """

    def __init__(self, folder: Path, *, seed: int, counts: dict[str, int]) -> None:
        self.folder, self.draw, self.counts, self.tally = folder, random.Random(seed), counts, Tally()
        self.seconds: dict[str, float] = {}
        self.scratch = folder / "scratch"
        self.scratch.mkdir()

    def run(self, work: Callable[[], Any], kill: Callable[[float], bool] | None = None) -> doomed.Outcome:
        """`doomed.run`; a traceback is a problem."""
        outcome = doomed.run(work, scratch=self.scratch, kill=kill)
        if outcome.broke:
            self.tally.problems.append(f"not an error that says what is wrong: {outcome.broke[-1500:]}")
        return outcome

    def expect(self, outcome: doomed.Outcome, *any_of: str) -> None:
        """An error that says what is wrong, with one of these words."""
        said = outcome.refused
        if said and any(part in said for part in any_of):
            self.tally.named_errors += 1
        elif not outcome.broke:
            self.tally.problems.append(f"expected an error with one of {any_of}, got {outcome}")

    # What is trained

    def config(self, output: str | Path, way: str, **changes: Any) -> Any:
        """Of a run of 9 steps with dropout, accumulated gradients and a checkpoint every second step."""
        from lacos_st.settings import TrainConfig

        options: dict[str, Any] = {"base": str(self.folder / "base"), "data": str(self.folder / "pairs.tsv")}
        options |= {"output": str(self.folder / output), "block_size": 64, "batch_size": 4, "epochs": 1.5, "lr": 1e-3}
        options |= {"lora_rank": 64, "lora_dropout": 0.1, "gradient_accumulation": 2, "eval_steps": 2, "eval_rows": 4}
        options |= {"log_steps": 1, "cpu": True, "progress": False}
        return TrainConfig.from_mapping({**options, **WAYS[way], **changes})

    def prepare(self) -> None:
        """The base, the pairs, and the unbroken runs."""
        lines = (f"{word(i)} {word(i * 7 % 90)} {word(i % 5)}\t{word(i)} {word(i * 3 % 80)}" for i in range(ROWS))
        (self.folder / "pairs.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        made = self.run(lambda: synthetic.write(self.folder / "base", SHAPE))
        assert not made.broke, made.broke
        for way in WAYS:
            start = time.monotonic()
            outcome = self.run(lambda way=way: self.train(f"whole-{way}", way))  # type: ignore[misc]
            assert outcome.value, outcome
            self.seconds[way] = time.monotonic() - start

    def train(self, output: str | Path, way: str, **changes: Any) -> int:
        """Train to the end and return the number of steps."""
        from lacos_st.training import train

        return train(self.config(output, way, **changes)).steps

    def go_on(self, output: str | Path, way: str) -> int:
        """What a user does after a crash: --resume; where there is no run yet, from the start."""
        try:
            return self.train(output, way, resume=True)
        except UserError as error:
            if "there is no run to resume" not in str(error):
                raise
        return self.train(output, way, overwrite=True)

    def finish(self, output: str, way: str) -> None:
        """Resume to the end, and compare."""
        outcome = self.run(lambda: self.go_on(output, way))
        if outcome.refused:
            self.tally.problems.append(f"not resumed: {outcome.refused}")
        else:
            self.tally.resumes += 1
            self.check_run(output, way, ended=True)

    # What must hold

    def check_run(self, output: str | Path, way: str, *, ended: bool) -> None:
        """Whatever stands in a run's folder is whole; where it has ended, it is the unbroken run's, row by row."""
        from lacos_st.resume import check_checkpoint, checkpoints
        from lacos_st.runs import RunFolder, read_log
        from lacos_st.settings import TrainConfig

        run, good = RunFolder(self.folder / output), RunFolder(self.folder / f"whole-{way}")
        try:
            for checkpoint in checkpoints(run.checkpoints):
                check_checkpoint(checkpoint)
                self._count(checkpoint)
            if run.config.exists():
                TrainConfig.from_yaml(run.config)
            if run.log.exists():
                read_log(run.log)
        except UserError as error:
            self.tally.corrupted(str(error))
            return
        if ended or run.model.exists():
            self._count(run.model)
            self._compare(run.model, good.model)
        if ended:
            self.tally.compared_runs += 1
            self._compare(run.checkpoints, good.checkpoints)
            expected, found = same.figures(good.path), same.figures(run.path)
            lost = [row for row in expected if row not in found]
            self.tally.rows_lost += len(lost)
            if lost or found != expected:
                self.tally.problems.append(f"{run.log} differs: {len(found)} rows for {len(expected)}, lost {lost[:2]}")

    def _compare(self, folder: Path, good: Path) -> None:
        """That every file of `good` is in `folder`, and all weights and states in them are bit-equal.

        Loaded in a child, as everything is: the parent computes nothing.
        """

        def differences() -> list[str]:
            ours, theirs = same.state(folder), same.state(good)
            return same.differences({name: ours[name] for name in theirs if name in ours}, theirs)

        names = {path.relative_to(good) for path in good.rglob("*") if path.is_file()}
        wrong = [f"{name} is missing" for name in sorted(names) if not (folder / name).is_file()]
        for problem in [*wrong, *(self.run(differences).value or [])]:
            self.tally.corrupted(f"{folder} is not the unbroken run's: {problem}")

    def _count(self, folder: Path) -> None:
        self.tally.whole_files_checked += sum(path.is_file() for path in folder.rglob("*"))

    def count_writing(self, run: Path) -> None:
        """Whether the kill fell on something half written."""
        left = [path for parent in (run, run / "checkpoints") for path in parent.glob(".*") if path.suffix in LEFTOVERS]
        self.tally.kills_while_writing += bool(left)
