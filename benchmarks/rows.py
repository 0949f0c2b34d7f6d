"""One row of a benchmark: what was measured, and on what."""

from __future__ import annotations

import json
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("torch", "transformers", "sentence-transformers", "peft", "bitsandbytes")


def append(name: str, *, folder: Path | None = None, **figures: Any) -> dict[str, Any]:
    """Add a row to `results/NAME.jsonl` and return it. A last line that a killed process left unfinished goes.

    Args:
        name: of the benchmark.
        folder: of the file; None: `RESULTS`.
        **figures: what it measured, with units in the names.
    """
    row: dict[str, Any] = {
        "benchmark": name,
        "commit": _git("rev-parse", "--short", "HEAD"),
        "uncommitted": bool(_git("status", "--porcelain", "--untracked-files=no", "--", "lacos_st", "benchmarks/*.py")),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device_name(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {library: version(library) for library in LIBRARIES},
        **figures,
    }
    file = (folder or RESULTS) / f"{name}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+b") as opened:
        opened.seek(0)
        whole, end, last = opened.read().rpartition(b"\n")
        if last and _is_cut(last):
            opened.truncate(len(whole + end))
            last = b""
        opened.write(b"\n" * bool(last) + json.dumps(row).encode() + b"\n")
    return row


def read(name: str, *, folder: Path | None = None) -> list[dict[str, Any]]:
    """All rows of a benchmark, oldest first; none where it never ran. A last line that was cut off is no row.

    Args:
        name: of the benchmark.
        folder: of the file; None: `RESULTS`.
    """
    file = (folder or RESULTS) / f"{name}.jsonl"
    whole, _, last = (file.read_bytes() if file.is_file() else b"").rpartition(b"\n")
    lines = [*whole.splitlines(), *([last] if last and not _is_cut(last) else [])]
    return [json.loads(line) for line in lines]


def _is_cut(line: bytes) -> bool:
    """Whether a line is the beginning of a row, which a killed process left."""
    try:
        json.loads(line)
    except ValueError:
        return True
    return False


def device_name() -> str:
    """The GPU's name where there is one, else the processor's."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()
