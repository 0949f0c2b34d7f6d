"""BLOOM-7b1 for real: load in 8 bits, encode, train two steps, save, load again, merge; time and peak memory of each.

    python -m benchmarks.bloom_7b1 [--device cuda] [--quick]

Writes a synthetic checkpoint in the published shape (14 GB of seeded bf16 shards, in the folder for temporary files)
and removes it, whatever happens. Each phase's peak is the resident memory of the whole process, libraries included; on
a GPU that, and the peak of its own memory. On a CPU float32 computes, which is faster there and fits the targets; on a
GPU bfloat16. The adapter has rank 1, the paper's for this size.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

import lacos_st
from benchmarks import lengths, rows, synthetic
from benchmarks.figures import table
from benchmarks.loading import PeakMemory, write_checkpoint
from benchmarks.synthetic import Shape
from lacos_st.blockwise import quantize
from lacos_st.export.options import ExportOptions
from lacos_st.export.run import export_model
from lacos_st.trainer import LacosTrainer

FULL = Shape(vocabulary=250880, hidden=4096, layers=30, heads=32)
"""config.json of bigscience/bloom-7b1; Le Scao et al. 2022 (arXiv 2211.05100), table 3."""

SHARD_BYTES = 2 * 10**9
READ_BYTES = 16 * 2**20
RANK = 1
PAIRS = 8
STEPS = 2
SENTENCES = 16
GIB = 2**30
TARGETS = {"load": ("resident", 8.5), "train": ("resident", 10.5), "merge": ("resident", 4.0)}
"""Peak GiB of the process on a CPU, by phase."""

ADAPTER_BYTES = 50 * 10**6
PHASES = ("load", "encode", "train", "save", "reload", "encode again", "merge")


@contextmanager
def phase(name: str, figures: dict[str, Any]) -> Iterator[None]:
    """Measure what is done inside: seconds, and peaks in bytes."""
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    with PeakMemory() as peak:
        yield
        if cuda:
            torch.cuda.synchronize()
    figures[name] = {
        "seconds": round(time.perf_counter() - began, 2),
        **{f"peak_{k}_bytes": v for k, v in peak.peak.items()},
    }
    if cuda:
        figures[name]["peak_gpu_bytes"] = torch.cuda.max_memory_allocated()


def pairs(shape: Shape, count: int) -> list[tuple[str, str]]:
    """Synthetic pairs with the lengths of real NLI pairs."""
    return lengths.texts(lengths.read()[:count], words=shape.words)


def first_run(folder: Path, shape: Shape, device: str) -> dict[str, Any]:
    """In a process of its own: load, encode, train, save; the embeddings before and after go to files."""
    figures: dict[str, Any] = {}
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    with phase("load", figures):
        model = lacos_st.encoder(str(folder / "base"), lora_rank=RANK, device=device, model_kwargs={"dtype": dtype})
    sentences = [text for pair in pairs(shape, SENTENCES // 2) for text in pair]
    with phase("encode", figures):
        untrained = model.encode(sentences, convert_to_tensor=True, batch_size=SENTENCES)
    with phase("train", figures):
        losses = train(model, folder / "run", shape, device)
    with phase("save", figures):
        model.save_pretrained(str(folder / "saved"))
    trained = model.eval().encode(sentences, convert_to_tensor=True, batch_size=SENTENCES)
    torch.save(trained.cpu(), folder / "embeddings.pt")
    adapter = sum(file.stat().st_size for file in (folder / "saved" / "adapter").iterdir())
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "phases": figures,
        "losses": losses,
        "adapter_bytes": adapter,
        "trained_difference": float((trained - untrained).norm() / untrained.norm()),
    }


def train(model: SentenceTransformer, folder: Path, shape: Shape, device: str) -> list[float]:
    """Two steps of `PAIRS` pairs with gradient checkpointing; returns the losses."""
    backbone: Any = model[0]
    enable = getattr(backbone.model, "activation_checkpointing_enable", backbone.model.gradient_checkpointing_enable)
    enable({"use_reentrant": False})
    chosen = pairs(shape, SENTENCES // 2 + PAIRS * STEPS)[SENTENCES // 2 :]
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        max_steps=STEPS,
        per_device_train_batch_size=PAIRS,
        optim="adamw_bnb_8bit",
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=device == "cpu",
        dataloader_pin_memory=device != "cpu",
    )
    rows_of_text = Dataset.from_dict({"anchor": [a for a, _ in chosen], "positive": [b for _, b in chosen]})
    trainer = LacosTrainer(
        model=model, args=arguments, train_dataset=rows_of_text, loss=MultipleNegativesRankingLoss(model)
    )
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def second_run(folder: Path, shape: Shape, device: str) -> dict[str, Any]:
    """In a fresh process: load what was saved, and compare the embeddings."""
    figures: dict[str, Any] = {}
    with phase("reload", figures):
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        model = SentenceTransformer(str(folder / "saved"), device=device, model_kwargs={"dtype": dtype})
    sentences = [text for pair in pairs(shape, SENTENCES // 2) for text in pair]
    with phase("encode again", figures):
        embeddings = model.encode(sentences, convert_to_tensor=True, batch_size=SENTENCES)
    expected = torch.load(folder / "embeddings.pt")
    return {"phases": figures, "bit_equal": torch.equal(embeddings.cpu(), expected)}


def merge_run(folder: Path, shape: Shape, device: str) -> dict[str, Any]:
    """In a fresh process: fold the adapter into 16-bit weights, `lacos-st export --format merged`."""
    del shape, device
    figures: dict[str, Any] = {}
    with phase("merge", figures):
        made = export_model(ExportOptions(model=str(folder / "saved"), output=str(folder / "merged")))
    return {"phases": figures, "merged_bytes": made.bytes, "merged_cosine": made.fidelity.float32}


def floor(folder: Path, shape: Shape, device: str) -> dict[str, Any]:
    """In a fresh process: seconds to read the checkpoint from disk, and to quantise as many weights in memory."""
    del device
    files = sorted((folder / "base").glob("*.safetensors"))
    forget(folder / "base")
    buffer = bytearray(READ_BYTES)
    began = time.perf_counter()
    for file in files:
        with file.open("rb", buffering=0) as opened:
            while opened.readinto(buffer):
                pass
    read = time.perf_counter() - began
    weight = torch.randn(4 * shape.hidden, shape.hidden).bfloat16()
    began = time.perf_counter()
    quantize(weight)
    rate = weight.numel() / (time.perf_counter() - began)
    weights = sum(file.stat().st_size for file in files) / weight.element_size()
    return {"disk_read_seconds": round(read, 2), "quantizer_seconds": round(weights / rate, 2)}


RUNS = {"first": first_run, "second": second_run, "merge": merge_run, "floor": floor}


def in_fresh_process(run: str, folder: Path, *, quick: bool, device: str) -> dict[str, Any]:
    """One of `RUNS`; its progress bars go to this process's terminal.

    Raises:
        RuntimeError: it failed.
    """
    command = [sys.executable, "-m", "benchmarks.bloom_7b1", "--device", device, "--child", run, str(folder)]
    done = subprocess.run([*command, *(["--quick"] if quick else [])], cwd=rows.ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f"the {run} run ended with code {done.returncode}: its messages stand above")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def forget(folder: Path) -> None:
    """Have the system write the files to disk and drop them from its cache, so that loading reads the disk."""
    for file in folder.iterdir():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(*, quick: bool, device: str) -> dict[str, Any]:
    """All phases; the files are gone afterwards."""
    shape = synthetic.QUICK if quick else FULL
    with tempfile.TemporaryDirectory(prefix="bloom-7b1-") as name:
        folder = Path(name)
        base = folder / "base"
        base.mkdir()
        began = time.perf_counter()
        sizes = write_checkpoint(base, shape, shard_bytes=SHARD_BYTES)
        synthetic.tokenizer(shape.words).save_pretrained(base)
        forget(base)
        written = {"seconds": round(time.perf_counter() - began, 2)}
        first = in_fresh_process("first", folder, quick=quick, device=device)
        second = in_fresh_process("second", folder, quick=quick, device=device)
        forget(base)
        merged = in_fresh_process("merge", folder, quick=quick, device=device)
        shutil.rmtree(folder / "merged")
        least = in_fresh_process("floor", folder, quick=quick, device=device)
    phases = {"write": written, **first["phases"], **second["phases"], **merged["phases"]}
    return {**sizes, **first, **second, **merged, **least, "phases": phases}


def verdicts(row: dict[str, Any]) -> dict[str, bool]:
    """Whether each target is met."""
    met = {
        f"{name}: peak {kind} <= {limit} GiB": row["phases"][name][f"peak_{kind}_bytes"] <= limit * GIB
        for name, (kind, limit) in TARGETS.items()
    }
    met[f"adapter <= {ADAPTER_BYTES / 1e6:.0f} MB"] = row["adapter_bytes"] <= ADAPTER_BYTES
    met["embeddings bit-equal after loading again"] = row["bit_equal"]
    return met


def report(row: dict[str, Any]) -> str:
    """The table."""
    kinds = [kind for kind in ("resident", "anonymous", "gpu") if f"peak_{kind}_bytes" in row["phases"]["load"]]
    lines = [
        [name, f"{found['seconds']:.1f} s"]
        + [f"{found[key] / GIB:.2f} GiB" if (key := f"peak_{kind}_bytes") in found else "" for kind in kinds]
        for name, found in row["phases"].items()
    ]
    bound = (
        f"Reading the files alone: {row['disk_read_seconds']:.1f} s; quantising as many weights in memory: "
        f"{row['quantizer_seconds']:.1f} s. Adapter: {row['adapter_bytes'] / 1e6:.1f} MB. "
        f"{row['dtype']}. Merged: {row['merged_bytes'] / 1e9:.1f} GB, least cosine {row['merged_cosine']:.6f}."
    )
    met = [[what, "met" if good else "MISSED"] for what, good in verdicts(row).items()]
    return (
        table(["phase", "time", *(f"peak {kind}" for kind in kinds)], lines)
        + f"\n\n{bound}\n\n"
        + table(["target", ""], met)
    )


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print the table, append the row and return it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small model, in seconds")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--child", nargs=2, metavar=("RUN", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        run, folder = options.child
        row = RUNS[run](Path(folder), synthetic.QUICK if options.quick else FULL, options.device)
        print(json.dumps(row))
        return row
    signal.signal(signal.SIGTERM, _stop)
    row = measure(quick=options.quick, device=options.device)
    print(report(row))
    return rows.append("bloom_7b1", quick=options.quick, **row)


def _stop(number: int, frame: FrameType | None) -> None:
    """End through the exceptions' way, so that files are removed."""
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
