"""Kills at random moments: of training, saving, exporting, replacing a model, writing a report, encoding."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks import doomed
from benchmarks.drill import WAYS, Drill
from benchmarks.lengths import word

KILLS_PER_RUN = 4
EXPORTS = ("merged", "adapter")
SENTENCES = [f"{word(3)} {word(7)}", word(11), f"{word(2)} {word(30)} {word(4)} {word(9)}"]
REPORT_ROWS = 20_000
CORPUS_ROWS, SHARD_ROWS = 600, 20


def kill_training(drill: Drill) -> None:
    """Runs that are killed, resumed and killed again, half of them while a checkpoint or the model is written."""
    number, done, wanted = 0, drill.tally.kills, drill.counts["training"]
    while done["training"] < wanted:
        way, output = list(WAYS)[number % len(WAYS)], f"killed-{number}"
        number += 1
        kills, first, killed = 0, True, True
        while killed:
            kill = None
            if kills < KILLS_PER_RUN and done["training"] < wanted:
                kill = _moment(drill, drill.folder / output, drill.seconds[way])
            outcome = drill.run(partial(drill.train if first else drill.go_on, output, way), kill)
            killed = outcome.killed
            drill.tally.resumes += not (first or outcome.broke or outcome.refused)
            first = False
            if outcome.refused:
                drill.tally.problems.append(f"refused after a kill: {outcome.refused}")
            if killed:
                kills += 1
                done["training"] += 1
                drill.count_writing(drill.folder / output)
            drill.check_run(output, way, ended=not killed)
        shutil.rmtree(drill.folder / output, ignore_errors=True)


def _moment(drill: Drill, run: Path, seconds: float) -> Callable[[float], bool]:
    if drill.draw.random() < 0.5:
        return doomed.at(drill.draw.uniform(0, 1.1 * seconds))
    return doomed.while_writing(run, drill.draw, times=drill.draw.randint(1, 6), within=0.05)


def kill_saving(drill: Drill) -> None:
    """Stock `save_pretrained` into one fresh folder after another: what is cut off is not loaded as a model.

    Every second time with the base in it, as for exporting a model.
    """
    source = drill.folder / "whole-last" / "model"
    wanted = drill.run(partial(_embed, source)).value
    for number in range(drill.counts["saving"]):
        place = drill.folder / f"saves-{number}"
        kill = doomed.after_file(place / "0" / "modules.json", drill.draw.uniform(0, 0.4))
        work = partial(_save_again_and_again, source, place, self_contained=bool(number % 2))
        drill.tally.kills["saving"] += drill.run(work, kill).killed
        for saved in sorted(place.iterdir(), key=lambda path: int(path.name))[-2:]:
            loaded = doomed.run(partial(_embed, saved), scratch=drill.scratch)
            if loaded.value is not None and loaded.value != wanted:
                drill.tally.corrupted(f"{saved} loads as another model")
            elif loaded.refused:
                drill.tally.named_errors += 1
            elif loaded.value is None:
                drill.tally.problems.append(f"{saved}: {loaded.broke}")
            else:
                drill.tally.whole_files_checked += sum(path.is_file() for path in saved.rglob("*"))
        shutil.rmtree(place)


def _embed(folder: Path) -> list[list[float]]:
    from lacos_st.models import load_model

    model = load_model(str(folder), device="cpu")
    vectors: list[list[float]] = model.encode(SENTENCES, show_progress_bar=False).tolist()
    return vectors


def _save_again_and_again(source: Path, place: Path, *, self_contained: bool) -> None:
    from lacos_st.models import load_model
    from lacos_st.transformer import LoRA8bit

    model = load_model(str(source), device="cpu")
    assert isinstance(model[0], LoRA8bit)
    model[0].self_contained = self_contained
    place.mkdir()
    for number in range(10_000):
        model.save_pretrained(str(place / str(number)))


def kill_exporting(drill: Drill) -> None:
    """`lacos-st export --overwrite` into one folder, again and again: what stands there is a whole export."""
    place = drill.folder / "exports"
    place.mkdir()
    whole = {}
    for form in EXPORTS:
        assert drill.run(partial(_export, drill.folder, f"whole-{form}", form)).value == 0
        whole[form] = _contents(place / f"whole-{form}")
    for number in range(drill.counts["exporting"]):
        form = EXPORTS[number % len(EXPORTS)]
        kill = doomed.while_writing(place, drill.draw, times=1, within=drill.draw.choice((0.02, 0.5)))
        killed = drill.run(partial(_export_again_and_again, drill.folder, form), kill).killed
        drill.tally.kills["exporting"] += killed
        drill.count_writing(place)
        drill.tally.resumes += drill.run(partial(_export, drill.folder, "out", form)).value == 0
        found = _contents(place / "out")
        drill.tally.whole_files_checked += len(found)
        if found != whole[form] or any(path.name.startswith(".") for path in place.iterdir()):
            drill.tally.corrupted(f"{place / 'out'} is not the whole export ({form})")
    shutil.rmtree(place)


def _export(folder: Path, name: str, form: str) -> int:
    from lacos_st.cli import main

    model = str(folder / "whole-last" / "model")
    return main(["export", model, str(folder / "exports" / name), "--format", form, "--overwrite"])


def _export_again_and_again(folder: Path, form: str) -> None:
    for _ in range(10_000):
        _export(folder, "out", form)


def _contents(folder: Path) -> dict[str, bytes]:
    """Of all files; a card names no folder of the machine, so two exports are equal."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def kill_replacing(drill: Drill) -> None:
    """A run's model that is replaced, again and again: one stands there after the next start, whole."""
    from lacos_st.atomic import clear_leftovers

    source, place = drill.folder / "whole-last", drill.folder / "replaced"
    for _ in range(drill.counts["replacing"]):
        shutil.copytree(source, place)
        kill = doomed.while_writing(place, drill.draw, times=1, within=0.5)
        drill.tally.kills["replacing"] += drill.run(partial(_replace, source, place), kill).killed
        drill.count_writing(place)
        clear_leftovers(place, "model")  # as RunFolder.start does
        drill.tally.resumes += 1
        drill.check_run("replaced", "last", ended=True)
        shutil.rmtree(place)


