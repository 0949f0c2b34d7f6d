"""`lacos-st export`: what another library loads embeds as the trained model does, or nothing is written."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from peft import PeftModel
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules.normalize import Normalize
from test_cli import refused
from transformers import AutoModel, AutoTokenizer

import lacos_st
from lacos_st.cli import main
from lacos_st.encoders import encoder
from lacos_st.errors import UserError
from lacos_st.export import facts, fidelity, onnx, run
from lacos_st.export.folding import Slot
from lacos_st.export.low_rank import LowRank
from lacos_st.export.merged import write_merged
from lacos_st.export.options import ExportOptions
from lacos_st.export.run import export_model
from lacos_st.export.saved import SavedModel
from lacos_st.export.shards import write_shards

SENTENCES = [text for text in tiny.SENTENCES if text]
Export = Callable[..., run.ExportReport]


def save(folder: Path, architecture: str = "bloom", **options: Any) -> str:
    """A model with a stirred adapter, a prompt and a Normalize behind its pooling."""
    given = {"block_size": 64, "lora_alpha": 6.0, "lora_targets": "recipe", **options}
    model = encoder(tiny.save(folder / "base", architecture), device="cpu", **given)
    tiny.stir_(model)
    model.append(Normalize())
    model.prompts = {"query": "the "}
    model.save_pretrained(str(folder / "saved"))
    return str(folder / "saved")


@pytest.fixture(scope="module", params=["bloom", "llama"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return save(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def bloom(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save(tmp_path_factory.mktemp("bloom"))


def embed(model: str, **options: Any) -> np.ndarray:
    vectors: np.ndarray = SentenceTransformer(model, device="cpu", **options).encode(SENTENCES)
    return vectors


def kinds(folder: Path) -> list[str]:
    return [entry["type"] for entry in json.loads((folder / "modules.json").read_text())]


def test_merged_weights_are_those_of_peft_on_the_dequantised_base(saved: str, tmp_path: Path) -> None:
    """The slow way: the whole model in memory, de-quantised, and stock peft's merge."""
    done = export_model(ExportOptions(saved, str(tmp_path / "out"), dtype="float32"))
    assert done.fidelity.float32 == pytest.approx(1.0, abs=1e-6)
    model: Any = SentenceTransformer(saved, device="cpu")[0].model
    lacos_st.dequantize_(model)
    for layer in model.modules():
        if hasattr(layer, "merge") and hasattr(layer, "lora_A"):
            layer.merge()
    expected = {n.replace(".base_layer.", "."): t for n, t in model.state_dict().items() if ".lora_" not in n}
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor.float(), rtol=0, atol=1e-6)
    np.testing.assert_allclose(embed(str(tmp_path / "out")), embed(saved), atol=1e-5)


def test_merged_loads_without_this_package_and_without_a_flag(bloom: str, tmp_path: Path) -> None:
    assert main(["export", bloom, str(tmp_path / "out")]) == 0
    assert all(kind.startswith("sentence_transformers.") for kind in kinds(tmp_path / "out"))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["BloomModel"]
    assert config["dtype"] == "float16"
    assert not {"quantization_config", "alibi"} & config.keys()
    code = (
        "import sys, torch, numpy as np; from sentence_transformers import SentenceTransformer\n"
        "options = {'device': 'cpu', 'model_kwargs': {'dtype': torch.float32}}\n"
        f"model = SentenceTransformer({str(tmp_path / 'out')!r}, **options)\n"
        f"np.save({str(tmp_path / 'v.npy')!r}, model.encode({SENTENCES!r}, prompt_name='query'))\n"
        "assert not [name for name in sys.modules if name.startswith('lacos_st')], 'imported'\n"
        "assert [type(part).__name__ for part in model] == ['Transformer', 'Pooling', 'Normalize']\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=tmp_path)
    ours = SentenceTransformer(bloom, device="cpu").encode(SENTENCES, prompt_name="query")
    found = np.load(tmp_path / "v.npy")
    np.testing.assert_allclose(found, ours, atol=5e-4)  # float16 keeps 11 bits
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-5)


