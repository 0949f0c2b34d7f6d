"""Predicted against measured memory: whole runs of `train` and `encode`, each in a fresh process on the CPU.

    python -m benchmarks.prediction            # combinations of size, batch and method, one row of results
    python -m benchmarks.prediction --quick    # three small ones, not recorded

What is measured is the resident peak (VmHWM, which Linux keeps exactly) above what stood before, with a tiny run of
the same kind before it, so that libraries and their buffers are there already. It covers loading, training or
encoding, and saving. Bases are random; sentences have the lengths of real NLI pairs (`benchmarks.lengths`), or one.

The allocator is told to give back what is freed, and the trainer not to keep it: so it is memory in use. As a run goes
by itself, glibc's heap holds freed memory on top of that (`lacos_st.heap`); `--as-run` measures both together.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import os
import subprocess
import sys
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, PreTrainedConfig

from benchmarks import figures, lengths, rows, synthetic
from lacos_st.recipe.job import Job
from lacos_st.recipe.memory import Memory, predict
from lacos_st.recipe.shapes import shape_of

MIB = 2**20
TOLERANCE = 0.10
GIVEN_BACK = 2**17
"""Blocks of so many bytes go back to the system when they are freed; naming the size keeps glibc from raising it."""
WORDS = 4000
CLASSES = ("entailment", "neutral", "contradiction")


@dataclass(frozen=True)
class Size:
    """Of a base."""

    model_type: str = "bloom"
    hidden: int = 512
    layers: int = 6
    vocabulary: int = 16384

    @property
    def config(self) -> PreTrainedConfig:
        """For transformers: heads of 64."""
        sizes: dict[str, Any] = {
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.hidden // 64,
        }
        if self.model_type != "bloom":
            sizes |= {"intermediate_size": 4 * self.hidden, "max_position_embeddings": 2048}
        if self.model_type == "llama":
            sizes |= {"num_key_value_heads": self.hidden // 64}
        return AutoConfig.for_model(self.model_type, **sizes)


@dataclass(frozen=True)
class Case:
    """One combination; `length` None for the lengths of NLI pairs, `steps` of training."""

    size: Size
    method: str
    batch: int
    length: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    steps: int = 2

    @property
    def name(self) -> str:
        """For the table."""
        size = self.size
        text = f"{size.model_type} {size.hidden}x{size.layers}, {size.vocabulary // 1000}k"
        options = ", ".join(f"{key}={value}" for key, value in self.options.items())
        return f"{text} | {self.method} | {self.batch} x {self.length or 'NLI'} | {options}"


BASE = Size()
WIDE = Size(hidden=768, layers=8, vocabulary=50304)
CASES = (
    Case(BASE, "lacos", 256),
    Case(BASE, "lacos", 256, options={"gradient_checkpointing": True}),
    Case(BASE, "lacos", 256, options={"mini_batch_size": 128}),
    Case(BASE, "lacos", 8, length=512),
    Case(Size(hidden=1024, layers=6, vocabulary=250880), "lacos", 32),
    Case(BASE, "lora", 256, options={"lora_rank": 32}),
    Case(WIDE, "lora", 64, options={"lora_targets": ["all-linear"]}),
    Case(BASE, "full", 128),
    Case(WIDE, "full", 16),
    Case(WIDE, "full", 64, options={"optimizer": "adamw", "gradient_checkpointing": True}),
    Case(WIDE, "freeze", 64, options={"frozen_blocks": 5}),
    Case(BASE, "bias", 128),
    Case(Size("bert"), "sbert", 128),
    Case(Size("llama"), "lacos", 128),
    Case(Size("gpt_neox"), "lora", 128),
    Case(Size("llama"), "full", 96),
    Case(BASE, "encode", 2000),
    Case(WIDE, "encode", 500, options={"quantized": False}),
)
QUICK = (
    Case(Size(hidden=256, layers=4, vocabulary=4096), "lacos", 256),
    Case(Size(hidden=256, layers=4, vocabulary=4096), "full", 256),
    Case(Size(hidden=256, layers=4, vocabulary=4096), "encode", 2000),
)


def sentences(case: Case) -> list[tuple[lengths.Length, lengths.Length]]:
    """Lengths of both sides of the case's pairs; of sentences in twos for `encode`."""
    count = case.batch // 2 if case.method == "encode" else case.batch
    if case.length is not None:
        return [(lengths.Length(case.length, 0),) * 2] * count
    recorded = lengths.read()
    return [recorded[place % len(recorded)] for place in range(count)]


def job_of(case: Case) -> Job:
    """The case as a question to `predict`."""
    pairs = sentences(case)
    tokens = lengths.tokens(pairs)
    names = {"gradient_checkpointing": "checkpointing", "mini_batch_size": "mini_batch", "lora_rank": "rank"}
    options = {names.get(key, key.removeprefix("lora_")): value for key, value in case.options.items()}
    return Job(
        method=case.method,  # type: ignore[arg-type]
        batch_size=case.batch,
        length=sum(tokens) / len(tokens),
        longer_side=max(sum(pair[side].tokens for pair in pairs) for side in (0, 1)) / len(pairs),
        mean_square=sum(count**2 for count in tokens) / len(tokens),
        **options,
    )


def predicted(case: Case) -> Memory:
    """By the formulas."""
    return predict(shape_of(case.size.config), job_of(case))


def write_base(folder: Path, size: Size) -> None:
    """A random base in float32, with a tokenizer of one token a word."""
    torch.manual_seed(0)
    AutoModel.from_config(size.config).save_pretrained(folder)
    synthetic.tokenizer(WORDS).save_pretrained(folder)


