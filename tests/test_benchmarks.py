"""The benchmarks take turns, compare like with like, and the figures they measure stay within what is promised."""

from __future__ import annotations

import json
import math
import random
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from marks import thorough

sys.path.insert(0, str(Path(__file__).parents[1]))  # for benchmarks, which are not installed

from benchmarks import (  # noqa: E402
    ceiling,
    contenders,
    encoding,
    figures,
    latency,
    lengths,
    memory,
    parity,
    readme,
    rows,
    synthetic,
    training,
    ways,
)
from benchmarks import format as format_benchmark  # noqa: E402
from benchmarks.contest import Contender, ContenderError, OtherWork, turns  # noqa: E402
from benchmarks.lengths import Length  # noqa: E402

TOLERANCE = 1e-5
CLOCK = "tests.fake_contender:Clock"


# Turns


def test_contenders_take_turns_in_processes_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "turns"
    with Contender("a", CLOCK, name="a", file=str(file)) as a, Contender("b", CLOCK, name="b", file=str(file)) as b:
        requests = [{"do": "repeat", "number": number} for number in range(3)]
        answers = turns({a: requests, b: requests})
    lines = [line.split() for line in file.read_text(encoding="utf-8").splitlines()]
    assert [line[:2] for line in lines] == [[name, str(number)] for number in range(3) for name in "ab"]
    times = [float(time) for line in lines for time in line[2:]]
    assert times == sorted(times)  # no turn began before the one before it had ended
    assert {name: [answer["number"] for answer in found] for name, found in answers.items()} == {
        "a": [0, 1, 2],
        "b": [0, 1, 2],
    }
    processes = [{answer["process"] for answer in found} for found in answers.values()]
    assert len(processes[0]) == len(processes[1]) == 1  # alive from its first turn to its last
    assert processes[0] != processes[1]


def test_every_contender_has_as_many_turns(tmp_path: Path) -> None:
    with Contender("a", CLOCK, name="a", file=str(tmp_path / "a")) as a:
        with Contender("b", CLOCK, name="b", file=str(tmp_path / "b")) as b:
            with pytest.raises(ValueError, match="shorter"):
                turns({a: [{"do": "repeat", "number": 0}], b: []})


def test_a_failing_contender_says_why(tmp_path: Path) -> None:
    with pytest.raises(ContenderError, match="x failed: TypeError.*unexpected keyword"):
        Contender("x", CLOCK, unknown=1)
    with Contender("x", CLOCK, name="x", file="") as contender:
        with pytest.raises(ContenderError, match="x failed: ValueError: nothing works"):
            contender.ask("fail")
    with Contender("x", CLOCK, name="x", file="") as contender:
        with pytest.raises(ContenderError, match="(?s)x ended with code 3: .*last words"):
            contender.ask("die")


@pytest.mark.skipif(not Path("/proc/stat").is_file(), reason="other programs' work is read from Linux's /proc")
def test_other_programs_work_is_noticed(tmp_path: Path) -> None:
    with Contender("a", CLOCK, name="a", file=str(tmp_path / "a")) as busy:
        start = time.monotonic()
        with OtherWork([busy]) as others, OtherWork([]) as with_contender:
            busy.ask("work", seconds=1.0)
        elapsed = time.monotonic() - start
    assert others.cores is not None
    assert with_contender.cores is not None
    assert (with_contender.cores - others.cores) * elapsed == pytest.approx(1.0, abs=0.3)


# Figures


def test_spread_and_ratios() -> None:
    assert figures.spread([3.0, 1.0, 2.0]) == {"median": 2.0, "min": 1.0, "max": 3.0}
    # turn by turn: a machine that is half as fast in one turn slows both
    assert figures.ratios([1.0, 2.0, 1.0], [4.0, 8.0, 4.0]) == {"median": 4.0, "min": 4.0, "max": 4.0}
    assert figures.show({"median": 2.0, "min": 1.0, "max": 3.0}, unit=" s", digits=1) == "2.0 s (1.0-3.0)"
    assert figures.table(["a"], [["b"]]) == "| a |\n| --- |\n| b |"


