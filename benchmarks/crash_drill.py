"""Kills at random moments of training, saving, exporting and encoding, full and read-only disks, a base that is gone.

After each, the next start goes on and ends bit-equal to the run that was never stopped, or says exactly what is wrong:
`python -m benchmarks.crash_drill` (200 kills), `--quick` (a dozen, for CI). A SIGKILL ends a process, not the machine:
what the disk's cache would lose with the power is not drilled; files are flushed before they are renamed.
"""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path

from benchmarks import doomed, drill_kills
from benchmarks.drill import Drill, Tally
from benchmarks.rows import append

FULL = {"training": 100, "saving": 30, "exporting": 20, "replacing": 20, "reporting": 10, "encoding": 20}
QUICK = {"training": 4, "saving": 2, "exporting": 2, "replacing": 2, "reporting": 1, "encoding": 3}


def fill_disk(drill: Drill, *, shares: Sequence[float] = (0.02, 0.3, 0.6, 0.9)) -> None:
    """Training on a disk that fills up; after it has been made larger, the run is resumed.

    Args:
        drill: where.
        shares: how large the disk is at first, each in its turn, as a share of what a whole run takes.
    """
    used = sum(path.stat().st_size for path in (drill.folder / "whole-last").rglob("*") if path.is_file())
    place = drill.folder / "disk"
    place.mkdir()
    for share in shares:
        size = max(4096, int(used * share))
        if not _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)):
            drill.tally.not_shown.append("a full disk: no tmpfs can be mounted here")
            break
        try:
            drill.expect(
                drill.run(partial(drill.train, "disk/run", "last")), "No space left", "unchanged", "free space"
            )
            _mount("-o", f"remount,size={20 * used}", str(place))
            drill.check_run("disk/run", "last", ended=False)
            drill.finish("disk/run", "last")
        finally:
            subprocess.run(["umount", str(place)], check=False)


def forbid_writing(drill: Drill) -> None:
    """A folder that is read-only, at the start and in the middle of a run."""
    place = drill.folder / "fixed"
    for begun in (False, True):
        place.mkdir()
        start = partial(drill.train, "fixed/run", "last")
        if begun:
            drill.run(start, doomed.while_writing(place / "run", drill.draw, times=3, within=0.0))
        if not _mount("--bind", str(place), str(place)) or not _mount("-o", "remount,bind,ro", str(place)):
            drill.tally.not_shown.append("a read-only folder: nothing can be mounted here")
            subprocess.run(["umount", str(place)], check=False)
            shutil.rmtree(place)
            break
        try:
            outcome = drill.run(partial(drill.go_on, "fixed/run", "last") if begun else start)
            drill.expect(outcome, "Read-only file system", "fixed/run")
        finally:
            subprocess.run(["umount", str(place)], check=False)
        drill.finish("fixed/run", "last")
        shutil.rmtree(place)


def remove_base(drill: Drill) -> None:
    """A base that is gone, or has another value in it, between a kill and the next start."""
    base, away = drill.folder / "base", drill.folder / "base-away"
    go_on = partial(drill.go_on, "gone", "last")
    kill = doomed.while_writing(drill.folder / "gone", drill.draw, times=4, within=0.0)
    drill.run(partial(drill.train, "gone", "last"), kill)
    base.rename(away)
    drill.expect(drill.run(go_on), str(base))
    shutil.copytree(away, base)
    weights = bytearray((base / "model.safetensors").read_bytes())
    weights[-100] ^= 64
    (base / "model.safetensors").write_bytes(weights)
    drill.expect(drill.run(go_on), str(base), "not the one")
    shutil.rmtree(base)
    away.rename(base)
    drill.finish("gone", "last")


def _mount(*arguments: str) -> bool:
    with suppress(OSError):
        return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0
    return False


def run_all(*, seed: int, quick: bool) -> Tally:
    """All parts, in a temporary folder."""
    import lacos_st.corpus.run  # all that the children need: a fork then starts at once
    import lacos_st.export.run
    import lacos_st.models
    import lacos_st.trainer
    import lacos_st.training
    import lacos_st.transformer  # noqa: F401

    gc.freeze()  # nor does a child look through what was imported
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    with tempfile.TemporaryDirectory(prefix="lacos-drill-") as folder:
        done = Drill(Path(folder).resolve(), seed=seed, counts=QUICK if quick else FULL)
        for part in (
            Drill.prepare,
            drill_kills.kill_training,
            drill_kills.kill_saving,
            drill_kills.kill_exporting,
            drill_kills.kill_replacing,
            drill_kills.kill_reporting,
            drill_kills.kill_encoding,
            partial(fill_disk, shares=(0.3,) if quick else (0.02, 0.3, 0.6, 0.9)),
            forbid_writing,
            remove_base,
        ):
            start = time.monotonic()
            part(done)
            name = getattr(part, "__name__", "fill_disk")
            print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    return done.tally


def main(arguments: Sequence[str] | None = None) -> int:
    """Drill, print the figures and append the row; 1 where something did not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a dozen kills; adds no row")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    start = time.monotonic()
    tally = run_all(seed=options.seed, quick=options.quick)
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
