"""Damaged configs, headers, data files and command lines by the thousand: a good model, or a clear error.

    python -m benchmarks.fuzz [--cases 2400] [--seed 0]

Each case changes something at random and then loads, reads or runs it, in this process. What may come of it: the model
that was saved (embeddings equal bit by bit), rows that are all accounted for, exit status 0; or a UserError or
ValueError with a message. Anything else is a defect: another exception, another model, or more than a minute of CPU.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import resource
import shutil
import signal
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow.parquet
import torch

from benchmarks import lengths, rows, synthetic
from benchmarks.mutations import VALUES, mutate_arguments, mutate_bytes, mutate_header, mutate_json, vary_arguments
from lacos_st.recipe.runs_table import Run, append_run

SHAPE = synthetic.Shape(vocabulary=400, hidden=64, layers=2, heads=4)
SENTENCES = [" ".join(lengths.word(number) for number in words) for words in ((1, 5, 9, 5), (7,), (), range(20, 32))]
CPU_LIMIT_SECONDS = 60
WILD = 0.2
"""Share of the command lines that are changed at random; the others in one value, so that most of them do something."""

KINDS = ("config", "header", "data", "arguments")
SHARE = {"config": 0.4, "header": 0.2, "data": 0.25, "arguments": 0.15}


TRAIN = (
    *("train", "--base", "base", "--data", "pairs.tsv", "--output", "out", "--block-size", "64", "--cpu"),
    *("--batch-size", "8", "--no-progress", "--eval-rows", "2", "--max-seq-length", "16"),
)
LINES = (
    TRAIN,
    (*TRAIN, "--method", "lora", "--lr", "1e-3", "--warmup", "0", "--seed", "3", "--scale", "20"),
    (*TRAIN, "--eval-sts", "graded.tsv", "--best", "sts", "--log-steps", "1", "--epochs", "1"),
    ("train", "--config", "train.yaml", "--output", "out"),
    ("evaluate", "base", "whole", "--data", "sts", "--batch-size", "4", "--device", "cpu", "--output", "out"),
    ("encode", "whole", "pairs.tsv", "out", "--column", "anchor", "--device", "cpu", "--shard-rows", "7"),
    ("encode", "base", "nli.jsonl", "out", "--column", "premise", "--device", "cpu", "--batch-size", "3"),
    ("memory", "base", "--batch-size", "8", "--length", "20", "--block-size", "64", "--budget", "1GiB"),
    ("cost", "base", "--pairs", "1000", "--length", "20", "--batch-size", "8"),
    ("plan", "--flops", "1e17", "--length", "20", "--yaml", "run.yaml", "--data", "pairs.tsv"),
    ("fit", "runs.csv", "--forms", "ND", "--bootstrap", "2"),
)
"""What is changed: each runs as it is, but for the damaged ones of train.yaml and runs.csv."""


class Defect(AssertionError):
    """A case that ended neither well nor with a clear error."""


class Drill:
    """The originals and one method for each kind of case; each puts back what it damaged.

    Args:
        root: An empty folder to work in.
        base: A folder with a small BLOOM whose layers are 64 wide, and its tokenizer.
    """

    def __init__(self, root: Path, base: Path) -> None:
        from lacos_st import encoder

        self.root = root
        shutil.copytree(base, root / "base")  # which makes root
        for name, whole in (("whole", True), ("adapter", False)):
            torch.manual_seed(0)
            model = encoder(str(root / "base"), device="cpu", block_size=64, lora_rank=2, self_contained=whole)
            for parameter in model.parameters():
                if parameter.requires_grad:
                    torch.nn.init.normal_(parameter, 0.0, 0.05)
            model.save_pretrained(str(root / name))
        self.models = {name: self._embed(root / name) for name in ("whole", "adapter")}
        self.files = [
            path
            for name in ("whole", "adapter", "base")
            for path in sorted((root / name).rglob("*"))
            if path.suffix in (".json", ".safetensors")
        ]
        _write_data(root)

    @staticmethod
    def _embed(folder: Path, *, direct: bool = False) -> tuple[np.ndarray[Any, Any], Any]:
        from sentence_transformers import SentenceTransformer

        from lacos_st.models import load_model

        model = SentenceTransformer(str(folder), device="cpu") if direct else load_model(str(folder), device="cpu")
        settings = (model.prompts, model.default_prompt_name, str(model.similarity_fn_name), model.max_seq_length)
        return model.encode(SENTENCES), settings

    def config(self, rng: Random) -> str:
        """A JSON file of a model or of its base is changed; for some, the seal is made to fit again."""
        return self._model(rng, [path for path in self.files if path.suffix == ".json"], mutate_json)

    def header(self, rng: Random) -> str:
        """The same with a safetensors file."""
        return self._model(rng, [path for path in self.files if path.suffix == ".safetensors"], mutate_header)

    def _model(self, rng: Random, files: list[Path], mutate: Callable[[Random, bytes], bytes]) -> str:
        file = rng.choice(files)
        name = file.relative_to(self.root).parts[0]
        folder = self.root / ("adapter" if name == "base" else name)
        data, seal = file.read_bytes(), folder / "lacos_files.json"
        sealed = seal.read_bytes()
        new = data
        while new == data:
            new = (mutate if rng.random() < 0.8 else mutate_bytes)(rng, new)
        resealed = file not in (seal,) and name != "base" and rng.random() < 0.5
        # sentence-transformers reads these two before any module of ours is asked: its errors are its own
        direct = file.name not in ("modules.json", "config_sentence_transformers.json") and rng.random() < 0.5
        try:
            file.write_bytes(new)
            if resealed:
                _reseal(folder)
            embeddings, settings = self._embed(folder, direct=direct)
        except ValueError as error:
            return _refused(error)
        finally:
            file.write_bytes(data)
            seal.write_bytes(sealed)
        if resealed:
            return "loaded, resealed"
        expected, expected_settings = self.models[folder.name]
        if not np.array_equal(embeddings, expected) or settings != expected_settings:
            raise Defect(f"another model was loaded, {file.relative_to(self.root)} changed")
        return "the same model"

    def data(self, rng: Random) -> str:
        """A file of pairs, NLI rows or graded pairs is changed, and read with both answers to a malformed row."""
        from lacos_st.data import describe, load_pairs
        from lacos_st.sts import load_task_file

        original = rng.choice(sorted((self.root / "data").iterdir()))
        file = self.root / original.name
        data = original.read_bytes()
        for _ in range(rng.randint(1, 3)):
            data = mutate_bytes(rng, data)
        file.write_bytes(data)
        try:
            if original.stem == "graded":
                try:
                    task = load_task_file(file)
                except ValueError as error:
                    return _refused(error)
                if not all(np.isfinite(task.unit_scores)):
                    raise Defect("a score that is not finite was let through")
                return "read"
            try:
                skipped = load_pairs(str(file), on_bad_row="skip")
            except ValueError as error:
                return _refused(error)
            report = describe(skipped)
            assert report is not None
            try:
                strict = load_pairs(str(file))
            except ValueError as error:
                if not report.sources[0].bad and "no entailment row" not in str(error):
                    raise Defect("refused with error, and with skip nothing was said to be malformed") from error
                return _refused(error)
            if report.sources[0].bad or strict.to_dict() != skipped.to_dict():
                raise Defect("rows were left out in silence")
            return "read"
        finally:
            file.unlink()

    def arguments(self, rng: Random) -> str:
        """A command line is changed in one place, or at random, and run; what it writes is cleared away."""
        wild = rng.random() < WILD
        return self.run_line((mutate_arguments if wild else vary_arguments)(rng, list(rng.choice(LINES))), rng, wild)

    def run_line(self, line: list[str], rng: Random | None = None, wild: bool = False) -> str:
        """A command line is run; `rng` damages train.yaml and runs.csv, `wild` is one that may write anywhere."""
        from lacos_st.cli import main as lacos_st

        if line[:1] == ["demo"]:
            return "demo: left out"  # minutes
        if line[:1] == ["train"] and (wild or "--max-steps" not in line):
            line += ["--max-steps", "1"]
        work = self.root / "work"
        work.mkdir()
        for file in (self.root / "data").iterdir():
            shutil.copy(file, work)
        for name in ("train.yaml", "runs.csv"):
            text = (self.root / name).read_bytes()
            (work / name).write_bytes(mutate_bytes(rng, text) if rng and rng.random() < 0.7 else text)
        for name in ("sts", "sts2"):
            (work / name).mkdir()
            graded = (self.root / "data" / "graded.tsv").read_text("utf-8")
            (work / name / "graded.tsv").write_text(graded if name == "sts" else graded.replace(" ", " x "), "utf-8")
        for name in ("base", "whole", "adapter"):
            (work / name).symlink_to(self.root / name)
        before = _stand(self.root)
        error = io.StringIO()
        was = Path.cwd()
        os.chdir(work)
        try:
            with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
                status = lacos_st(line)
        except SystemExit as left:  # --help and --version
            status = int(left.code or 0)
        finally:
            os.chdir(was)
            made = None if wild else _made(work, line)
            shutil.rmtree(work)
        if _stand(self.root) != before:
            raise Defect(f"a file that was given was changed: {line}")
        said = [text for text in error.getvalue().splitlines() if text.startswith("lacos-st: error: ")]
        if status not in (0, 2) or (status == 2) != (len(said) == 1):
            raise Defect(f"status {status} with {len(said)} lines of error: {line}")
        if made is not None and made != (status == 0):
            raise Defect(f"status {status} {'with' if made else 'without'} what it was to make: {line}")
        return "refused" if status else f"{line[0] if line[0] in VALUES else 'help'}: ran"


def _made(work: Path, line: list[str]) -> bool | None:
    """Whether a model, or shards with every row once and in order, came of a command line; None of other commands."""
    place = work / (line[line.index("--output") + 1] if "--output" in line[:-1] else "out")
    if line[0] == "train":
        return (place / "model" / "modules.json").is_file()
    if line[0] != "encode":
        return None
    if not (place / "manifest.json").is_file():
        return False
    manifest = json.loads((place / "manifest.json").read_text("utf-8"))
    rows_there: list[int] = []
    for shard in sorted(place.glob("shard-*")):
        if shard.suffix == ".parquet":
            rows_there += pyarrow.parquet.read_table(shard, columns=["row"])["row"].to_pylist()
        elif shard.suffix == ".jsonl":
            rows_there += [json.loads(text)["row"] for text in shard.read_text("utf-8").splitlines()]
    return bool(manifest["complete"]) and rows_there == list(range(manifest["input"]["rows"]))


def _stand(root: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every original, by name."""
    files = [path for name in ("base", "whole", "adapter", "data") for path in sorted((root / name).rglob("*"))]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files if path.is_file()}