def test_compare() -> None:
    seconds = {"stock": [4.0, 4.0], "ours-8bit": [1.1, 1.1], "ours-float": [1.0, 1.0]}
    found = figures.compare(seconds, [100e9, 100e9], [125.0, 125.0])
    assert found["ours-float"]["useful_gflops"]["median"] == 100
    assert found["ours-float"]["share_of_ceiling"]["median"] == 0.8
    assert found["ours-float"]["times_as_fast_as_stock"]["median"] == 4
    assert found["ours-8bit"]["time_over_float"]["median"] == 1.1


def test_the_ceiling_counts_its_products(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = {"vocabulary": 8, "hidden": 16, "layers": 3, "heads": 1}
    clock = iter(range(4))
    monkeypatch.setattr("benchmarks.ceiling.time.perf_counter", lambda: float(next(clock)))  # a second for each form
    answer = ceiling.Ceiling(shape, training=True).repeat([3, 2])
    flops = 2 * 5 * (12 * 16**2) * 2 * 2  # of 5 tokens, in two of the layers, forward and backward
    assert answer["gflops"] == {"preallocated": flops / 1e9, "allocating": flops / 1e9}
    slower = {"gflops": {"preallocated": 1.0, "allocating": 2.0}}
    assert ceiling.fastest([slower, slower]) == ("allocating", [2.0, 2.0])


# Like with like

RIGHT = {"embeddings": [[1.0, 2.0], [3.0, 4.0]], "loss": 1.0, "gradients": [1.0, 1.0]}


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("embeddings", [[1.0, 2.0], [3.0, 4.001]]),
        ("loss", 1.001),
        ("loss", math.nan),
        ("gradients", [1.0, 1.01]),
    ],
)
def test_a_contender_that_computes_something_else_is_caught(key: str, wrong: Any) -> None:
    assert ways.check("ours-8bit", RIGHT, RIGHT) == dict.fromkeys(sorted(RIGHT), 0.0)
    with pytest.raises(ValueError, match=f"ours, 8-bit does not compute what dequantized does: its {key} differ"):
        ways.check("ours-8bit", {**RIGHT, key: wrong}, RIGHT)


def test_a_missing_figure_is_caught() -> None:
    with pytest.raises(ValueError, match="embeddings.*loss"):
        ways.check("ours-8bit", {"embeddings": RIGHT["embeddings"]}, RIGHT)


def test_adapters_of_all_wrappings_get_the_same_values(tmp_path: Path) -> None:
    shape = synthetic.Shape(vocabulary=512, hidden=64, layers=1, heads=2)
    synthetic.write(tmp_path, shape)
    stock, ours = (contenders.adapters(contenders.build(name, str(tmp_path))) for name in ("stock", "ours-float"))
    assert len(stock) == 6
    assert stock.keys() == ours.keys()
    assert all(torch.equal(stock[name], ours[name]) and stock[name].abs().min() > 0 for name in stock)


@pytest.mark.slow
def test_a_wrong_bias_is_caught_across_processes(tmp_path: Path) -> None:
    shape = synthetic.QUICK
    synthetic.write(tmp_path, shape)
    options = {"folder": str(tmp_path), "words": shape.words, "rank": 0}
    with ExitStack() as stack, pytest.raises(ValueError, match="ours, not quantised does not compute what stock does"):
        contenders.line_up(stack, "tests.fake_contender:Wrong", ["ours-float"], **options)


# Sentences


def test_recorded_lengths() -> None:
    pairs = lengths.read()
    counts = lengths.tokens(pairs)
    assert len(pairs) == 2000
    assert 15 <= sum(counts) / len(counts) <= 18
    assert 1 < training.padding([pairs[place] for place in training.typical_batch(pairs)]) < 4


def test_recorded_lengths_are_those_of_the_data(shared_data: Path) -> None:
    assert lengths.record() == json.loads(lengths.FILE.read_text(encoding="utf-8"))


def test_texts_have_the_lengths_asked_for() -> None:
    tokenizer = synthetic.tokenizer(synthetic.QUICK.words)
    pairs = lengths.read()[:50]
    for pair, texts in zip(pairs, lengths.texts(pairs, words=synthetic.QUICK.words), strict=True):
        for length, text in zip(pair, texts, strict=True):
            ids = tokenizer(text).input_ids
            assert len(ids) == length.tokens
            assert min(ids) >= len(synthetic.SPECIAL)
            assert len(text) == max(length.characters, 4 * length.tokens - 1)
    generator = random.Random(0)
    assert lengths.text(Length(2, 11), words=1, generator=generator) == "000 000    "


