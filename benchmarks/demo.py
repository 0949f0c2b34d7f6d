"""`lacos-st demo` as a benchmark: the averages of its four models, on synthetic or on real data.

python -m benchmarks.demo
python -m benchmarks.demo --data ../shared/data --output runs/demo-real
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from benchmarks import rows
from lacos_st.demo import run


def scores(results: dict[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """From results.json: {"STS-Avg": {"model": {"max": ..., "cosine": ...}}}, Spearman x100, without empty averages."""
    averages: dict[str, dict[str, dict[str, float]]] = {}
    for model in results["models"]:
        for label, average in model["averages"].items():
            if average["max"] is not None:
                figures = {figure: round(average[figure], 2) for figure in ("max", "cosine")}
                averages.setdefault(label, {})[model["name"]] = figures
    return averages


def main() -> None:
    """Run the demo in full, append the row, print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of real data (nli/ and sts/); without: synthetic")
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="folder, replaced if it holds a demo")
    arguments = parser.parse_args()
    began = time.perf_counter()
    for line in run(output=arguments.output, data=arguments.data, overwrite=True):
        print(line, flush=True)
    seconds = time.perf_counter() - began
    results = json.loads((arguments.output / "results.json").read_text(encoding="utf-8"))
    row = rows.append(
        "demo",
        data="synthetic" if arguments.data is None else "real",
        seconds=round(seconds),
        baseline=results["baseline"],
        tasks={task["task"]: task["pairs"] for task in results["models"][0]["tasks"]},
        averages=scores(results),
    )
    print(json.dumps(row, indent=2))


if __name__ == "__main__":
    main()