def _refused(error: ValueError) -> str:
    if len(str(error).split()) < 3:
        raise Defect(f"an error without a message: {error!r}") from error
    return "refused"


def _reseal(folder: Path) -> None:
    from lacos_st.seal import add_to_seal, write_seal

    write_seal(folder, module="lacos_st.transformer.BloomLoRA8bit")
    add_to_seal(folder / "1_Pooling", module="lacos_st.pooling.Pooling")


def _write_data(root: Path) -> None:
    folder = root / "data"
    folder.mkdir()
    pairs = [
        (f"{lengths.word(i)} {lengths.word(3 * i)}", f'{lengths.word(i + 7)} "{lengths.word(2 * i)}"')
        for i in range(20)
    ]
    (folder / "pairs.tsv").write_text("anchor\tpositive\n" + "".join(f"{a}\t{b}\n" for a, b in pairs), "utf-8")
    quoted = "".join('"{}","{}"\r\n'.format(a, b.replace('"', '""')) for a, b in pairs)
    (folder / "pairs.csv").write_text("anchor,positive\r\n" + quoted, "utf-8")
    labels = ("entailment", "neutral", "contradiction")
    nli = [{"label": labels[i % 3], "premise": a, "hypothesis": b} for i, (a, b) in enumerate(pairs)]
    (folder / "nli.jsonl").write_text("".join(json.dumps(row) + "\n" for row in nli), "utf-8")
    (folder / "graded.tsv").write_text("".join(f"{i % 6}\t{a}\t{b}\n" for i, (a, b) in enumerate(pairs)), "utf-8")
    places = [(size, budget) for size in (20_000, 160_000, 1_260_000, 10_000_000) for budget in (1e12, 2e13, 3e14)]
    for size, budget in places:
        tokens = budget / (6 * size)
        loss = 0.4 + 60 / size**0.35 + 400 / tokens**0.4
        counts = (size, size, size, size, tokens)
        append_run(
            root / "runs.csv", Run("toy", *counts, "full", "lr=0.001 share=1", budget, loss, None, None, 0, "abc1234")
        )
    (root / "train.yaml").write_text(
        "base: base\ndata: [pairs.tsv]\noutput: out\nblock_size: 64\ncpu: true\nbatch_size: 8\nprogress: false\n"
        "eval_rows: 2\nlr: 1e-3\nmax_steps: 1\nmax_seq_length: 16\n",
        "utf-8",
    )