def test_padding_is_that_of_two_columns() -> None:
    pairs = [(Length(1, 1), Length(4, 1)), (Length(3, 1), Length(4, 1))]
    assert lengths.tokens(pairs) == [1, 3, 4, 4]
    assert training.padding(pairs) == (2 * 3 + 2 * 4) / 12


# README


def test_readme_tells_full_runs_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    shape = {"vocabulary": 1000, "hidden": 64, "layers": 2, "heads": 4}
    seconds = {"stock": [4.0], "ours-8bit": [1.1], "ours-float": [1.0]}
    contest = figures.compare(seconds, [100e9], [125.0])
    rows.append("training", quick=False, shape=shape, typical_batch=contest)
    rows.append("training", quick=True, shape=shape, typical_batch={})
    rows.append("encoding", quick=False, shape=shape, sentences=2000, batch_sizes={"32": {"ways": contest}})
    kept = {"step_bytes": 2**20, "of_stock": 0.25, "saved_bytes_over_hidden": 16.04}
    rows.append("memory", quick=False, shape=shape, ways={"stock": kept, "ours-8bit": kept})
    found = figures.spread([2.5])
    rows.append(
        "latency",
        quick=False,
        query_tokens=8,
        ways={"ours-dequantized": {"milliseconds": found, "time_over_float": found}},
    )
    text = readme.results()
    for line in (
        "| ours, 8-bit | 1.10 s (73 %) | 1.1 s (73 %) | - | 1 MiB |",
        "| training step, 64 pairs, against stock + peft, float32 | 3.64x (3.64-3.64) as fast |",
        "| the same, 8-bit against un-quantised | 1.10x (1.10-1.10) the time |",
        "| `encode` of 2000 sentences in batches of 32, against stock | 3.64x (3.64-3.64) as fast |",
        "| one query of 8 tokens, 8-bit after `dequantize_` against un-quantised | 2.50x (2.50-2.50) the time |",
        "| saved for backward per token and layer, bf16, bytes in units of h, against stock | 16.0h / 16.0h |",
    ):
        assert line in text.splitlines()


# Memory


def test_what_is_kept_for_the_backward_is_counted_once(tmp_path: Path) -> None:
    shape = synthetic.Shape(vocabulary=512, hidden=256, layers=1, heads=2)
    synthetic.write(tmp_path, shape)
    saved = memory.Saved("ours-8bit", folder=str(tmp_path), words=shape.words)
    tokens = memory.SAVED_SENTENCES * memory.SAVED_LENGTH.tokens
    least = 8 * shape.hidden * 2 * tokens  # the layer's input, q, k, v and the feed-forward's inner width, in bf16
    assert least <= saved.measure()["bytes"] <= 8 * least


# Quick mode of each, and what the format promises


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", [training, *thorough([encoding, latency, memory])])
def test_quick_mode(
    benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    row = benchmark.main(["--quick", "--ways", "stock", "ours-8bit", "ours-float"])
    assert json.loads(next(tmp_path.glob("*.jsonl")).read_text(encoding="utf-8")) == row
    assert row["quick"] is True
    assert row["checks"].keys() == {"stock", "ours-8bit", "ours-float"}
    assert "ours, 8-bit" in capsys.readouterr().out


@pytest.mark.slow
def test_error_of_the_format() -> None:
    errors = format_benchmark.errors()
    assert errors["dynamic/256"] <= 1.1
    assert errors["linear/256"] < errors["dynamic/256"]  # without outliers


@pytest.mark.slow
def test_codes_are_those_of_bitsandbytes() -> None:
    assert format_benchmark.bit_parity()


@pytest.mark.slow
def test_bytes_per_weight() -> None:
    assert max(format_benchmark.bytes_per_weight()) <= 1.02


@pytest.mark.slow
@pytest.mark.parametrize("case", thorough(parity.CASES[::3], but=parity.CASES[::12]), ids=str)
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft 0.21 asks for it
def test_parity(case: parity.Case) -> None:
    hidden, gradients = parity.encoder_differences(case)
    assert hidden <= TOLERANCE
    assert gradients <= TOLERANCE
    assert parity.batch_difference(case) <= TOLERANCE
    assert parity.lora_difference(case) <= TOLERANCE
