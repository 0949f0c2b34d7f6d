"""`lacos-st export --format adapter`: stock peft on a base that stock libraries read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from peft import PeftModel
from transformers import AutoModel, AutoTokenizer

from export.exported import SENTENCES, embed, save
from lacos_st.encoders import encoder
from lacos_st.errors import UserError
from lacos_st.export.options import ExportOptions
from lacos_st.export.run import export_model


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
