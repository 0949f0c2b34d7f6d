"""The paper's experiments: nothing is done twice, what was broken off goes on, and figures are what they say."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from resume_runs import Stop

from lacos_st.errors import UserError
from lacos_st.finite import NonFiniteLoss
from lacos_st.report import SIMILARITIES, ModelScores, TaskScores
from lacos_st.runs import RunFolder, read_log
from lacos_st.trainer import LacosTrainer

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # for benchmarks, which are not installed

from benchmarks import rows  # noqa: E402
from benchmarks.paper import cells, figure4, grid, names, study, table2, xsts  # noqa: E402
from benchmarks.paper import options as command_line  # noqa: E402

TRAIN = ("cpu=true", "lacos.block_size=64", "lacos.lr=1e-2", "max_seq_length=16")
MORE = {"grid": ("--batch-sizes", "8", "16", "--ranks", "4")}
ROWS = {"table1": 2, "table2": 3, "figure4": 2, "grid": 2, "xsts": 2}
Run = Callable[..., list[cells.Row]]
QuickRun = Callable[[str], tuple[list[cells.Row], Path]]


@pytest.fixture(scope="module")
def run(tiny_bloom_dir: str, tiny_bert_dir: str) -> Run:
    """Run a command on tiny bases and the grammar's text."""

    def one(name: str, output: Path, *more: str) -> list[cells.Row]:
        given_ = ["--quick", "--output", str(output), "--bases", tiny_bloom_dir, *MORE.get(name, ())]
        given_ += ["--baseline", tiny_bert_dir] if name in ("table1", "xsts") else []
        train = [option for option in TRAIN if name != "grid" or not option.startswith("lacos.lr")]
        return importlib.import_module(f"benchmarks.paper.{name}").run([*given_, *more, "--train", *train])

    return one


@pytest.fixture(scope="module")
def quick(run: Run, tmp_path_factory: pytest.TempPathFactory) -> QuickRun:
    """Rows and folder of a command's quick run, once for all tests; to be read only."""

    @cache
    def one(name: str) -> tuple[list[cells.Row], Path]:
        folder = tmp_path_factory.mktemp(name)
        return run(name, folder), folder

    return one


def comparable(found: list[cells.Row]) -> Any:
    """Rows without what differs from run to run."""
    names_ = ("cell", "diverged", "validation_loss", "train", "scores")
    kept = [{name: row[name] for name in names_ if name in row} for row in found]
    return json.loads(json.dumps(kept), object_hook=lambda d: {k: v for k, v in d.items() if k != "seconds"})


