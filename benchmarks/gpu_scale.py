"""How much `benchmarks.gpu` does, and how its parts time and count memory.

Every part also runs on a CPU, in float32 on a tiny shape: that is how it is tested where there is no GPU.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks import lengths
from benchmarks.gpu_models import SIZES, Published
from benchmarks.synthetic import Shape
from benchmarks.training import typical_batch

Figures = Iterator[tuple[str, dict[str, Any]]]
"""What a part yields: the name of a figure's line, and the figures, as soon as they are there."""

TINY = Shape(vocabulary=512, hidden=256, layers=2, heads=4)
WARM_UPS, STEPS, QUICK_STEPS = 2, 7, 2
SENTENCES, QUICK_SENTENCES = 2000, 200
GIB = 2**30


@dataclass(frozen=True)
class Scale:
    """How much a part does.

    Attributes:
        device: "cuda" or "cpu".
        quick: few steps and sentences, the smallest size.
    """

    device: str
    quick: bool

    @property
    def dtype(self) -> torch.dtype:
        """Of activations and products."""
        return torch.bfloat16 if self.device == "cuda" else torch.float32

    @property
    def sizes(self) -> tuple[Published, ...]:
        """Those measured."""
        if self.device == "cpu":
            return (Published("tiny", TINY),)
        return SIZES[:1] if self.quick else SIZES

    @property
    def steps(self) -> int:
        """Timed ones."""
        return QUICK_STEPS if self.quick else STEPS

    @property
    def sentences(self) -> int:
        """To encode."""
        return QUICK_SENTENCES if self.quick else SENTENCES

    @property
    def batch(self) -> list[lengths.Pair]:
        """The 64 pairs of every step; a few on a CPU."""
        pairs = lengths.read()
        chosen = [pairs[place] for place in typical_batch(pairs)]
        return chosen if self.device == "cuda" else chosen[:4]

    def wait(self) -> None:
        """Until the device has done all it was given."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], Any]) -> float:
        """Median time of `work`, after calls that warm up."""
        times = []
        for turn in range(WARM_UPS + self.steps):
            self.wait()
            began = time.perf_counter()
            work()
            self.wait()
            if turn >= WARM_UPS:
                times.append(time.perf_counter() - began)
        return statistics.median(times)

    def forget(self) -> None:
        """Give memory back, and count its peak anew."""
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> dict[str, float | None]:
        """GiB since `forget`, at most: in tensors, and in what torch held of the device for them; None on a CPU."""
        if self.device != "cuda":
            return {"peak_gib": None, "peak_reserved_gib": None}
        return {
            "peak_gib": round(torch.cuda.max_memory_allocated() / GIB, 3),
            "peak_reserved_gib": round(torch.cuda.max_memory_reserved() / GIB, 3),
        }
