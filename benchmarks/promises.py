"""Rewrite docs/promises.md: the newest row of the fuzz and of the crash drill, and what holds up in a crash.

    python -m benchmarks.promises

What stands between marker lines is replaced; a drill without a row, or a file of tests that is not there, is said to be
missing.
"""

from __future__ import annotations

from typing import Any

from benchmarks import rows

FILE = rows.ROOT / "docs" / "promises.md"
MIB = 2**20
KINDS = {
    "config": "configurations",
    "header": "headers of safetensors",
    "data": "data files",
    "arguments": "command lines",
}
"""What `benchmarks.fuzz` changes, in words."""

CRASHES = {
    "a run that was killed after any step and resumed ends bit-equal to one that was never stopped": (
        "tests/test_resume.py",
        "benchmarks/crash_drill.py",
    ),
    "a checkpoint or a model's folder is whole, or it is not there; a torn one is named": (
        "tests/test_atomic.py",
        "benchmarks/crash_drill.py",
    ),
    "a full disk, a read-only folder, a base that is gone: an error that says so, and the next start goes on": (
        "tests/test_atomic.py",
        "tests/test_resume.py",
        "benchmarks/crash_drill.py",
    ),
    "`lacos-st encode` writes every row once and in order, also after a kill or on a full disk": (
        "tests/corpus/test_corpus_resume.py",
        "benchmarks/corpus.py",
    ),
}
"""What survives a crash, and the files that hold it."""


def _source(row: dict[str, Any]) -> str:
    commit = row["commit"] + (" with changes" if row["uncommitted"] else "")
    return f"{row['date'][:10]}, {commit}, seed {row['seed']}"


def fuzz_lines(row: dict[str, Any]) -> list[str]:
    """Of a row of `benchmarks.fuzz`: what came of each kind of case."""
    lines = [
        f"Fuzz (`python -m benchmarks.fuzz`; {_source(row)}): {row['cases']:,} cases, **{row['defects']} defects**, "
        f"peak memory {row['peak_resident_bytes'] / MIB:.0f} MiB.",
        "",
        "| changed | cases | what came of them |",
        "| --- | --- | --- |",
    ]
    for kind, outcomes in row["outcomes"].items():
        told = ", ".join(f"{count} {what}" for what, count in sorted(outcomes.items(), key=lambda part: -part[1]))
        lines.append(f"| {KINDS.get(kind, kind)} | {sum(outcomes.values())} | {told} |")
    return lines


def crash_lines(row: dict[str, Any]) -> list[str]:
    """Of a row of `benchmarks.crash_drill`."""
    kills = sum(row["kills"].values())
    told = ", ".join(f"{count} while {what}" for what, count in row["kills"].items())
    figures = {
        f"kills ({told})": kills,
        "of these in the middle of a write": row["kills_while_writing"],
        "runs resumed": row["resumes"],
        "errors that named what was wrong": row["named_errors"],
        "corrupted files": row["corrupted_files"],
        "rows lost": row["rows_lost"],
        "resumed runs compared bit by bit with one that was never stopped": row["compared_runs"],
        "problems": len(row["problems"]),
    }
    lines = [
        f"Crash drill (`python -m benchmarks.crash_drill`; {_source(row)}):",
        "",
        "| what | count |",
        "| --- | --- |",
    ]
    lines += [f"| {what} | {count} |" for what, count in figures.items()]
    if row["not_shown"]:
        lines += ["", f"Not shown on that machine: {'; '.join(row['not_shown'])}."]
    return lines


LINES = {"fuzz": fuzz_lines, "crash_drill": crash_lines}


def figures() -> str:
    """From the newest full row of each drill; a drill without one is said to have none."""
    parts = []
    for name, lines in LINES.items():
        full = [row for row in rows.read(name) if not row.get("quick")]
        missing = f"**Missing**: `benchmarks/results/{name}.jsonl` has no row; run `python -m benchmarks.{name}`."
        parts.append("\n".join(lines(full[-1])) if full else missing)
    return "\n\n".join(parts)


def crashes() -> str:
    """What survives a crash, each promise with what holds it; a file that is not there is said to be missing."""
    lines = ["| promise | held by |", "| --- | --- |"]
    for promise, holders in CRASHES.items():
        told = [f"`{name}`" if (rows.ROOT / name).is_file() else f"**missing**: {name}" for name in holders]
        lines.append(f"| {promise} | {', '.join(told)} |")
    return "\n".join(lines)


SECTIONS = {"crashes": crashes, "figures": figures}


def rewrite(text: str) -> str:
    """`text` with what stands between the markers of each section replaced.

    Raises:
        ValueError: a marker is missing or they are in the wrong order.
    """
    for name, written in SECTIONS.items():
        start, end = f"<!-- {name}: written by benchmarks/promises.py -->", f"<!-- end of {name} -->"
        before, found, rest = text.partition(start)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise ValueError(f"{FILE.name} lacks the marker lines {start!r} and {end!r}, in this order: put them back")
        text = f"{before}{start}\n\n{written()}\n\n{end}{after}"
    return text


def main() -> None:
    """Rewrite the page in place."""
    FILE.write_text(rewrite(FILE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
