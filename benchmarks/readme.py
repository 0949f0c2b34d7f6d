"""Rewrite README's results from the newest row of each benchmark and demo run; `--quick` runs do not count.

    python -m benchmarks.readme

What stands between the two marker lines is replaced; a benchmark without a row is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks import readme_scores, rows
from benchmarks.ways import WAYS

START, END = "<!-- results: written by benchmarks/readme.py -->", "<!-- end of results -->"
MIB = 2**20
GIB = 2**30


def source(row: dict[str, Any]) -> str:
    """Where a row comes from; of a trained model the row is written later than the training, in another process."""
    if "tasks" in row and "trained_at" in row:
        written = f"row written at {row['commit']}"
        return f"`{row['benchmark']}`, {row['date'][:10]}, trained at {row['trained_at']}, {written}, {row['device']}"
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


def percent(figure: dict[str, float]) -> str:
    """A share with its spread."""
    return f"{100 * figure['median']:.0f} % ({100 * figure['min']:.0f}-{100 * figure['max']:.0f})"


def times(figure: dict[str, float]) -> str:
    """A ratio with its spread."""
    return f"{figure['median']:.2f}x ({figure['min']:.2f}-{figure['max']:.2f})"


def training_lines(row: dict[str, Any]) -> list[tuple[str, str]]:
    """Of `benchmarks.training`."""
    contests = {
        "typical_batch": "64 pairs",
        "random_order": f"{row.get('random_order_sizes', {}).get('pairs')} pairs in random order",
    }
    lines = []
    for key, text in contests.items():
        if ours := row.get(key, {}).get("ours-8bit"):
            lines += [
                (
                    f"training step, {text}, against stock + peft, float32",
                    f"{times(ours['times_as_fast_as_stock'])} as fast",
                ),
                ("the same, useful FLOP/s against `sgemm` of the same shapes", percent(ours["share_of_ceiling"])),
            ]
            if "time_over_float" in ours:
                lines.append(("the same, 8-bit against un-quantised", f"{times(ours['time_over_float'])} the time"))
    return lines


def encoding_lines(row: dict[str, Any]) -> list[tuple[str, str]]:
    """Of `benchmarks.encoding`."""
    lines = []
    for size, contest in row["batch_sizes"].items():
        if (ours := contest["ways"].get("ours-8bit")) is not None:
            text = f"`encode` of {row['sentences']} sentences in batches of {size}, against stock"
            lines.append((text, f"{times(ours['times_as_fast_as_stock'])} as fast"))
            text = "the same, useful FLOP/s against `sgemm` of the same shapes"
            lines.append((text, percent(ours["share_of_ceiling"])))
    return lines


def latency_lines(row: dict[str, Any]) -> list[tuple[str, str]]:
    """Of `benchmarks.latency`."""
    names = {"ours-8bit": "8-bit", "ours-dequantized": "8-bit after `dequantize_`"}
    return [
        (f"one query of {row['query_tokens']} tokens, {text} against un-quantised", f"{times(found)} the time")
        for name, text in names.items()
        if (found := row["ways"].get(name, {}).get("time_over_float"))
    ]


def memory_lines(row: dict[str, Any]) -> list[tuple[str, str]]:
    """Of `benchmarks.memory`."""
    ours, stock = row["ways"].get("ours-8bit"), row["ways"]["stock"]
    if ours is None:
        return []
    kept = [f"{way['saved_bytes_over_hidden']:.1f}h" for way in (ours, stock)]
    return [
        ("peak memory of a training step beyond the weights, against stock", f"{ours['of_stock']:.2f} of it"),
        ("saved for backward per token and layer, bf16, bytes in units of h, against stock", " / ".join(kept)),
    ]


def bloom_7b1_lines(row: dict[str, Any]) -> list[tuple[str, str]]:
    """Of `benchmarks.bloom_7b1`."""
    phases = row["phases"]
    lines = []
    for text, name in (("loading", "load"), ("two steps of 8 pairs, checkpointing", "train")):
        peak = phases[name].get("peak_gpu_bytes", phases[name]["peak_resident_bytes"])
        lines.append((f"BLOOM-7b1, {text}, {row['dtype']}", f"{peak / GIB:.1f} GiB, {phases[name]['seconds']:.0f} s"))
    apart = row["disk_read_seconds"] + row["quantizer_seconds"]
    return [*lines, ("reading its files and quantising as many weights, apart", f"{apart:.0f} s")]


def prediction_lines(row: dict[str, Any]) -> list[tuple[str, str]]:
    """Of `benchmarks.prediction`."""
    ratios = [case["ratio"] for case in row["cases"]]
    return [
        (
            f"`lacos-st memory`, predicted over measured peak in use, {len(ratios)} runs",
            f"{min(ratios):.2f} to {max(ratios):.2f}",
        )
    ]


def corpus_lines(row: dict[str, Any]) -> list[tuple[str, str]]:
    """Of `benchmarks.corpus`."""
    runs, check = row["runs"], row["check"]
    largest = runs[str(check["rows_expected"])]
    sizes = " / ".join(f"{int(count):,}" for count in runs)
    peaks = " / ".join(f"{one['peak_bytes'] / MIB:.0f}" for one in runs.values())
    right = check["rows"] == check["rows_expected"] and not check["out_of_order"]
    return [
        (
            f"`lacos-st encode`, {check['rows_expected']:,} short sentences, {row['model']}",
            f"{largest['sentences_per_second']:,.0f} sentences/s, {largest['tokens_per_second']:,.0f} tokens/s",
        ),
        (f"the same, peak memory at {sizes} rows", f"{peaks} MiB"),
        (
            f"the same, killed after {largest['killed_after_shards']} of {row['shards']} shards and resumed",
            f"{'every row once and in order' if right else '**rows lost or out of order**'}, within "
            f"{check['max_difference']:.1e} of one call",
        ),
    ]


LINES = {
    "training": training_lines,
    "encoding": encoding_lines,
    "latency": latency_lines,
    "memory": memory_lines,
    "bloom_7b1": bloom_7b1_lines,
    "prediction": prediction_lines,
    "format": format_lines,
    "parity": parity_lines,
    "loading": loading_lines,
    "corpus": corpus_lines,
}


def newest() -> dict[str, dict[str, Any]]:
    """The newest row of each benchmark that ran in full size."""
    found = {name: [row for row in rows.read(name) if not row.get("quick")] for name in LINES}
    return {name: full[-1] for name, full in found.items() if full}


ENCODED = "32"
"""The batch size of `encode` in the table: stock's default."""

