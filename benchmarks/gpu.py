"""Everything that is promised of a GPU, measured in one call of under 8 minutes, without a network or any file.

    python -m benchmarks.gpu [--quick] [--budget 450]

Correctness of the flat path and of each attention kernel; training and encoding of BLOOM 560m, 1b7 and 7b1 (random
weights, made on the device) by stock sentence-transformers + peft and by ours; peak memory of 7b1; the share of the
matrix products' own rate; de-quantisation against copying. Each part has a process and a time budget of its own, so
that one out-of-memory, missing kernel or hanging compiler loses that part only. Speeds only are compared between the
ways, whose random weights differ; that they compute the same is what `correctness` and `benchmarks.training` check.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import subprocess
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import torch

from benchmarks import gpu_report, rows
from benchmarks.gpu_models import LABELS
from benchmarks.gpu_scale import Scale

BUDGET_SECONDS = 450
LAST_SECONDS = 3.0
"""What a process that has answered all gets to end by itself."""


@dataclass(frozen=True)
class Part:
    """A generator of figures, and how long its process may take.

    Attributes:
        name: of its figures.
        function: "module:function".
        seconds: of its process, imports included.
        arguments: beside the scale.
    """

    name: str
    function: str
    seconds: float
    arguments: dict[str, Any] = field(default_factory=dict)


PARTS = (
    Part("correctness", "benchmarks.gpu_kernels:correctness", 45),
    Part("products", "benchmarks.gpu_kernels:products", 45),
    Part("ours-8bit", "benchmarks.gpu_ways:throughput", 90, {"way": "ours-8bit"}),
    Part("stock-8bit", "benchmarks.gpu_ways:throughput", 90, {"way": "stock-8bit"}),
    Part("ours-bf16", "benchmarks.gpu_ways:throughput", 75, {"way": "ours-bf16"}),
    Part("memory", "benchmarks.gpu_ways:memory", 75),
    Part("dequantization", "benchmarks.gpu_kernels:dequantization", 45),
    Part("stock-bf16", "benchmarks.gpu_ways:throughput", 75, {"way": "stock-bf16"}),
    Part("stock-nf4", "benchmarks.gpu_ways:throughput", 75, {"way": "stock-nf4"}),
    Part("attention", "benchmarks.gpu_kernels:attention", 120),
)
"""In the order of what matters most, should the time run out; the last may wait for FlexAttention's compiler."""


def run(part: Part, scale: Scale, *, seconds: float) -> dict[str, Any]:
    """The figures of a part by line; what kept it from going on stands under "problem"."""
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(theirs, part, scale), daemon=True)
    process.start()
    theirs.close()
    figures: dict[str, Any] = {}
    deadline = time.monotonic() + seconds
    try:
        while ours.poll(max(deadline - time.monotonic(), 0)):
            message = ours.recv()
            if message is None:
                break
            name, found = message
            figures[name] = found
        else:
            figures["problem"] = f"not done after {seconds:.0f} s"
    except EOFError:
        process.join()
        figures["problem"] = f"the process ended with code {process.exitcode}"
    process.join(LAST_SECONDS)
    process.kill()
    process.join()
    return figures


def _serve(pipe: Connection, part: Part, scale: Scale) -> None:
    module, name = part.function.split(":")
    try:
        for line in getattr(importlib.import_module(module), name)(scale, **part.arguments):
            pipe.send(line)
    except Exception as error:
        traceback.print_exc()
        pipe.send(("problem", f"{type(error).__name__}: {str(error).strip()[:300]}"))
    pipe.send(None)


def measure(scale: Scale, parts: Sequence[Part] = PARTS, *, budget: float = BUDGET_SECONDS) -> dict[str, Any]:
    """All parts in turn, each within its own time and what is left of the budget, in seconds."""
    began = time.monotonic()
    found: dict[str, Any] = {}
    for part in parts:
        left = budget - (time.monotonic() - began)
        if left < 1:
            found[part.name] = {"problem": "no time left"}
            continue
        found[part.name] = run(part, scale, seconds=min(part.seconds, left))
        print(f"{time.monotonic() - began:5.0f} s  {part.name}: {gpu_report.line(found[part.name])}", flush=True)
    return found


def main(arguments: Sequence[str] | None = None) -> dict[str, Any] | None:
    """Measure, print the tables, append the row and return it; without a GPU say so and return None."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="560m only, few steps")
    parser.add_argument("--budget", type=float, default=BUDGET_SECONDS, help="seconds for all parts (default: 450)")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("benchmarks.gpu: skipped, as there is no CUDA device here")
        return None
    scale = Scale("cuda", options.quick)
    print(f"{rows.device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}", flush=True)
    found = measure(scale, budget=options.budget)
    print(gpu_report.report(found, [size.name for size in scale.sizes], LABELS), flush=True)
    row = {"quick": options.quick, "memory_gib": torch.cuda.get_device_properties(0).total_memory / 2**30, **found}
    try:
        return rows.append("gpu", **row)
    except (OSError, subprocess.CalledProcessError) as error:  # no git there: the figures are not lost for that
        print(f"the row could not be appended ({error}); its figures:\n{json.dumps(row)}")
        return row


if __name__ == "__main__":
    main()