def test_original_weights_are_further_from_the_trained_model(saved: str, tmp_path: Path) -> None:
    far = export_model(ExportOptions(saved, str(tmp_path / "far"), dtype="float32", weights="original")).fidelity
    near = export_model(ExportOptions(saved, str(tmp_path / "near"), dtype="bfloat16")).fidelity
    assert far.float32 < 1 - 1e-6 < 1
    assert near.float32 > far.float32
    base = load_file(Path(saved).parent / "base" / "model.safetensors")
    found = load_file(tmp_path / "far" / "model.safetensors")
    norms = [name for name in found if "norm" in name]
    assert norms
    for name in norms:  # no adapter on them: as they are
        assert torch.equal(found[name], base[name])


def test_dtype_is_the_base_s_own_where_it_has_16_bits(tmp_path: Path) -> None:
    tiny.model().to(torch.bfloat16).save_pretrained(tmp_path / "base")
    tiny.tokenizer().save_pretrained(tmp_path / "base")
    model = encoder(str(tmp_path / "base"), block_size=64)
    tiny.stir_(model)
    model.save_pretrained(str(tmp_path / "saved"))
    done = export_model(ExportOptions(str(tmp_path / "saved"), str(tmp_path / "out")))
    assert done.dtype == "bfloat16"
    assert load_file(tmp_path / "out" / "model.safetensors")["ln_f.weight"].dtype == torch.bfloat16


@pytest.mark.parametrize("shard_bytes", [1, 30_000, 10**9])
def test_shards_hold_what_one_file_holds(bloom: str, tmp_path: Path, shard_bytes: int) -> None:
    model = SavedModel.read(bloom)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    write_merged(model, whole, dtype=torch.float16, trained=True)
    write_merged(model, parts, dtype=torch.float16, trained=True, shard_bytes=shard_bytes)
    files = sorted(parts.glob("*.safetensors"))
    one = load_file(whole / "model.safetensors")
    assert len(files) == (len(one) if shard_bytes == 1 else 1 if shard_bytes == 10**9 else len(files))
    assert (parts / "model.safetensors.index.json").exists() == (len(files) > 1)
    read = [load_file(file) for file in files]
    assert sum(map(len, read)) == len(one)
    for part in read:
        for name, tensor in part.items():
            assert torch.equal(tensor, one[name])
    loaded = AutoModel.from_pretrained(parts).state_dict()
    assert all(torch.equal(loaded[name], one[name]) for name in one)


