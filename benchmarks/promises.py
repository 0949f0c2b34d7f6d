"""Rewrite the figures in SECURITY.md from the newest row of the fuzz and of the crash drill.

    python -m benchmarks.promises

What stands between the two marker lines is replaced; a drill without a row is said to have none.
"""

from __future__ import annotations

from typing import Any

from benchmarks import rows

START, END = "<!-- figures: written by benchmarks/promises.py -->", "<!-- end of figures -->"
MIB = 2**20
KINDS = {
    "config": "configurations",
    "header": "headers of safetensors",
    "data": "data files",
    "arguments": "command lines",
}
"""What `benchmarks.fuzz` changes, in words."""


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
    """The section, from the newest full row of each drill."""
    parts = []
    for name, lines in LINES.items():
        full = [row for row in rows.read(name) if not row.get("quick")]
        parts.append("\n".join(lines(full[-1])) if full else f"`benchmarks.{name}` has no row yet.")
    return "\n\n".join(parts)


def rewrite(text: str) -> str:
    """`text` with the figures between the markers replaced.

    Raises:
        ValueError: a marker is missing or they are in the wrong order.
    """
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise ValueError(f"SECURITY.md lacks the marker lines {START!r} and {END!r}, in this order: put them back")
    return f"{before}{START}\n\n{figures()}\n\n{END}{after}"


def main() -> None:
    """Rewrite SECURITY.md in place."""
    file = rows.ROOT / "SECURITY.md"
    file.write_text(rewrite(file.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
