"""Kills at random moments of training, saving and encoding, full and read-only disks, a base that is gone.

After each, the next start goes on and ends bit-equal to the run that was never stopped, or says exactly what is wrong:
`python -m benchmarks.crash_drill` (200 kills), `--quick` (a dozen, for CI). A SIGKILL ends a process, not the machine:
what the disk's cache would lose with the power is not drilled; files are flushed before they are renamed.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import doomed, synthetic
from benchmarks.lengths import word
from benchmarks.rows import append
from lacos_st.errors import UserError

SHAPE = synthetic.Shape(vocabulary=512, hidden=64, layers=2, heads=4)
ROWS = 48
SENTENCES = [f"{word(3)} {word(7)}", word(11), f"{word(2)} {word(30)} {word(4)} {word(9)}"]
CLOCK = ("runtime", "per_second", "flos", "train_loss")
FULL = {"training": 110, "saving": 40, "replacing": 20, "reporting": 10, "encoding": 20}
QUICK = {"training": 6, "saving": 3, "replacing": 2, "reporting": 1, "encoding": 2}
KILLS_PER_RUN = 4
LEFTOVERS = (".new", ".old")


@dataclass
class Tally:
    """What came of it; `problems` is empty where all held."""

    kills: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FULL, 0))
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
    """Everything in one folder: a base, pairs, an unbroken run to compare with, and the runs that are killed."""

    def __init__(self, folder: Path, *, seed: int, counts: dict[str, int]) -> None:
        self.folder, self.draw, self.counts, self.tally = folder, random.Random(seed), counts, Tally()
        self.scratch = folder / "scratch"
        self.scratch.mkdir()

    def run(self, work: Callable[[], Any], kill: Callable[[float], bool] | None = None) -> doomed.Outcome:
        """`doomed.run`; a traceback is a problem."""
        outcome = doomed.run(work, scratch=self.scratch, kill=kill)
        if outcome.broke:
            self.tally.problems.append(f"not an error that says what is wrong: {outcome.broke[-1500:]}")
        return outcome

    # What is trained

    def config(self, output: str | Path, **changes: Any) -> Any:
        """Of a run of 9 steps with dropout, accumulated gradients and a checkpoint every second step."""
        from lacos_st.settings import TrainConfig

        options: dict[str, Any] = {"base": str(self.folder / "base"), "data": str(self.folder / "pairs.tsv")}
        options |= {"output": str(self.folder / output), "block_size": 64, "batch_size": 4, "epochs": 1.5, "lr": 1e-3}
        options |= {"lora_rank": 64, "lora_dropout": 0.1, "gradient_accumulation": 2, "eval_steps": 2, "eval_rows": 4}
        options |= {"log_steps": 1, "cpu": True, "progress": False}
        return TrainConfig.from_mapping({**options, **changes})

    def prepare(self) -> None:
        """The base, the pairs, and the unbroken runs."""
        lines = (f"{word(i)} {word(i * 7 % 90)} {word(i % 5)}\t{word(i)} {word(i * 3 % 80)}" for i in range(ROWS))
        (self.folder / "pairs.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        made = self.run(lambda: synthetic.write(self.folder / "base", SHAPE))
        assert not made.broke, made.broke
        self.seconds = {}
        for method in ("lacos", "full"):
            start = time.monotonic()
            outcome = self.run(lambda method=method: self.train(f"whole-{method}", method=method))  # type: ignore[misc]
            assert outcome.value, outcome
            self.seconds[method] = time.monotonic() - start

    def train(self, output: str | Path, **changes: Any) -> int:
        """Train to the end and return the number of steps."""
        from lacos_st.training import train

        if changes.get("method") == "full":
            changes |= {"lora_rank": None, "lora_dropout": 0.0}
        return train(self.config(output, **changes)).steps

    def go_on(self, output: str | Path, **changes: Any) -> int:
        """What a user does after a crash: --resume; where there is no run yet, from the start."""
        try:
            return self.train(output, resume=True, **changes)
        except UserError as error:
            if "there is no run to resume" not in str(error):
                raise
        return self.train(output, overwrite=True, **changes)

    # What must hold

    def check_run(self, output: str | Path, *, whole: str, ended: bool) -> None:
        """Whatever stands in a run's folder is whole; where it has ended, it is the unbroken run's, row by row."""
        from lacos_st.resume import check_checkpoint, checkpoints
        from lacos_st.runs import RunFolder, read_log
        from lacos_st.settings import TrainConfig

        run, good = RunFolder(self.folder / output), RunFolder(self.folder / whole)
        try:
            for checkpoint in checkpoints(run.checkpoints):
                check_checkpoint(checkpoint)
                self.tally.whole_files_checked += sum(path.is_file() for path in checkpoint.rglob("*"))
            if run.config.exists():
                TrainConfig.from_yaml(run.config)
            log = read_log(run.log) if run.log.exists() else []
        except UserError as error:
            self.tally.corrupted(str(error))
            return
        if ended or run.model.exists():
            names = {path.relative_to(good.model) for path in good.model.rglob("*") if path.is_file()}
            for name in sorted(names):
                self.tally.whole_files_checked += 1
                theirs, ours = good.model / name, run.model / name
                same = ours.is_file() and (name.suffix != ".safetensors" or ours.read_bytes() == theirs.read_bytes())
                if not same:
                    self.tally.corrupted(f"{ours} is not the unbroken run's")
        if ended:
            expected, found = (_figures(rows) for rows in (read_log(good.log), log))
            lost = [row for row in expected if row not in found]
            self.tally.rows_lost += len(lost)
            self.tally.compared_runs += 1
            if lost or found != expected:
                self.tally.problems.append(f"{run.log} differs: {len(found)} rows for {len(expected)}, lost {lost[:2]}")

    # Kills

    def kill_training(self) -> None:
        """Runs that are killed, resumed and killed again, half of them while a checkpoint or the model is written."""
        number = 0
        while self.tally.kills["training"] < self.counts["training"]:
            method = ("lacos", "lacos", "full")[number % 3]
            output, kills = f"killed-{number}", 0
            number += 1
            first = True
            while True:
                kill = None
                if kills < KILLS_PER_RUN and self.tally.kills["training"] < self.counts["training"]:
                    kill = self._moment(self.folder / output, self.seconds[method])
                work = self.train if first else self.go_on
                outcome = self.run(lambda work=work, output=output, method=method: work(output, method=method), kill)  # type: ignore[misc]
                if not first and not outcome.broke and not outcome.refused:
                    self.tally.resumes += 1
                first = False
                if outcome.refused:
                    self.tally.problems.append(f"refused after a kill: {outcome.refused}")
                if outcome.killed:
                    kills += 1
                    self.tally.kills["training"] += 1
                    self._count_writing(self.folder / output)
                self.check_run(output, whole=f"whole-{method}", ended=not outcome.killed)
                if not outcome.killed:
                    break
            shutil.rmtree(self.folder / output, ignore_errors=True)

    def _moment(self, run: Path, seconds: float) -> Callable[[float], bool]:
        if self.draw.random() < 0.5:
            return doomed.at(self.draw.uniform(0, 1.1 * seconds))
        return doomed.while_writing(run, self.draw, times=self.draw.randint(1, 6), within=0.05)

    def _count_writing(self, run: Path) -> None:
        left = [path for parent in (run, run / "checkpoints") for path in parent.glob(".*") if path.suffix in LEFTOVERS]
        self.tally.kills_while_writing += bool(left)

    def kill_saving(self) -> None:
        """Stock `save_pretrained` into one fresh folder after another: what is cut off is not loaded as a model."""
        source = self.folder / "whole-lacos" / "model"
        wanted = self.run(lambda: self._embed(source)).value
        for number in range(self.counts["saving"]):
            place = self.folder / f"saves-{number}"
            kill = doomed.after_file(place / "0" / "modules.json", self.draw.uniform(0, 0.4))
            outcome = self.run(lambda place=place: self._save_again_and_again(source, place), kill)  # type: ignore[misc]
            self.tally.kills["saving"] += outcome.killed
            for saved in sorted(place.iterdir(), key=lambda path: int(path.name))[-2:]:
                loaded = doomed.run(lambda saved=saved: self._embed(saved), scratch=self.scratch)  # type: ignore[misc]
                if loaded.value is not None and loaded.value != wanted:
                    self.tally.corrupted(f"{saved} loads as another model")
                elif loaded.refused:
                    self.tally.named_errors += 1
                elif loaded.value is None:
                    self.tally.problems.append(f"{saved}: {loaded.broke}")
                else:
                    self.tally.whole_files_checked += sum(path.is_file() for path in saved.rglob("*"))
            shutil.rmtree(place)

    @staticmethod
    def _embed(folder: Path) -> list[list[float]]:
        from lacos_st.models import load_model

        model = load_model(str(folder), device="cpu")
        vectors: list[list[float]] = model.encode(SENTENCES, show_progress_bar=False).tolist()
        return vectors

    @staticmethod
    def _save_again_and_again(source: Path, place: Path) -> None:
        from lacos_st.models import load_model

        model = load_model(str(source), device="cpu")
        place.mkdir()
        for number in range(10_000):
            model.save_pretrained(str(place / str(number)))

    def kill_replacing(self) -> None:
        """A run's model that is replaced, again and again: one stands there after the next start, whole."""
        from lacos_st.atomic import clear_leftovers

        source = self.folder / "whole-lacos"
        for _ in range(self.counts["replacing"]):
            place = self.folder / "replaced"
            shutil.copytree(source, place)
            kill = doomed.while_writing(place, self.draw, times=1, within=0.5)
            self.tally.kills["replacing"] += self.run(lambda place=place: self._replace(source, place), kill).killed  # type: ignore[misc]
            self._count_writing(place)
            clear_leftovers(place, "model")  # as RunFolder.start does
            self.tally.resumes += 1
            self.check_run("replaced", whole="whole-lacos", ended=True)
            shutil.rmtree(place)

    @staticmethod
    def _replace(source: Path, place: Path) -> None:
        from lacos_st.models import load_model
        from lacos_st.runs import RunFolder
        from lacos_st.training import save_model

        model = load_model(str(source / "model"), device="cpu")
        for _ in range(10_000):
            save_model(model, RunFolder(place))

    def kill_reporting(self) -> None:
        """results.json, written again and again: it parses and is one of those that were written."""
        import json

        from lacos_st.atomic import write_text

        def write(place: Path) -> None:
            place.mkdir()
            for number in range(1_000_000):
                write_text(place / "results.json", json.dumps({"number": number, "rows": [number] * 20_000}))

        for number in range(self.counts["reporting"]):
            place = self.folder / f"report-{number}"
            kill = doomed.after_file(place / "results.json", self.draw.uniform(0, 0.2))
            self.tally.kills["reporting"] += self.run(lambda place=place: write(place), kill).killed  # type: ignore[misc]
            content = json.loads((place / "results.json").read_text())
            self.tally.whole_files_checked += 1
            if content["rows"] != [content["number"]] * 20_000:
                self.tally.corrupted(f"{place / 'results.json'} holds half of two")

    def kill_encoding(self) -> None:
        """`lacos-st encode`, killed and resumed: every row once, in order, bit-equal to the unbroken one."""
        from lacos_st.cli import COMMANDS, main

        if not any(command.__name__.endswith(".encode") for command in COMMANDS):
            self.tally.not_shown.append("encoding: this version has no `lacos-st encode`")
            return
        (self.folder / "corpus.txt").write_text("\n".join(f"{word(i % 90)} {word(i % 7)}" for i in range(600)) + "\n")

        def encode(output: str, *more: str) -> None:
            line = ["encode", str(self.folder / "whole-lacos" / "model"), str(self.folder / "corpus.txt")]
            status = main([*line, str(self.folder / output), "--format", "npy", "--shard-rows", "20", "--quiet", *more])
            assert status == 0, status

        start = time.monotonic()
        assert not self.run(lambda: encode("encoded")).broke
        seconds = time.monotonic() - start
        expected = _shards(self.folder / "encoded")
        while self.tally.kills["encoding"] < self.counts["encoding"]:
            output = self.folder / "encoding"
            outcome = doomed.Outcome(killed=True)
            while outcome.killed:
                more = ("--resume",) if output.exists() else ()
                kill = None
                if self.tally.kills["encoding"] < self.counts["encoding"]:
                    kill = doomed.at(self.draw.uniform(0.2, 1.0) * seconds)
                outcome = self.run(lambda more=more: encode("encoding", *more), kill)  # type: ignore[misc]
                self.tally.kills["encoding"] += outcome.killed
                self.tally.resumes += bool(more)
            found = _shards(output)
            self.tally.rows_lost += abs(len(expected) - len(found))
            if found != expected:
                self.tally.corrupted("the resumed encoding differs from the unbroken one")
            shutil.rmtree(output)

    # Disks and folders

    def fill_disk(self) -> None:
        """Training on a disk that fills up; after it has been made larger, the run is resumed."""
        used = sum(path.stat().st_size for path in (self.folder / "whole-lacos").rglob("*") if path.is_file())
        place = self.folder / "disk"
        place.mkdir()
        for share in (0.02, 0.3, 0.6, 0.9):
            size = max(4096, int(used * share))
            if not _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)):
                self.tally.not_shown.append("a full disk: no tmpfs can be mounted here")
                break
            try:
                outcome = self.run(lambda: self.train("disk/run"))
                self._expect(outcome, "No space left", "unchanged", "free space")
                _mount("-o", f"remount,size={20 * used}", str(place))
                self.check_run("disk/run", whole="whole-lacos", ended=False)
                self._finish("disk/run")
            finally:
                subprocess.run(["umount", str(place)], check=False)

    def forbid_writing(self) -> None:
        """A folder that is read-only, at the start and in the middle of a run."""
        place = self.folder / "fixed"
        for begun in (False, True):
            place.mkdir()
            if begun:
                self.run(
                    lambda: self.train("fixed/run"), doomed.while_writing(place / "run", self.draw, times=3, within=0.0)
                )
            if not _mount("--bind", str(place), str(place)) or not _mount("-o", "remount,bind,ro", str(place)):
                self.tally.not_shown.append("a read-only folder: nothing can be mounted here")
                subprocess.run(["umount", str(place)], check=False)
                shutil.rmtree(place)
                break
            try:
                outcome = self.run(lambda begun=begun: (self.go_on if begun else self.train)("fixed/run"))  # type: ignore[misc]
                self._expect(outcome, "Read-only file system", "fixed/run")
            finally:
                subprocess.run(["umount", str(place)], check=False)
            self._finish("fixed/run")
            shutil.rmtree(place)

    def remove_base(self) -> None:
        """A base that is gone, or has another value in it, between a kill and the next start."""
        base, away = self.folder / "base", self.folder / "base-away"
        self.run(lambda: self.train("gone"), doomed.while_writing(self.folder / "gone", self.draw, times=4, within=0.0))
        base.rename(away)
        self._expect(self.run(lambda: self.go_on("gone")), str(base))
        shutil.copytree(away, base)
        weights = bytearray((base / "model.safetensors").read_bytes())
        weights[-100] ^= 64
        (base / "model.safetensors").write_bytes(weights)
        self._expect(self.run(lambda: self.go_on("gone")), str(base), "not the one")
        shutil.rmtree(base)
        away.rename(base)
        self._finish("gone")

    def _expect(self, outcome: doomed.Outcome, *any_of: str) -> None:
        said = outcome.refused
        if said and any(part in said for part in any_of):
            self.tally.named_errors += 1
        elif not outcome.broke:
            self.tally.problems.append(f"expected an error with one of {any_of}, got {outcome}")

    def _finish(self, output: str) -> None:
        outcome = self.run(lambda: self.go_on(output))
        if outcome.refused:
            self.tally.problems.append(f"not resumed: {outcome.refused}")
        else:
            self.tally.resumes += 1
            self.check_run(output, whole="whole-lacos", ended=True)