def test_integers_stay_as_they_are(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(3), "b": torch.tensor(1.5), "c": torch.zeros(0, 4), "d": torch.ones(2, 2) > 0}
    slots = [Slot(name, tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()]
    coming = ((slot, iter([tensors[slot.name]])) for slot in slots)
    assert write_shards(tmp_path, slots, coming, dtype=torch.float16) == 24 + 2 + 4
    found = load_file(tmp_path / "model.safetensors")
    assert {name: (found[name].dtype, found[name].tolist()) for name in found} == {
        "a": (torch.int64, [0, 1, 2]), "b": (torch.float16, 1.5), "c": (torch.float16, []),
        "d": (torch.bool, [[True, True], [True, True]]),
    }  # fmt: skip


def test_a_model_without_an_adapter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = encoder(tiny.save(tmp_path / "base", "gpt_neox"), lora_rank=0, code=None)
    model.save_pretrained(str(tmp_path / "saved"))
    done = export_model(ExportOptions(str(tmp_path / "saved"), str(tmp_path / "out"), dtype="float32"))
    assert done.fidelity.float32 == pytest.approx(1.0, abs=1e-6)
    line = ["export", str(tmp_path / "saved"), str(tmp_path / "no"), "--format", "adapter"]
    refused(capsys, main(line), "no adapter", "--format merged")


def test_a_model_that_holds_its_base(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save(tmp_path, "bert", self_contained=True)
    shutil.rmtree(tmp_path / "base")
    assert main(["export", folder, str(tmp_path / "out"), "--dtype", "float32"]) == 0
    np.testing.assert_allclose(embed(str(tmp_path / "out")), embed(folder), atol=1e-5)
    line = ["export", folder, str(tmp_path / "no"), "--weights", "original"]
    refused(capsys, main(line), "no original weights", "--base")
    refused(capsys, main([*line, "--base", "elsewhere"]), "leave out --base")
    assert not (tmp_path / "no").exists()


# Stock peft


@pytest.mark.parametrize("code", [None, "dynamic"])
def test_adapter_loads_in_stock_peft(tmp_path: Path, code: str | None) -> None:
    folder, out = save(tmp_path, code=code), tmp_path / "out"
    ours = embed(folder)
    done = export_model(ExportOptions(folder, str(out), format="adapter"))
    assert done.weights == "original"
    assert (out / "adapter_config.json").is_file()
    assert not list(out.rglob("model.safetensors"))
    assert (done.fidelity.float32 > 1 - 1e-6) == (code is None)  # the same floats, or floats for 8 bits
    model = PeftModel.from_pretrained(AutoModel.from_pretrained(tmp_path / "base"), out).eval()
    tokens = AutoTokenizer.from_pretrained(out)(SENTENCES, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**{name: tokens[name] for name in ("input_ids", "attention_mask")}).last_hidden_state
    mask = tokens["attention_mask"][..., None]
    pooled = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1))
    np.testing.assert_allclose(pooled, ours, atol=1e-5 if code is None else 3e-2)
    np.testing.assert_allclose(embed(str(out)), pooled, atol=1e-5)  # sentence-transformers loads it by its config


def test_adapter_with_the_base_that_it_was_trained_on(bloom: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ExportOptions(bloom, str(out), format="adapter", weights="trained", dtype="float32")
    assert export_model(options).fidelity.float32 == pytest.approx(1.0, abs=1e-6)
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == str(out / "base")
    np.testing.assert_allclose(embed(str(out)), embed(bloom), atol=1e-5)


def test_adapter_on_a_base_that_stock_libraries_cannot_read(tmp_path: Path) -> None:
    model = encoder("bloom-nano", lora_rank=2)
    tiny.stir_(model)
    model.save_pretrained(str(tmp_path / "saved"))
    options = ExportOptions(str(tmp_path / "saved"), str(tmp_path / "out"), format="adapter")
    done = export_model(options)
    assert (done.weights, done.dtype) == ("trained", "float16")
    assert (tmp_path / "out" / "base" / "config.json").is_file()
    with pytest.raises(UserError, match="lacos_st alone"):
        export_model(ExportOptions(str(tmp_path / "saved"), str(tmp_path / "no"), format="adapter", weights="original"))
    assert not (tmp_path / "no").exists()


# What is refused


def test_another_base_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path)
    tiny.model(seed=7).save_pretrained(tmp_path / "base")
    with pytest.raises(UserError, match="is not the one this model was saved with"):
        export_model(ExportOptions(folder, str(tmp_path / "out")))
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(UserError, match="put it back"):
        export_model(ExportOptions(folder, str(tmp_path / "out")))
    moved = tiny.save(tmp_path / "elsewhere")
    export_model(ExportOptions(folder, str(tmp_path / "out"), base=moved))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "out", "saved"]


def test_a_model_that_embeds_otherwise_is_not_written(
    bloom: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LowRank, "add_", lambda *args, **options: None)
    with pytest.raises(UserError, match=r"does not embed as the trained one.*nothing was written"):
        export_model(ExportOptions(bloom, str(tmp_path / "out")))
    assert not list(tmp_path.iterdir())