@contextlib.contextmanager
def cpu_limit(seconds: int) -> Iterator[None]:
    """Defect after `seconds` of CPU; or after ten times as long on the clock, which a paused process may take."""

    def stop(*_: Any) -> None:
        raise Defect(f"a hang: more than {seconds} s of CPU, or {10 * seconds} s")

    was = [signal.signal(number, stop) for number in (signal.SIGPROF, signal.SIGALRM)]
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, 10 * seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in zip((signal.SIGPROF, signal.SIGALRM), was, strict=True):
            signal.signal(number, handler)


def run_case(drill: Drill, kind: str, seed: int) -> str:
    """One case; the same kind and seed are the same case.

    Returns:
        What came of it, in a few words.

    Raises:
        Defect: It ended neither well nor with a clear error.
    """
    rng = Random(f"{kind} {seed}")
    try:
        with cpu_limit(CPU_LIMIT_SECONDS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return str(getattr(drill, kind)(rng))
    except Defect:
        raise
    except Exception as error:
        raise Defect(f"{kind} {seed}: {type(error).__name__}: {error}"[:500]) from error


def main() -> None:
    """Run the cases, print the defects, append the row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=2400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    outcomes: dict[str, Counter[str]] = {kind: Counter() for kind in arguments.kinds}
    defects = []
    with tempfile.TemporaryDirectory() as name:
        synthetic.write(Path(name, "base"), SHAPE)
        drill = Drill(Path(name, "drill"), Path(name, "base"))
        for kind in arguments.kinds:
            for case in range(round(arguments.cases * SHARE[kind])):
                try:
                    outcomes[kind][run_case(drill, kind, arguments.seed + case)] += 1
                except Defect as defect:
                    defects.append(f"{kind} {arguments.seed + case}")
                    print(f"DEFECT {kind} {arguments.seed + case}: {defect}")
                    if defect.__cause__ is not None:
                        print("".join(traceback.format_exception(defect.__cause__)[-3:]))
    figures = {kind: dict(counted) for kind, counted in outcomes.items()}
    total = sum(sum(counted.values()) for counted in outcomes.values()) + len(defects)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"cases": total, "defects": defects, "outcomes": figures, "peak_bytes": peak}, indent=2))
    if set(arguments.kinds) == set(KINDS):
        rows.append(
            "fuzz", cases=total, seed=arguments.seed, defects=len(defects), outcomes=figures, peak_resident_bytes=peak
        )


if __name__ == "__main__":
    main()
