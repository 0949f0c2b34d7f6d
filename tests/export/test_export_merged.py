"""`lacos-st export --format merged`: what another library loads embeds as the trained model does."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from test_cli import refused
from transformers import AutoModel

import lacos_st
from export.exported import SENTENCES, embed, kinds, save
from lacos_st.cli import main
from lacos_st.encoders import encoder
from lacos_st.export import run
from lacos_st.export.folding import Slot
from lacos_st.export.merged import write_merged
from lacos_st.export.options import ExportOptions
from lacos_st.export.run import export_model
from lacos_st.export.saved import SavedModel
from lacos_st.export.shards import write_shards


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