def test_a_changed_adapter_is_refused(tmp_path: Path) -> None:
    folder = Path(save(tmp_path))
    file = folder / "adapter" / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 64
    file.write_bytes(content)
    with pytest.raises(UserError, match="not the one that was saved"):
        export_model(ExportOptions(str(folder), str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_a_value_beyond_float16(tmp_path: Path) -> None:
    base = tiny.model()
    base.ln_f.weight.data[0] = 1e6
    base.save_pretrained(tmp_path / "base")
    tiny.tokenizer().save_pretrained(tmp_path / "base")
    encoder(str(tmp_path / "base"), block_size=64).save_pretrained(str(tmp_path / "saved"))
    with pytest.raises(UserError, match=r"ln_f.weight.*float16 cannot hold.*--dtype bfloat16"):
        export_model(ExportOptions(str(tmp_path / "saved"), str(tmp_path / "out")))
    assert export_model(ExportOptions(str(tmp_path / "saved"), str(tmp_path / "out"), dtype="bfloat16")).bytes


def test_a_train_yaml_of_somebody_else_is_left_alone(bloom: str, tmp_path: Path) -> None:
    shutil.copytree(bloom, tmp_path / "my-encoder")
    shutil.copytree(bloom, tmp_path / "model")
    (tmp_path / "train.yaml").write_text("base: bloom-nano\ndata: pairs.tsv\noutput: run\n")
    assert facts.read_facts(SavedModel.read(str(tmp_path / "my-encoder"))).config is None
    assert facts.read_facts(SavedModel.read(str(tmp_path / "model"))).config is not None
    for content in ("trainer:\n  epochs: 3\n", "a: [", "- 1"):
        (tmp_path / "train.yaml").write_text(content)
        assert facts.read_facts(SavedModel.read(str(tmp_path / "model"))).config is None


def test_an_adapter_of_another_shape() -> None:
    low_rank = LowRank({"h": torch.zeros(2, 8)}, {"h": torch.zeros(4, 2)}, frozenset(), 1.0)
    low_rank.check({"h.weight": (4, 8)})
    with pytest.raises(UserError, match="do not belong together"):
        low_rank.check({"h.weight": (8, 4)})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model": "no-such"}, "no such folder"),
        ({"model": "base"}, "no lacos.json"),
        ({"output": "saved"}, "the model's own folder"),
        ({"output": "saved/in"}, "the model's own folder"),
        ({"output": "."}, "the model's own folder"),
        ({"output": "file"}, "is a file"),
        ({"output": "full"}, "--overwrite"),
        ({"--format": "gguf"}, "convert_hf_to_gguf.py"),
        ({"--format": "tflite"}, "expected one of merged"),
        ({"--format": "onnx", "--dtype": "float16"}, "leave --dtype out"),
        ({"--dtype": "int8"}, "expected one of float16"),
        ({"--results": "none.json"}, "none.json is no results.json"),
        ({"--base": "nowhere"}, "'nowhere'"),
    ],
)
def test_what_cannot_be_exported(
    bloom: str,
    tmp_path: Path,
    options: dict[str, str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(bloom, "saved")
    tiny.save(Path("base"))
    Path("file").touch()
    Path("full").mkdir()
    Path("full/thesis.txt").touch()
    before = sorted(Path().rglob("*"))
    line = ["export", options.pop("model", "saved"), options.pop("output", "out")]
    refused(capsys, main([*line, *(part for pair in options.items() for part in pair)]), said)
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize("output", ["base", "base/in", "."])
@pytest.mark.parametrize("format", ["adapter", "merged"])
def test_the_base_of_a_model_is_not_overwritten(
    tmp_path: Path, output: str, format: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "models"
    save(folder)
    shutil.move(folder / "saved", tmp_path / "saved")
    monkeypatch.chdir(folder)
    before = sorted(tmp_path.rglob("*"))
    line = ["export", str(tmp_path / "saved"), output, "--format", format, "--overwrite"]
    refused(capsys, main(line), f"output {output} is the model's base, around or in it: choose another one")
    assert sorted(tmp_path.rglob("*")) == before


def test_overwriting_replaces_all_of_a_folder(bloom: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    (tmp_path / ".out.new").mkdir()  # of an export that was killed
    assert main(["export", bloom, str(tmp_path / "out"), "--overwrite"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not (tmp_path / "out" / "old").exists()


def test_a_module_of_somebody_else(tmp_path: Path) -> None:
    folder = Path(save(tmp_path))
    entries = json.loads((folder / "modules.json").read_text())
    entries.append({"idx": 3, "name": "3", "path": "3_Mine", "type": "mine.Dense"})
    (folder / "modules.json").write_text(json.dumps(entries))
    with pytest.raises(UserError, match=r"mine.Dense.*take it out"):
        SavedModel.read(str(folder))


def test_fidelity_refuses_nan_and_another_width() -> None:
    same = torch.eye(3)
    assert fidelity.least_cosine(same, same) == 1.0
    assert fidelity.least_cosine(torch.zeros(3, 3), torch.zeros(3, 3)) == 1.0
    for found in (same * torch.nan, torch.eye(4)):
        with pytest.raises(UserError, match="nothing was written"):
            fidelity.Fidelity(fidelity.least_cosine(found, same)).check(0.9)
    with pytest.raises(UserError, match="--dtype bfloat16"):
        fidelity.Fidelity(1.0, float("nan"), "float16").check(0.9)


def test_folding_reads_a_table_that_is_not_quantised(tmp_path: Path) -> None:
    """Layers that are skipped go through in slabs, adapter and all."""
    folder = save(tmp_path, skip=["word_embeddings", "mlp.dense_4h_to_h"])
    assert export_model(ExportOptions(folder, str(tmp_path / "out"), dtype="float32")).fidelity.float32 > 1 - 1e-6


def test_slabs_make_no_difference(bloom: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_merged(SavedModel.read(bloom), tmp_path, dtype=torch.float32, trained=True)
    whole = load_file(tmp_path / "model.safetensors")
    monkeypatch.setattr("lacos_st.export.folding.SLAB_VALUES", 300)
    monkeypatch.setattr("lacos_st.checkpoint.HASHED_VALUES", 77)  # the base's hash is still the one that was saved
    (tmp_path / "again").mkdir()
    write_merged(SavedModel.read(bloom), tmp_path / "again", dtype=torch.float32, trained=True)
    parts = load_file(tmp_path / "again" / "model.safetensors")
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=0, atol=1e-6)


# ONNX


def test_onnx_needs_its_extra(
    bloom: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(onnx, "find_spec", lambda name: None)
    refused(capsys, main(["export", bloom, str(tmp_path / "out"), "--format", "onnx"]), "pip install 'lacos_st[onnx]'")


@pytest.mark.slow
def test_onnx_runs_in_onnxruntime(saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    out = tmp_path / "out"
    done = export_model(ExportOptions(saved, str(out), format="onnx"))
    assert done.onnx_cosine is not None
    assert done.onnx_cosine > 0.999999
    assert not list(out.rglob("*.safetensors"))
    session = onnxruntime.InferenceSession(str(out / "onnx" / "model.onnx"), providers=["CPUExecutionProvider"])
    tokenizer = AutoTokenizer.from_pretrained(out)
    for texts in (SENTENCES, SENTENCES[:1]):  # other shapes than the probes'
        tokens = tokenizer(texts, padding=True, return_tensors="np")
        (hidden,) = session.run(None, {name: tokens[name] for name in onnx.INPUTS})
        mask = tokens["attention_mask"][..., None]
        pooled = (hidden * mask).sum(1) / mask.sum(1)
        pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
        np.testing.assert_allclose(pooled, embed(saved)[: len(texts)], atol=1e-5)


# The card


def test_the_card_says_how_the_model_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny.save(Path("base"))
    Path("data").mkdir()
    rows = "".join(f"a man walks {i}\ta man {i}\n" for i in range(24))
    Path("data/pairs.tsv").write_text(rows, encoding="utf-8")
    Path("data/LICENSE").write_text("\nCC0 1.0 Universal\n")
    line = ["train", "--base", "base", "--data", "data/pairs.tsv", "--output", "run", "--block-size", "64"]
    line += ["--prompt", "a guitar: "]
    assert main([*line, "--batch-size", "8", "--cpu", "--no-progress", "--eval-rows", "2", "--lr", "1e-3"]) == 0
    task = {"task": "STS12", "languages": "en-en", "pairs": 3108, "spearman": {"cosine": 38.5}, "max": 39.25}
    average = {"STS-Avg": {"max": 39.25, "cosine": 38.5, "tasks": ["STS12"]}, "xSTS-Avg": {"max": None}}
    entry = {"name": "run/model", "tasks": [task], "averages": average}
    Path("results.json").write_text(json.dumps({"models": [entry, {**entry, "name": "other"}]}))
    assert main(["export", "run/model", "out", "--results", "results.json", "--license", "apache-2.0"]) == 0
    card = Path("out/README.md").read_text()
    for part in (
        "license: apache-2.0", "Base: base; licence: not known here", "Method: lacos, base in 8-bit blocks of 64",
        "LoRA of rank 4 and alpha 4 on paper", "| pairs.tsv |", "CC0 1.0 Universal", "Trained on 22 rows", "3 steps",
        "| STS12 ", "38.50", "39.25", "| **STS-Avg** (1 tasks) |", "1.000000 in float32", "FLOP",
    ):  # fmt: skip
        assert part in card, part
    assert str(tmp_path) not in card
    assert "xSTS-Avg" not in card
    found = facts.read_facts(SavedModel.read("run/model"))
    assert found.sources == (facts.Source("pairs.tsv", 24, "CC0 1.0 Universal"),)
    tokenizer = tiny.tokenizer()
    sides = [f"a guitar: {text}" for line in rows.splitlines() for text in line.split("\t")]
    mean = sum(len(tokenizer(text).input_ids) for text in sides) / len(sides)
    assert found.tokens == pytest.approx(2 * mean * 8 * 3)
    assert found.flops is not None
    shape = tiny.model().config
    matrices = 12 * shape.n_layer * shape.hidden_size**2
    assert found.flops == pytest.approx(
        4 * matrices * found.tokens, rel=0.15
    )  # forward and backward, a little for the rest


@pytest.mark.slow
def test_memory_of_a_merge_does_not_grow_with_the_model(tmp_path: Path) -> None:
    """342 MB of weights in 16 bits, of which the table's codes (20 MB) and a few slabs are in memory at a time."""
    sys.path.insert(0, str(Path(__file__).parents[1]))  # for benchmarks, which are not installed
    from benchmarks.loading import PeakMemory, Shape, write_checkpoint

    (tmp_path / "base").mkdir()
    sizes = write_checkpoint(tmp_path / "base", Shape(vocabulary=20_000, hidden=1024, layers=12, heads=16))
    tiny.tokenizer().save_pretrained(tmp_path / "base")
    model = encoder(str(tmp_path / "base"), lora_rank=2)
    tiny.stir_(model)
    model.save_pretrained(str(tmp_path / "saved"))
    del model
    (tmp_path / "out").mkdir()
    with PeakMemory() as peak:
        write_merged(SavedModel.read(str(tmp_path / "saved")), tmp_path / "out", dtype=torch.bfloat16, trained=True)
    assert peak.rise["resident"] < sizes["checkpoint_bytes"] / 2
    with PeakMemory() as peak:
        run.check_folder_embeds(tmp_path / "out", SavedModel.read(str(tmp_path / "saved")))
    assert peak.rise["anonymous"] < sizes["checkpoint_bytes"] / 2
