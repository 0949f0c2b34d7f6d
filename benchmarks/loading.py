"""Time and peak memory of loading a sharded bf16 BLOOM, ours and stock, each load in a fresh process, in turn.

    python -m benchmarks.loading [--quick] [--repetitions 3]

The synthetic checkpoint has the shape of bloom-560m (over 1 GB); it is removed afterwards. Its files are in a warm
cache, so the time is without the disk's. It ends when each weight has been read once: transformers only maps a bf16
checkpoint into memory, and the first sentence would pay for the reading. Anonymous memory is what a process asks for
itself; resident memory counts pages of memory-mapped checkpoint files too, which the system takes back whenever it
needs them. Both are peaks above what stood before the load, sampled from /proc/self/status, so Linux only.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import BitsAndBytesConfig, BloomModel

from benchmarks import rows
from benchmarks.figures import table
from benchmarks.synthetic import QUICK, Shape
from lacos_st.bloom import BloomEncoder
from lacos_st.quantizer import Blockwise8bitConfig

SHAPE = Shape(vocabulary=250880, hidden=1024, layers=24, heads=16)
"""bloom-560m's."""

SHARD_BYTES = 200 * 10**6
MIB = 2**20
MARGIN = 1.15
KINDS = {
    "8bit": "ours, 8-bit",
    "stock": "stock, bf16",
    "stock-float32": "stock, float32",
    "stock-8bit": "stock, load_in_8bit",
    "stock-nf4": "stock, NF4",
}
SAMPLE_SECONDS = 0.005
NOISE_VALUES = 2**24 + 43  # a prime: tensors, and the rows of one, are other cuts of the noise
WEIGHT_STD = 0.02