@pytest.mark.parametrize(
    "name",
    [
        "table2",
        "figure4",
        "grid",
        *(pytest.param(name, marks=[pytest.mark.slow, pytest.mark.thorough]) for name in ("table1", "xsts")),
    ],
)
def test_a_quick_run_leaves_rows_table_and_plot_and_is_not_done_again(
    name: str, run: Run, quick: QuickRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, folder = quick(name)
    assert len(found) == ROWS[name]
    assert (folder / f"paper_{name}.png").read_bytes().startswith(b"\x89PNG")
    text = (folder / f"paper_{name}.md").read_text(encoding="utf-8")
    assert text.startswith("## ")
    assert rows.read(f"paper_{name}", folder=folder) == found
    assert str(folder) not in json.dumps(found)
    assert all(row["validation_loss"] is not None for row in found if row["cell"]["method"] != "sbert")
    assert not list(folder.glob("runs/*/checkpoints"))
    for work in ("train", "build_model", "mean_loss"):
        monkeypatch.setattr(cells, work, lambda *_, **__: pytest.fail("done again"))
    (folder / f"paper_{name}.md").unlink()
    assert run(name, folder) == found
    assert (folder / f"paper_{name}.md").read_text(encoding="utf-8") == text


def test_a_run_that_was_broken_off_in_a_training_goes_on_there(
    run: Run, quick: QuickRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock = LacosTrainer.training_step
    steps = 0

    def step_or_stop(self: LacosTrainer, *args: Any, **kwargs: Any) -> torch.Tensor:
        nonlocal steps
        steps += 1
        if steps == 7:  # the second training of four steps, after its checkpoint
            raise Stop
        return stock(self, *args, **kwargs)

    monkeypatch.setattr(LacosTrainer, "training_step", step_or_stop)
    with monkeypatch.context() as broken:
        broken.setattr(RunFolder, "clear", lambda self, *, and_folder: None)  # a killed process clears nothing away
        with pytest.raises(Stop):
            run("figure4", tmp_path)
    assert len(rows.read("paper_figure4", folder=tmp_path)) == 1
    assert len(list(tmp_path.glob("runs/*/checkpoints/checkpoint-2"))) == 1
    steps = 10
    found = run("figure4", tmp_path)
    assert steps == 12  # two steps were left
    assert comparable(found) == comparable(quick("figure4")[0])


def test_the_validation_loss_is_that_of_batches_of_one_size(
    tiny_bloom_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "VALIDATION_BATCH", 5)
    seen: list[Any] = []
    real = cells.mean_loss

    def watched(model: Any, config: Any, pairs: Any, **how: Any) -> float:
        seen.append((model, pairs, how))
        return real(model, config, pairs, **how)

    monkeypatch.setattr(cells, "mean_loss", watched)
    given_ = ["--quick", "--output", str(tmp_path), "--bases", tiny_bloom_dir, "--train", *TRAIN]
    planned = command_line.study("table2", table2.options().parse_args(given_), table2.DEFAULTS)
    row = cells.done(planned, [cells.zero_shot(planned, tiny_bloom_dir)], scored=False)[0]
    model, pairs, how = seen[0]
    assert how == {"batch_size": 5}
    assert len({text for pair in pairs for text in pair}) == 2 * len(pairs) >= 16
    losses = []
    for start in range(0, len(pairs), 5):
        first, second = (
            torch.nn.functional.normalize(torch.tensor(model.encode(list(side))), dim=1)
            for side in zip(*pairs[start : start + 5], strict=True)
        )
        scores = 20 * first @ second.T
        losses.append(float((scores.logsumexp(1) - scores.diagonal()).mean()))
    assert row["validation_loss"] == pytest.approx(sum(losses) / len(losses), abs=1e-5)


def fake(base: str, loss: float | None, **settings: Any) -> cells.Row:
    cell = {"base": base, "base_files": names.fingerprint([base]), "data_files": "d", "settings": settings}
    return {"cell": cell, "validation_loss": loss, "diverged": loss is None, "train": None}


def test_the_grid_keeps_the_lowest_validation_loss() -> None:
    found = [fake("a", None), fake("a", 1.5), fake("a", 0.25), fake("a", 0.25), fake("a", 2.0)]
    assert grid.best(found) is found[2]
    for row in found:
        row["cell"]["settings"] = {"batch_size": 8, "lr": 1.0, "lora_rank": 1}
    lines = grid.table({"a": found}).splitlines()[4:9]
    assert ["**0.2500**" in line for line in lines] == [True, False, False, False, False]
    assert "diverged" in lines[-1]
    with pytest.raises(UserError, match="all 1 trainings of a diverged"):
        grid.best(found[:1])


def test_the_grid_keeps_one_model(quick: QuickRun) -> None:
    found, folder = quick("grid")
    best = min(found, key=lambda row: float(row["validation_loss"]))
    planned: Any = SimpleNamespace(output=folder)
    kept = [path.parent for path in folder.glob("runs/*/model")]
    assert kept == [cells.run_folder(planned, best["cell"]).path]


@pytest.mark.thorough
@pytest.mark.slow
def test_table1_takes_the_settings_of_the_best_of_the_grid(run: Run, tmp_path: Path) -> None:
    best = min(run("grid", tmp_path), key=lambda row: float(row["validation_loss"]))
    trained = run("table1", tmp_path, "--from-grid")[1]["cell"]["settings"]
    assert all(trained[name] == best["cell"]["settings"][name] for name in grid.CHOSEN)


def test_the_best_of_a_grid_is_of_the_data_of_its_newest_row(tmp_path: Path) -> None:
    planned: Any = SimpleNamespace(results=tmp_path)
    for loss, data, rank in ((0.1, "old", 1), (0.9, "new", 2), (0.8, "new", 4)):
        row = fake("x", loss, batch_size=32, lr=1e-3, lora_rank=rank)
        row["cell"]["data_files"] = data
        rows.append("paper_grid", folder=tmp_path, **row)
    assert grid.with_best(planned, "x")["lora_rank"] == 4
    with pytest.raises(UserError, match="has no row of y"):
        grid.with_best(planned, "y")


def test_a_training_that_diverges_has_a_row_that_says_so(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverging(config: Any) -> Any:
        raise NonFiniteLoss("step 1: NaN", checkpoint=None)

    monkeypatch.setattr(cells, "train", diverging)
    found = run("figure4", tmp_path)
    assert [(row["diverged"], row["validation_loss"], row["train"]) for row in found] == [(True, None, None)] * 2
    assert "diverged" in (tmp_path / "paper_figure4.md").read_text(encoding="utf-8")
    with pytest.raises(UserError, match="all 2 trainings"):
        run("grid", tmp_path)


@given(st.dictionaries(st.integers(1, 64), st.none() | st.floats(0, 100), min_size=1))
def test_normalised_losses_lie_between_0_and_1_in_the_same_order(losses: dict[int, float | None]) -> None:
    found = figure4.normalised(losses)
    assert list(found) == list(losses)
    assert [rank for rank in found if found[rank] is None] == [rank for rank in losses if losses[rank] is None]
    finite = {rank: share for rank, share in found.items() if share is not None}
    assert all(0 <= share <= 1 for share in finite.values())
    known = {rank: loss for rank, loss in losses.items() if loss is not None}
    if len(set(known.values())) > 1:
        assert {min(finite.values()), max(finite.values())} == {0.0, 1.0}
    for one in finite:
        for two in finite:
            assert not (known[one] < known[two] and finite[one] > finite[two])


def test_figure4_shows_losses_and_their_place_in_the_range() -> None:
    text = figure4.table({"a": {1: 2.0, 4: 1.0, 16: 1.75}, "b": {1: 7.0, 4: None, 16: 7.0}})
    assert "2.0000 (1.00)" in text
    assert "**1.0000 (0.00)**" in text
    assert "1.7500 (0.75)" in text
    assert "diverged" in text


def test_pairs_of_unseen_languages_have_a_mean_of_their_own() -> None:
    def model(name: str, *values: float) -> ModelScores:
        tasks = tuple(
            TaskScores(
                f"t.{pair}", "xsts", pair, 9, dict.fromkeys(SIMILARITIES, value), dict.fromkeys(SIMILARITIES, 0.0)
            )
            for pair, value in zip(("en-en", "ar-en", "tr-en", "de-fr"), values, strict=True)
        )
        return ModelScores(name, {}, tasks)

    text = xsts.table([model("s", 90, 10, 20, 30), model("l", 80, 16, 22, 34)], "s", figure="max", unseen=("de", "tr"))
    lines = [[cell.strip() for cell in line.split("|")] for line in text.splitlines() if "|" in line]
    cells_ = {line[1]: line[4:6] for line in lines}
    assert cells_["tr-en†"] == ["20.00", "22.00 (+2.00)"]
    assert cells_["en-en"] == ["90.00", "80.00 (-10.00)"]
    assert cells_["**xSTS-Avg**"] == ["20.00", "24.00 (+4.00)"]
    assert cells_["seen"] == ["10.00", "16.00 (+6.00)"]
    assert cells_["not seen †"] == ["25.00", "28.00 (+3.00)"]


def test_the_cost_of_full_fine_tuning_is_six_flop_a_weight_and_token(tiny_bloom_dir: str, tmp_path: Path) -> None:
    file = tmp_path / "pairs.tsv"
    file.write_text("".join(f"a man {i}\ta man plays a guitar {i}\n" for i in range(40)), encoding="utf-8")
    from lacos_st.settings import TrainConfig

    config = TrainConfig.from_mapping(
        {"base": tiny_bloom_dir, "method": "full", "data": str(file), "output": "x", "batch_size": 8, "eval_rows": 0}
    ).resolved()
    tokenizer = tiny.tokenizer()
    texts = [side for line in file.read_text().splitlines() for side in line.split("\t")]
    mean = sum(len(tokenizer(text).input_ids) for text in texts) / len(texts)
    size = sum(p.numel() for n, p in tiny.model().named_parameters() if n != "word_embeddings.weight")
    assert table2.cost(config, steps=3).flops == pytest.approx(6 * size * mean * 2 * 8 * 3)


def test_a_row_is_known_by_all_that_it_depends_on(tiny_bloom_dir: str, tmp_path: Path) -> None:
    data = tmp_path / "pairs.tsv"
    data.write_text("a man\tplays\n")

    def key(**changed: Any) -> dict[str, Any]:
        train = {"lr": 1e-3, **changed}
        planned = study.Study(
            "grid", (tiny_bloom_dir,), "b", (str(data),), (), None, (), train, {}, tmp_path, tmp_path, False
        )  # fmt: skip
        return cells.identity(planned, cells.Cell("c", planned.config(tiny_bloom_dir, "lacos")), scored=False)

    first = key()
    assert first == key() == key(cpu=True)  # what does not change a figure is no part of it
    assert first["settings"] == {"batch_size": 32, "lr": 1e-3, "lora_rank": 4, "seed": 42}
    assert first != key(lora_rank=8)
    assert first != key(max_steps=3)
    data.write_text("a man\twalks\n")
    names._one.cache_clear()
    assert first != key()


@pytest.mark.slow
def test_a_killed_process_goes_on_to_the_rows_of_one_that_was_not(tmp_path: Path) -> None:
    def start(output: Path) -> subprocess.Popen[str]:
        command = [
            sys.executable,
            "-m",
            "benchmarks.paper.figure4",
            "--quick",
            "--output",
            str(output),
            "--max-steps",
            "8",
        ]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    whole = start(tmp_path / "whole")
    assert "rows, table and plot" in whole.communicate(timeout=500)[0]
    broken = tmp_path / "broken"
    killed = start(broken)
    # in the second training, after its first checkpoint
    while not list(broken.glob("runs/bloom-nano-r-4-*/checkpoints/checkpoint-*/trainer_state.json")):
        assert killed.poll() is None
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert len(rows.read("paper_figure4", folder=broken)) == 1
    said = start(broken).communicate(timeout=500)[0]
    assert "[1/2] bloom-nano r=1: its row is there" in said
    one, two = (comparable(rows.read("paper_figure4", folder=folder)) for folder in (tmp_path / "whole", broken))
    assert one == two
    log = read_log(next(broken.glob("runs/*-r-4-*")) / "log.jsonl")
    steps = [(row["step"], *sorted({"loss", "eval_loss", "train_runtime"} & set(row))) for row in log]
    assert len(steps) == len(set(steps)) > 8
