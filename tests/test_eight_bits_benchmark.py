"""What 8 bits cost: each way holds the weights that it says, rows are not measured twice, and the quick form runs."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from bitsandbytes import functional
from sentence_transformers import SentenceTransformer

sys.path.insert(0, str(Path(__file__).parents[1]))  # for benchmarks, which are not installed

from benchmarks import eight_bits, eight_bits_ways, rows  # noqa: E402
from benchmarks.eight_bits_report import differences, plot, table  # noqa: E402
from benchmarks.eight_bits_ways import WAYS, Source, Way, build, round_trip, source, store_, stored_bytes  # noqa: E402
from lacos_st.blockwise import CODES, code_table  # noqa: E402
from lacos_st.encoders import encoder  # noqa: E402
from lacos_st.errors import UserError  # noqa: E402
from lacos_st.linear import storable_layers  # noqa: E402
from lacos_st.quantizer import UNUSED  # noqa: E402
from lacos_st.stored import Stored8bit  # noqa: E402
from lacos_st.sts import StsTask, load_tasks  # noqa: E402

TEXTS = ["a man plays a guitar", "guitar", "the street is long and a man walks", "x"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sets of graded pairs."""
    folder = tmp_path_factory.mktemp("sts")
    lines = [f"{(7 * n) % 5}\ta man plays {n}\tthe street {n * n} is long\n" for n in range(90)]
    (folder / "one.tsv").write_text("".join(lines))
    (folder / "two.tsv").write_text("".join(lines[:9]))
    return folder


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("shape", [(3, 100), (1, 256), (7, 96), (1, 1)])
def test_blocks_across_rows_are_bitsandbytes(code: str, shape: tuple[int, int]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    codes, state = functional.quantize_blockwise(weight, code=code_table(code).clone(), blocksize=64)
    assert torch.equal(round_trip(weight, code=code, block_size=64), functional.dequantize_blockwise(codes, state))


def test_our_ways_hold_what_the_package_stores(tiny_bert_dir: str) -> None:
    """And the block is the largest that fits: 64 for a width of 64."""
    plain = Source("tiny", tiny_bert_dir)
    for way, code in (("dynamic-256", "dynamic"), ("linear-256", "linear"), ("float32", None)):
        model, facts = build(plain, way)
        stored = encoder(tiny_bert_dir, lora_rank=0, code=code, block_size=64, device="cpu")
        np.testing.assert_array_equal(model.encode(TEXTS), stored.encode(TEXTS))
        assert facts["block_size"] == (64 if code else None)
        assert sum(facts["tensors"].values()) == (13 if code else 0)
        assert stored_bytes(model) == stored_bytes(stored)


def test_auto_gives_each_tensor_the_code_that_loses_less() -> None:
    module = tiny.model("bert")
    outliers = module.encoder.layer[1].output.dense.weight
    outliers.data[:, ::64] *= 30
    assert store_(module, WAYS["auto-256"]) == {"dynamic": 1, "linear": 12}
    codes = {name: layer.code for name, layer in module.named_modules() if isinstance(layer, Stored8bit)}
    assert [name for name, code in codes.items() if code == "dynamic"] == ["encoder.layer.1.output.dense"]


def test_a_block_across_rows_changes_every_weight() -> None:
    module, before = tiny.model("bert"), tiny.model("bert")
    assert store_(module, Way("", "linear", 100, across=True)) == {"linear": 13}
    for (_, ours), (_, theirs) in zip(*(storable_layers(each, skip=UNUSED) for each in (module, before)), strict=True):
        assert torch.equal(ours.weight, round_trip(theirs.weight.detach(), code="linear", block_size=100))
        assert not torch.equal(ours.weight, theirs.weight)


def saved(base: str, folder: Path, **options: Any) -> SentenceTransformer:
    """A trained model: an adapter with random values on a base in 8 bits, saved by reference."""
    model = encoder(base, lora_rank=2, lora_targets="all-linear", block_size=64, device="cpu", **options)
    model.max_seq_length = 5
    model.prompts, model.default_prompt_name = {"asked": "a man "}, "asked"
    tiny.stir_(model)
    for parameter in model.parameters():
        parameter.data *= 4 if parameter.requires_grad else 1
    model[1].pooling_mode = "weightedmean"
    model.save_pretrained(str(folder))
    return model


def test_a_trained_model_keeps_its_adapter_whatever_its_base_is_stored_in(tiny_bert_dir: str, tmp_path: Path) -> None:
    model = saved(tiny_bert_dir, tmp_path / "run" / "model")
    (tmp_path / "run" / "train.yaml").touch()
    given = source(f"mine={tmp_path / 'run'}")
    assert (given.name, given.base, given.folder) == ("mine", tiny_bert_dir, tmp_path / "run" / "model")
    assert len(given.identity) == 12
    as_trained, _ = build(given, "dynamic-64")
    np.testing.assert_array_equal(as_trained.encode(TEXTS), model.encode(TEXTS))
    assert [build(given, way)[0].max_seq_length for way in ("float32", "stock-8bit")] == [model.max_seq_length] * 2
    assert [build(given, way)[0].default_prompt_name for way in ("float32", "stock-8bit")] == ["asked"] * 2
    exact, _ = build(given, "float32")
    off = np.linalg.norm(exact.encode(TEXTS) - model.encode(TEXTS)) / np.linalg.norm(model.encode(TEXTS))
    assert 1e-4 < off < 0.2
    stock, _ = build(given, "stock-8bit")
    apart = np.linalg.norm(stock.encode(TEXTS) - exact.encode(TEXTS)) / np.linalg.norm(exact.encode(TEXTS))
    plain = encoder(tiny_bert_dir, lora_rank=0, code=None, device="cpu")
    bare = np.linalg.norm(plain.encode(TEXTS) - exact.encode(TEXTS)) / np.linalg.norm(exact.encode(TEXTS))
    assert 1e-4 < apart < 0.05 < 0.2 < bare  # the adapter is on


def test_a_model_that_reads_twice_has_no_stock_way(tiny_bert_dir: str, tmp_path: Path) -> None:
    model = saved(tiny_bert_dir, tmp_path / "model", echo=True)
    given = source(str(tmp_path / "model"))
    np.testing.assert_array_equal(build(given, "dynamic-64")[0].encode(TEXTS), model.encode(TEXTS))
    with pytest.raises(UserError, match="stock modules read a text once"):
        build(given, "stock-nf4")


def test_what_is_no_model_is_refused(tmp_path: Path, tiny_bert_dir: str) -> None:
    assert source(tiny_bert_dir) == Source(Path(tiny_bert_dir).name, tiny_bert_dir)
    with pytest.raises(UserError, match="no such file or folder; known names: smollm2, gemma3"):
        source("x=nowhere")
    (tmp_path / "train.yaml").touch()
    with pytest.raises(UserError, match="has no model/ yet"):
        source(str(tmp_path))


def test_nothing_is_measured_twice_and_a_stock_way_may_fail(
    tiny_bert_dir: str, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_stock(*_: object) -> None:
        raise RuntimeError("no kernel\nhere")

    monkeypatch.setattr(eight_bits_ways, "_stock", no_stock)
    given, tasks = Source("tiny", tiny_bert_dir), load_tasks(data)
    ways = ["linear-256", "auto-256", "stock-nf4"]
    keep: Callable[..., dict[str, Any]] = lambda **figures: figures  # noqa: E731
    first = list(eight_bits.measure([given], ways, tasks[:1], append=keep))
    assert [row["way"] for row in first] == ["float32", "linear-256", "auto-256", "stock-nf4"]
    assert first[0]["embedding_drift"] == 0 < first[1]["embedding_drift"] < 0.1
    assert first[2]["same_as"] == "linear-256"
    assert (first[2]["max"], first[2]["tensors"]) == (first[1]["max"], {"dynamic": 0, "linear": 13})
    assert first[3]["failed"] == "RuntimeError: no kernel here"
    second = list(eight_bits.measure([given], ways, tasks, append=keep, done=first))
    assert [(row["way"], row["task"]) for row in second] == [
        *((way, "two") for way in ("float32", "linear-256", "auto-256")), ("stock-nf4", "one"), ("stock-nf4", "two")
    ]  # fmt: skip
    assert second[1]["embedding_drift"] > 0
    monkeypatch.setattr(eight_bits, "build", no_stock)
    with pytest.raises(RuntimeError, match="no kernel"):  # one of ours must run
        list(eight_bits.measure([given], ways, tasks, append=keep))


def test_a_row_is_of_its_base_and_its_pairs(tmp_path: Path, data: Path) -> None:
    """Other weights or pairs under the same names are measured."""
    keep: Callable[..., dict[str, Any]] = lambda **figures: figures  # noqa: E731
    one, other = (tiny.save(tmp_path / kind, kind) for kind in ("bert", "llama"))
    (task,) = load_tasks(data, names=["two"])
    fewer = replace(task, **{name: getattr(task, name)[1:] for name in ("sentences1", "sentences2", "scores")})

    def made(base: str, of: StsTask, done: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return list(eight_bits.measure([Source("mine", base)], ["float32"], [of], append=keep, done=done))

    (first,) = made(one, task, [])
    assert made(one, task, [first]) == []
    (again,) = made(other, task, [first])
    (less,) = made(one, fewer, [first])
    assert len({eight_bits.key_of(row) for row in (first, again, less)}) == 3


def test_rows_of_other_weights_or_pairs_are_not_compared() -> None:
    hashes = {"base_sha256": "new", "pairs_sha256": "p"}
    before = [row("float32", "a", 50.0), row("float32", "b", 60.0), row("dynamic-64", "a", 50.5)]
    found = [*before, row("float32", "a", 70.0, **hashes), row("dynamic-64", "a", 70.25, **hashes)]
    assert differences(found, "m")["dynamic-64"] == {"a": 0.25}
    assert "| float32 | 1.0 | 1.25 % | 70.00 | 70.00 |" in table(found)  # task b was of the other weights
    others = {**hashes, "pairs_sha256": "q"}
    found += [row("float32", "a", 40.0, **others), row("dynamic-64", "a", 41.0, **others)]
    assert differences(found, "m")["dynamic-64"] == {"a": 1.0}


def test_quick(
    tiny_bert_dir: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    arguments = ["--data", str(data), "--tasks", "one", "--models", f"tiny={tiny_bert_dir}", "--ways"]
    ways = ["float32", "dynamic-4096-across", "stock-8bit", "stock-nf4"]
    picture = str(tmp_path / "quick.png")
    monkeypatch.setattr(sys, "argv", ["eight_bits", "--quick", *arguments, *ways, "--plot", picture])
    eight_bits.main()
    said = capsys.readouterr().out
    assert "tiny: Spearman x100" in said
    for way in ways:
        assert f"| {WAYS[way].label}" in said
    assert "does not run" not in said
    assert [file.name for file in tmp_path.iterdir()] == ["quick.png"]
    monkeypatch.setattr(sys, "argv", ["eight_bits", *arguments, "dynamic-64"])
    monkeypatch.setattr(eight_bits, "PICTURE", tmp_path / "plot.png")
    eight_bits.main()
    lines = (tmp_path / "eight_bits.jsonl").read_text()
    assert lines.count("\n") == 2
    eight_bits.main()
    assert (tmp_path / "eight_bits.jsonl").read_text() == lines
    monkeypatch.setattr(sys, "argv", ["eight_bits", "--models", "x=nowhere", "--data", str(data)])
    with pytest.raises(SystemExit, match="error: model 'x=nowhere'"):
        eight_bits.main()


def row(way: str, task: str, score: float, **more: Any) -> dict[str, Any]:
    weights = {"model": "m", "identity": "", "base_sha256": "base", "pairs_sha256": "pairs"}
    facts = {**weights, "way": way, "task": task, "block_size": WAYS[way].block_size or None}
    figures = {"stored_bytes": 2**20, "embedding_drift": 0.0125, "tensors": {}, "max": score, "cosine": score - 1}
    return {**facts, **figures, **more}


def test_the_table_says_differences_blocks_and_failures() -> None:
    found = [row("float32", "a", 50.0), row("float32", "b", 60.0)]
    found += [row("dynamic-256", "a", 50.25, block_size=192), row("dynamic-256", "b", 59.5, block_size=192)]
    found += [row("auto-256", "a", 50.5, tensors={"dynamic": 1, "linear": 2})]
    failed = row("stock-nf4", "a", 0.0) | {"failed": "RuntimeError: no"}
    del failed["max"], failed["cosine"]
    said = table([*found, failed])
    assert "| float32 | 1.0 | 1.25 % | 55.00 | 50.00 | 60.00 |" in said
    assert (
        "| dynamic, block 256: 192 here, the largest that fits | 1.0 | 1.25 % | -0.125 | +0.25 (+0.25) | -0.50" in said
    )
    assert "block 256 (1 dynamic, 2 linear) | 1.0 | 1.25 % | - | +0.50 (+0.50) | - |" in said
    assert "| stock NF4 | - | - | does not run: RuntimeError: no |" in said
    assert differences(found, "m")["dynamic-256"] == {"a": 0.25, "b": -0.5}
    again = [*found, row("dynamic-256", "a", 70.0, identity="new"), row("float32", "a", 69.0, identity="new")]
    assert differences(again, "m")["dynamic-256"] == {"a": 1.0}
    assert table([]) == "no rows yet"


def test_the_plot(tmp_path: Path) -> None:
    found = [row("float32", "a", 50.0), row("dynamic-64", "a", 50.1), row("stock-nf4", "a", 45.0)]
    plot([*found, row("float32", "a", 1.0, model="other")], tmp_path / "plot.svg")
    texts = set(re.findall(r"<!-- (.*?) -->", (tmp_path / "plot.svg").read_text()))
    assert {"m, 1 task", "dynamic-64", "stock-nf4", "\N{MINUS SIGN}5", "\N{MINUS SIGN}0.1", "0"} <= texts
    assert not [text for text in texts if "other" in text]  # nothing to compare: no empty panel
    assert not [text for text in texts if "mathdefault" in text]  # no powers of ten
    plot(found[:1], tmp_path / "none.svg")
    assert (tmp_path / "none.svg").exists()
