"""Peak memory while a sharded bf16 BLOOM is loaded into 8 bits, each way in a fresh process.

    python -m benchmarks.loading

The synthetic checkpoint has the shape of bloom-560m (over 1 GB); it is removed afterwards. Anonymous memory is what a
process asks for itself; resident memory counts pages of memory-mapped checkpoint files too, which the system takes
back whenever it needs them. Both are peaks above what stood before the load, sampled from
/proc/self/status, so Linux only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import BloomModel

from benchmarks import rows
from benchmarks.synthetic import Shape
from lacos_st.bloom import BloomEncoder
from lacos_st.linear import Stored8bit
from lacos_st.quantizer import Blockwise8bitConfig

SHAPE = Shape(vocabulary=250880, hidden=1024, layers=24, heads=16)
"""bloom-560m's."""

SHARD_BYTES = 200 * 10**6
MIB = 2**20
MARGIN = 1.15
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


def memory() -> dict[str, int]:
    """Resident and anonymous bytes of this process."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    values = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith("Rss")}
    return {"anonymous": values["RssAnon"], "resident": sum(values.values())}


def load(kind: str, folder: str) -> dict[str, float]:
    """Load in this process, and say what it took."""
    began = time.perf_counter()
    model: BloomModel
    with PeakMemory() as peak:
        if kind == "8bit":
            model = BloomEncoder.from_pretrained(folder, quantization_config=Blockwise8bitConfig(), dtype="auto")
        else:
            model = BloomModel.from_pretrained(folder, dtype="auto")
    seconds = time.perf_counter() - began
    stored = sum(m.codes.nbytes + m.absmax.nbytes for m in model.modules() if isinstance(m, Stored8bit))
    size = stored + sum(parameter.nbytes for parameter in model.parameters())
    rise = {f"peak_{key}_bytes": value for key, value in peak.rise.items()}
    return {"model_bytes": size, "seconds": round(seconds, 2), **rise}


def main() -> None:
    """Write the checkpoint, load it both ways in fresh processes, append the row, print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", nargs=2, metavar=("KIND", "FOLDER"), help=argparse.SUPPRESS)
    child = parser.parse_args().child
    if child:
        print(json.dumps(load(*child)))
        return
    loads = {}
    with tempfile.TemporaryDirectory() as folder:
        sizes = write_checkpoint(Path(folder))
        for kind in ("8bit", "stock"):
            command = [sys.executable, "-m", "benchmarks.loading", "--child", kind, folder]
            done = subprocess.run(command, cwd=rows.ROOT, check=True, capture_output=True, text=True)
            loads[kind] = json.loads(done.stdout.splitlines()[-1])
    allowed = (loads["8bit"]["model_bytes"] + sizes["largest_tensor_bytes"]) * MARGIN
    row = rows.append("loading", **sizes, **loads, allowed_peak_bytes=int(allowed))
    print(json.dumps(row, indent=2))
    for key in ("anonymous", "resident"):
        peak = loads["8bit"][f"peak_{key}_bytes"]
        print(f"{key}: {peak / MIB:.0f} MiB of {allowed / MIB:.0f} MiB allowed", "" if peak <= allowed else "EXCEEDED")


if __name__ == "__main__":
    main()