def _figures(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a log, without what is of the clock."""
    kept = [{key: value for key, value in row.items() if not key.endswith(CLOCK)} for row in rows]
    return [row for row in kept if row.keys() - {"step", "epoch"}]


def _shards(folder: Path) -> list[list[float]]:
    import numpy as np

    return [row for file in sorted(folder.rglob("*.npy")) for row in np.load(file).tolist()]


def _mount(*arguments: str) -> bool:
    with suppress(OSError):
        return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0
    return False


def drill(*, seed: int, quick: bool) -> Tally:
    """All parts, in a temporary folder."""
    import lacos_st.trainer  # all that the children need: a fork then starts at once
    import lacos_st.training
    import lacos_st.transformer  # noqa: F401

    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    with tempfile.TemporaryDirectory(prefix="lacos-drill-") as folder:
        done = Drill(Path(folder).resolve(), seed=seed, counts=QUICK if quick else FULL)
        done.prepare()
        for part in (
            done.kill_training,
            done.kill_saving,
            done.kill_replacing,
            done.kill_reporting,
            done.kill_encoding,
        ):
            part()
        for part in (done.fill_disk, done.forbid_writing, done.remove_base):
            part()
    return done.tally


def main(arguments: Sequence[str] | None = None) -> int:
    """Drill, print the figures and append the row; 1 where something did not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a dozen kills; adds no row")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    start = time.monotonic()
    tally = drill(seed=options.seed, quick=options.quick)
    seconds = time.monotonic() - start
    parts = ", ".join(f"{number} {part}" for part, number in tally.kills.items())
    print(
        f"{sum(tally.kills.values())} kills ({parts}; {tally.kills_while_writing} left something half written), "
        f"{tally.resumes} resumes, {tally.compared_runs} runs compared with the unbroken one, {tally.named_errors} "
        f"errors that name what is wrong, {tally.whole_files_checked} files checked: {tally.corrupted_files} corrupted "
        f"files, {tally.rows_lost} rows lost; {seconds:.0f} s"
    )
    for line in (*(f"not shown: {text}" for text in tally.not_shown), *tally.problems):
        print(line)
    if not options.quick:
        append("crash_drill", seed=options.seed, seconds=round(seconds), **asdict(tally))
    return 1 if tally.problems or tally.corrupted_files or tally.rows_lost else 0


if __name__ == "__main__":
    sys.exit(main())