def write_pairs(file: Path, pairs: list[tuple[lengths.Length, lengths.Length]], *, labelled: bool) -> None:
    """A table of synthetic pairs, with a class each where the method wants one."""
    lines = ["\t".join(pair) for pair in lengths.texts(pairs, words=WORDS)]
    if labelled:
        lines = [f"{CLASSES[place % len(CLASSES)]}\t{line}" for place, line in enumerate(lines)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def run(case: Case, base: Path, work: Path) -> None:
    """Do what the case says, from loading to saving."""
    pairs = sentences(case)
    if case.method == "encode":
        import lacos_st

        code = "dynamic" if case.options.get("quantized", True) else None
        model = lacos_st.encoder(str(base), lora_rank=0, code=code, device="cpu")
        texts = [text for pair in lengths.texts(pairs, words=WORDS) for text in pair]
        model.encode(texts, batch_size=case.batch, show_progress_bar=False)
        return
    from lacos_st.settings import TrainConfig
    from lacos_st.training import train

    write_pairs(work / "pairs.tsv", pairs, labelled=case.method == "sbert")
    config = {
        "base": str(base),
        "data": str(work / "pairs.tsv"),
        "output": str(work / "run"),
        "method": case.method,
        "batch_size": case.batch,
        "epochs": case.steps,
        "eval_rows": 0,
        "cpu": True,
        "progress": False,
        "force": True,
        **case.options,
    }
    train(TrainConfig.from_mapping(config))


def tiny(case: Case) -> Case:
    """The same kind of run, as small as it gets."""
    size = dataclasses.replace(case.size, hidden=256, layers=1, vocabulary=WORDS + len(synthetic.SPECIAL))
    options = {**case.options, "frozen_blocks": 0} if "frozen_blocks" in case.options else case.options
    return dataclasses.replace(case, size=size, batch=4, length=8, options=options)


def measure(case: Case, folder: Path, *, as_run: bool) -> int:
    """Bytes of this process's resident peak during the case, above what stood before; Linux only.

    Args:
        case: to run.
        folder: with the base in "base", and that of `tiny` in "tiny".
        as_run: leave the trainer's way with freed memory as it is.
    """
    warnings.simplefilter("ignore")
    if not as_run:
        from lacos_st import trainer

        for name in ("keep_freed_memory", "return_freed_memory"):
            setattr(trainer, name, lambda: None)
    run(tiny(case), folder / "tiny", folder / "tiny")
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # VmHWM counts from here on
    start = _resident("VmRSS")
    run(case, folder / "base", folder / "base")
    return _resident("VmHWM") - start


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def measured(case: Case, *, as_run: bool = False) -> int:
    """`measure` in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        write_base(Path(folder, "tiny"), tiny(case).size)
        write_base(Path(folder, "base"), case.size)
        command = [
            sys.executable,
            "-m",
            "benchmarks.prediction",
            "--child",
            json.dumps(dataclasses.asdict(case)),
            folder,
            "as-run" if as_run else "in-use",
        ]
        environment = os.environ if as_run else {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(GIVEN_BACK)}
        done = subprocess.run(command, cwd=rows.ROOT, env=environment, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{case.name} failed: ...{done.stderr[-1500:]}")
    return int(done.stdout.splitlines()[-1])


def compare(case: Case, *, as_run: bool = False) -> dict[str, Any]:
    """Both figures, in bytes, and their ratio."""
    guess, fact = predicted(case).peak, measured(case, as_run=as_run)
    return {"case": case.name, "predicted_bytes": guess, "measured_bytes": fact, "ratio": round(guess / fact, 4)}


def show(result: dict[str, Any]) -> list[str]:
    """A line of the table."""
    sizes = [f"{result[key] / MIB:.0f} MiB" for key in ("predicted_bytes", "measured_bytes")]
    outside = "" if abs(result["ratio"] - 1) <= TOLERANCE else " OUTSIDE"
    return [*result["case"].split(" | "), *sizes, f"{result['ratio'] - 1:+.1%}{outside}"]


def main() -> None:
    """Compare every case, print the table, append the row."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="three small cases, not recorded")
    parser.add_argument("--only", type=int, nargs="+", metavar="N", help="these cases, from 0, not recorded")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="cases at a time [1]: memory is not time")
    parser.add_argument("--as-run", action="store_true", help="with what the heap keeps of freed memory")
    parser.add_argument("--child", nargs=3, metavar=("CASE", "FOLDER", "HOW"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        given = json.loads(arguments.child[0])
        print(
            measure(
                Case(**{**given, "size": Size(**given["size"])}),
                Path(arguments.child[1]),
                as_run=arguments.child[2] == "as-run",
            )
        )
        return
    cases = QUICK if arguments.quick else [CASES[place] for place in arguments.only or range(len(CASES))]
    results = []
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for result in pool.map(partial(compare, as_run=arguments.as_run), cases):
            results.append(result)
            print(*show(result), sep=" | ", flush=True)
    if not arguments.quick and not arguments.only:
        rows.append(
            "prediction",
            as_run=arguments.as_run,
            cases=results,
            within=sum(abs(r["ratio"] - 1) <= TOLERANCE for r in results),
        )
    head = ["base", "method", "batch x tokens", "options", "predicted", "measured", "difference"]
    print(figures.table(head, map(show, results)))


if __name__ == "__main__":
    main()
