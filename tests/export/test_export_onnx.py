"""`lacos-st export --format onnx`: onnxruntime embeds as the trained model does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_cli import refused
from transformers import AutoTokenizer

from export.exported import SENTENCES, embed
from lacos_st.cli import main
from lacos_st.export import onnx
from lacos_st.export.options import ExportOptions
from lacos_st.export.run import export_model


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