def write_checkpoint(folder: Path, shape: Shape = SHAPE, *, shard_bytes: int = SHARD_BYTES) -> dict[str, int]:
    """Write random bf16 shards one at a time, always the same values; no more than a shard is in memory.

    Args:
        folder: to write into.
        shape: of the model.
        shard_bytes: largest size of a shard that holds more than one tensor.

    Returns:
        Bytes in all and bytes of the largest tensor.
    """
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in BloomModel(shape.config).state_dict().items()}
    noise = (torch.randn(NOISE_VALUES, generator=torch.Generator().manual_seed(0)) * WEIGHT_STD).bfloat16()
    index: dict[str, str] = {}
    shard: dict[str, torch.Tensor] = {}
    total = largest = 0

    def flush() -> None:
        name = f"model-{len(set(index.values())):05d}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        index.update(dict.fromkeys(shard, name))
        shard.clear()

    for name, size in shapes.items():
        tensor = _cut(noise, total // noise.element_size(), size.numel()).view(size)
        if tensor.ndim == 1 and name.endswith("weight"):
            tensor += 1.0  # of a layer norm
        total, largest = total + tensor.nbytes, max(largest, tensor.nbytes)
        if shard and sum(t.nbytes for t in shard.values()) + tensor.nbytes > shard_bytes:
            flush()
        shard[name] = tensor
    flush()
    text = json.dumps({"metadata": {"total_size": total}, "weight_map": index})
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    config = shape.config
    config.architectures, config.dtype = ["BloomModel"], torch.bfloat16
    config.save_pretrained(folder)
    return {"checkpoint_bytes": total, "largest_tensor_bytes": largest}


def _cut(noise: torch.Tensor, start: int, count: int) -> torch.Tensor:
    """`count` values of the noise from `start` on, round and round."""
    values = torch.empty(count, dtype=noise.dtype)
    done = 0
    while done < count:
        place = (start + done) % len(noise)
        piece = noise[place : place + count - done]
        values[done : done + len(piece)] = piece
        done += len(piece)
    return values


class PeakMemory:
    """Samples this process's memory on a thread; peaks are above the values at the start, in bytes."""

    def __init__(self) -> None:
        self._start = self._peak = memory()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        while not self._done.wait(SAMPLE_SECONDS):
            self._peak = {key: max(self._peak[key], value) for key, value in memory().items()}

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()
        self._peak = {key: max(self._peak[key], value) for key, value in memory().items()}

    @property
    def peak(self) -> dict[str, int]:
        """Peak, by kind."""
        return dict(self._peak)

    @property
    def rise(self) -> dict[str, int]:
        """Peak above the start, by kind."""
        return {key: self._peak[key] - self._start[key] for key in self._start}

    @property
    def left(self) -> dict[str, int]:
        """Now above the start, by kind."""
        return {key: value - self._start[key] for key, value in memory().items()}


def memory() -> dict[str, int]:
    """Resident and anonymous bytes of this process."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    values = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith("Rss")}
    return {"anonymous": values["RssAnon"], "resident": sum(values.values())}


def load(kind: str, folder: str) -> dict[str, float]:
    """Load in this process, and say what it took.

    Args:
        kind: of `KINDS`.
        folder: of the checkpoint.
    """
    options: dict[str, Any] = {"dtype": torch.float32 if kind == "stock-float32" else "auto"}
    if kind == "8bit":
        options["quantization_config"] = Blockwise8bitConfig()
    elif kind == "stock-8bit":
        options["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
    elif kind == "stock-nf4":
        options["quantization_config"] = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    model_class = BloomEncoder if kind == "8bit" else BloomModel
    began = time.perf_counter()
    with PeakMemory() as peak:
        model: BloomModel = model_class.from_pretrained(folder, **options)
        tensors = [*model.parameters(), *model.buffers()]
        for tensor in tensors:
            tensor.detach().view(-1).view(torch.uint8).max() if tensor.numel() else None
    seconds = time.perf_counter() - began
    rise = {f"peak_{key}_bytes": value for key, value in peak.rise.items()} | {
        "anonymous_bytes": peak.left["anonymous"]
    }
    return {"model_bytes": sum(tensor.nbytes for tensor in tensors), "seconds": round(seconds, 2), **rise}


def middle(loads: Sequence[dict[str, float]]) -> dict[str, float]:
    """The median of each figure."""
    return {key: statistics.median_low(one[key] for one in loads) for key in loads[0]}


def measure(shape: Shape, repetitions: int) -> dict[str, Any]:
    """Sizes of the checkpoint and medians by kind; A B A B ..."""
    loads: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        sizes = write_checkpoint(Path(folder), shape)
        for _ in range(repetitions):
            for kind, found in loads.items():
                command = [sys.executable, "-m", "benchmarks.loading", "--child", kind, folder]
                done = subprocess.run(command, cwd=rows.ROOT, check=True, capture_output=True, text=True)
                found.append(json.loads(done.stdout.splitlines()[-1]))
    return {**sizes, **{kind: middle(found) for kind, found in loads.items()}}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Write the checkpoint, load it every way in fresh processes, print the table, append the row and return it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small model, each way once")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--child", nargs=2, metavar=("KIND", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        found = load(*options.child)
        print(json.dumps(found))
        return found
    row = measure(QUICK if options.quick else SHAPE, 1 if options.quick else options.repetitions)
    allowed = int((row["8bit"]["model_bytes"] + row["largest_tensor_bytes"]) * MARGIN)
    lines = [
        [label, f"{row[kind]['seconds']:.2f} s"]
        + [f"{row[kind][key] / MIB:.0f} MiB" for key in ("model_bytes", "peak_anonymous_bytes", "peak_resident_bytes")]
        for kind, label in KINDS.items()
    ]
    print(table(["", "time", "model", "peak anonymous", "peak resident"], lines), "\n")
    for key in ("anonymous", "resident"):
        peak = row["8bit"][f"peak_{key}_bytes"]
        print(f"{key}: {peak / MIB:.0f} MiB of {allowed / MIB:.0f} MiB allowed", "" if peak <= allowed else "EXCEEDED")
    return rows.append("loading", quick=options.quick, **row, allowed_peak_bytes=allowed)


if __name__ == "__main__":
    main()
