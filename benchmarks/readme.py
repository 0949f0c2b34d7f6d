"""Rewrite README's results from the newest row of each benchmark and demo run.

    python -m benchmarks.readme

What stands between the two marker lines is replaced; a benchmark without a row is left out.
"""

from __future__ import annotations

from typing import Any

from benchmarks import rows

START, END = "<!-- results: written by benchmarks/readme.py -->", "<!-- end of results -->"
MIB = 2**20


def source(row: dict[str, Any]) -> str:
    """Where a row comes from."""
    threads = f"{row['threads']} thread" + ("s" if row["threads"] != 1 else "")
    commit = row["commit"] + (" with changes" if row["uncommitted"] else "")
    return f"`{row['benchmark']}`, {row['date'][:10]}, {commit}, {row['device']}, {threads}"


def format_lines(row: dict[str, Any]) -> list[tuple[str, str]]:
    """Of `benchmarks.format`."""
    rms = row["relative_rms_percent"]
    return [
        ("bit-equal to `bitsandbytes.functional`", "yes" if row["equal_to_bitsandbytes"] else "**no**"),
        *(
            (
                f"relative RMS on N(0, 0.02), {code}, block 64 / 256 / 4096",
                " / ".join(f"{rms[f'{code}/{block}']:.2f}" for block in (64, 256, 4096)) + " %",
            )
            for code in ("dynamic", "linear")
        ),
        (
            "bytes per weight in memory / on disk",
            f"{row['bytes_per_weight_memory']:.4f} / {row['bytes_per_weight_disk']:.4f}",
        ),
    ]


def parity_lines(row: dict[str, Any]) -> list[tuple[str, str]]:
    """Of `benchmarks.parity`."""
    names = {
        "hidden_states": "hidden states against `BloomModel`",
        "gradients": "gradients against `BloomModel`",
        "batch_invariance": "a sentence alone against in a batch",
        "lora_gradients": "LoRA gradients against stock peft",
    }
    return [(f"max difference, {text}", f"{row[f'{name}_max_difference']:.1e}") for name, text in names.items()]


def loading_lines(row: dict[str, Any]) -> list[tuple[str, str]]:
    """Of `benchmarks.loading`."""
    checkpoint, allowed = row["checkpoint_bytes"] / MIB, row["allowed_peak_bytes"]
    kinds = {"anonymous": "the process's own memory", "resident": "that and the memory-mapped files' pages"}
    peaks = {text: row["8bit"][f"peak_{kind}_bytes"] for kind, text in kinds.items()}
    return [
        (
            f"loading {checkpoint:.0f} MiB of bf16 shards into 8 bits, peak of {text}",
            f"{peak / MIB:.0f} MiB, {'within' if peak <= allowed else '**above**'} the {allowed / MIB:.0f} MiB allowed",
        )
        for text, peak in peaks.items()
    ]


LINES = {"format": format_lines, "parity": parity_lines, "loading": loading_lines}


def demo_table(row: dict[str, Any]) -> list[str]:
    """Of `benchmarks.demo`: a Markdown table of the models' averages."""
    labels = list(row["averages"])
    head = f"Demo on {row['data']} data ({row['seconds']} s), Spearman x100, max over four similarities (cosine alone):"
    table = ["", head, "", f"| model | {' | '.join(labels)} |", "| --- |" + " --- |" * len(labels)]
    for model in row["averages"][labels[0]]:
        figures = [row["averages"][label][model] for label in labels]
        cells = " | ".join(f"{figure['max']:.2f} ({figure['cosine']:.2f})" for figure in figures)
        name = f"{model} (baseline)" if model == row["baseline"] else model
        table.append(f"| {name} | {cells} |")
    return table


def results() -> str:
    """The section: tables, and the rows they were made from."""
    demos = {row["data"]: row for row in rows.read("demo")}
    newest = {name: rows.read(name)[-1] for name in LINES if rows.read(name)}
    used = [demos[kind] for kind in ("real", "synthetic") if kind in demos]
    lines = [line for row in used for line in demo_table(row)]
    if newest:
        lines += ["", "| what | result |", "| --- | --- |"]
        lines += [f"| {what} | {value} |" for name, row in newest.items() for what, value in LINES[name](row)]
    used += newest.values()
    if not used:
        return "No benchmark has been run yet: `make bench`."
    return "\n".join([*lines, "", "Rows:", "", *(f"- {source(row)}" for row in used)]).strip()


def rewrite(text: str) -> str:
    """`text` with the results between the markers replaced.

    Raises:
        ValueError: a marker is missing or they are in the wrong order.
    """
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise ValueError(f"README.md lacks the marker lines {START!r} and {END!r}, in this order: put them back")
    return f"{before}{START}\n\n{results()}\n\n{END}{after}"


def main() -> None:
    """Rewrite README.md in place."""
    file = rows.ROOT / "README.md"
    file.write_text(rewrite(file.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