CELLS: dict[str, tuple[str, Callable[[dict[str, Any], str], str]]] = {
    "training": (
        "training step, 64 pairs (of `sgemm`'s FLOP/s)",
        lambda row, way: (
            f"{row['typical_batch'][way]['seconds']['median']:.2f} s "
            f"({100 * row['typical_batch'][way]['share_of_ceiling']['median']:.0f} %)"
        ),
    ),
    "encoding": (
        f"`encode`, 2,000 sentences, batches of {ENCODED} (of `sgemm`'s)",
        lambda row, way: (
            f"{row['batch_sizes'][ENCODED]['ways'][way]['seconds']['median']:.1f} s "
            f"({100 * row['batch_sizes'][ENCODED]['ways'][way]['share_of_ceiling']['median']:.0f} %)"
        ),
    ),
    "latency": ("one query", lambda row, way: f"{row['ways'][way]['milliseconds']['median']:.1f} ms"),
    "memory": (
        "peak of a step beyond the weights",
        lambda row, way: f"{row['ways'][way]['step_bytes'] / MIB:.0f} MiB",
    ),
}
"""Columns of the table of ways: by benchmark the heading, and the cell of a row and a way."""


def ways_table(full: dict[str, dict[str, Any]]) -> list[str]:
    """A Markdown table of stock and ours in all benchmarks that compare them."""
    columns = {name: column for name, column in CELLS.items() if name in full}
    if not columns:
        return []
    shape = full[next(iter(columns))]["shape"]
    head = (
        f"Ours against stock on a random BLOOM ({shape['layers']} layers, width {shape['hidden']}, vocabulary "
        f"{shape['vocabulary']:,}), sentences of NLI lengths, medians:"
    )
    table = ["", head, "", f"| way | {' | '.join(heading for heading, _ in columns.values())} |"]
    table.append("| --- |" + " --- |" * len(columns))
    for way, description in WAYS.items():
        cells = []
        for name, (_, cell) in columns.items():
            row = full[name]
            measured = row.get("typical_batch") or row.get("ways") or row["batch_sizes"][ENCODED]["ways"]
            cells.append(cell(full[name], way) if way in measured else "-")
        if set(cells) != {"-"}:
            table.append(f"| {description.label} | {' | '.join(cells)} |")
    return table


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
    full = newest()
    used = [demos[kind] for kind in ("real", "synthetic") if kind in demos]
    lines = readme_scores.lines()
    lines += [line for row in used for line in demo_table(row)]
    lines += ways_table(full)
    if full:
        lines += ["", "| what | result |", "| --- | --- |"]
        lines += [f"| {what} | {value} |" for name, row in full.items() for what, value in LINES[name](row)]
    used = [*readme_scores.used(), *used, *full.values()]
    if not used:
        return "No benchmark has been run yet: `make bench`."
    return "\n".join([*lines, "", "Rows:", "", *dict.fromkeys(f"- {source(row)}" for row in used)]).strip()


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
