"""`lacos-st export`: what cannot be exported, or would embed otherwise, is refused, and nothing is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny
import torch
from test_cli import refused

from export.exported import save
from lacos_st.cli import main
from lacos_st.encoders import encoder
from lacos_st.errors import UserError
from lacos_st.export import fidelity
from lacos_st.export.low_rank import LowRank
from lacos_st.export.options import ExportOptions
from lacos_st.export.run import export_model
from lacos_st.export.saved import SavedModel


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