def _replace(source: Path, place: Path) -> None:
    from lacos_st.models import load_model
    from lacos_st.runs import RunFolder
    from lacos_st.training import save_model

    model = load_model(str(source / "model"), device="cpu")
    for _ in range(10_000):
        save_model(model, RunFolder(place))


def kill_reporting(drill: Drill) -> None:
    """results.json, written again and again: it parses and is one of those that were written."""
    for number in range(drill.counts["reporting"]):
        place = drill.folder / f"report-{number}"
        kill = doomed.after_file(place / "results.json", drill.draw.uniform(0, 0.2))
        drill.tally.kills["reporting"] += drill.run(partial(_report, place), kill).killed
        content = json.loads((place / "results.json").read_text())
        drill.tally.whole_files_checked += 1
        if content["rows"] != [content["number"]] * REPORT_ROWS:
            drill.tally.corrupted(f"{place / 'results.json'} holds half of two")


def _report(place: Path) -> None:
    from lacos_st.atomic import write_text

    place.mkdir()
    for number in range(1_000_000):
        write_text(place / "results.json", json.dumps({"number": number, "rows": [number] * REPORT_ROWS}))


def kill_encoding(drill: Drill) -> None:
    """`lacos-st encode`, killed and resumed: every row once, in order, each shard bit-equal to the unbroken run's."""
    lines = [f"{word(i % 90)} {word(i % 7)}" for i in range(CORPUS_ROWS)]
    (drill.folder / "corpus.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    number, done, wanted = 0, drill.tally.kills, drill.counts["encoding"]
    whole, seconds = {}, {}
    for form in ("npy", "parquet"):
        start = time.monotonic()
        assert not drill.run(partial(_encode, drill.folder, f"encoded-{form}", form)).broke
        seconds[form] = time.monotonic() - start
        whole[form] = _files(drill.folder / f"encoded-{form}")
        lost = [
            line for line, found in zip(lines, _rows(drill.folder / f"encoded-{form}"), strict=True) if line != found
        ]
        assert not lost, lost
    while done["encoding"] < wanted:
        form = ("npy", "parquet")[number % 2]
        number += 1
        output = drill.folder / "encoding"
        killed, kills = True, 0
        while killed:
            kill = None
            if kills < KILLS_PER_RUN and done["encoding"] < wanted:
                kill = doomed.at(drill.draw.uniform(0, 1.0) * seconds[form])
                if drill.draw.random() < 0.5:
                    shards = len(list(output.glob("shard-*"))) + drill.draw.randint(1, 6)
                    kill = doomed.after_files(output, "shard-", shards, drill.draw.uniform(0, 0.02))
            resume = (output / "manifest.json").exists()
            killed = drill.run(partial(_encode, drill.folder, "encoding", form, resume=resume), kill).killed
            kills += killed
            done["encoding"] += killed
            drill.tally.resumes += resume and not killed
            drill.tally.kills_while_writing += any(output.glob(".partial-*"))
            for name, content in _files(output).items():  # whatever is there under its name is whole
                drill.tally.whole_files_checked += 1
                if content != whole[form][name]:
                    drill.tally.corrupted(f"{output / name} is not the unbroken run's")
        found = _rows(output)
        drill.tally.rows_lost += sum(line not in found for line in lines)
        drill.tally.compared_runs += 1
        if found != lines or set(_files(output)) != set(whole[form]):
            drill.tally.problems.append(
                f"the resumed encoding has {len(found)} rows for {len(lines)}, or in other order"
            )
        shutil.rmtree(output)


def _encode(folder: Path, output: str, form: str, *, resume: bool = False) -> None:
    from lacos_st.cli import main

    line = ["encode", str(folder / "whole-last" / "model"), str(folder / "corpus.txt"), str(folder / output)]
    line += ["--format", form, "--shard-rows", str(SHARD_ROWS), "--keep-text", "--quiet"]
    status = main([*line, "--resume"] if resume else line)
    assert status == 0, f"exit status {status}"


def _files(output: Path) -> dict[str, bytes]:
    """The shards in a folder."""
    return {path.name: path.read_bytes() for path in sorted(output.glob("shard-*"))}


def _rows(output: Path) -> list[str]:
    """The sentences of all shards, each with an embedding and its number in the corpus."""
    import numpy as np
    import pyarrow.parquet

    rows: list[dict[str, object]] = []
    for path in sorted(output.glob("shard-*")):
        if path.suffix == ".parquet":
            rows += pyarrow.parquet.read_table(path).to_pylist()
        elif path.suffix == ".npy":
            records = path.with_suffix(".ids.jsonl").read_text(encoding="utf-8").splitlines()
            rows += [json.loads(line) for line in records]
            assert len(np.load(path)) == len(records), path
    assert [row["row"] for row in rows] == list(range(len(rows))), "each once and in order"
    return [str(row["text"]) for row in rows]
