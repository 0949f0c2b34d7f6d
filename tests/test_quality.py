"""The paper's claim in miniature, on real data: LACoS beats its own base untrained and the SBERT baseline."""

from __future__ import annotations

from pathlib import Path

import pytest

from lacos_st.demo import LACOS_SETTINGS, SBERT_SETTINGS, SHARED_SETTINGS
from lacos_st.evaluation import evaluate
from lacos_st.settings import TrainConfig
from lacos_st.sts import load_tasks
from lacos_st.training import train

ROWS = 6000


@pytest.mark.slow
def test_lacos_beats_its_base_and_sbert_on_stsb(shared_data: Path, tmp_path: Path) -> None:
    """A small run: 2,000 pairs. The full one is a row of `benchmarks.demo`."""
    models: dict[str, str] = {"bloom-nano": "bloom-nano", "bert-nano": "bert-nano"}
    for method, base, settings in (("lacos", "bloom-nano", LACOS_SETTINGS), ("sbert", "bert-nano", SBERT_SETTINGS)):
        options = {
            "base": base,
            "method": method,
            "data": [str(shared_data / "nli" / "snli_sample18k.tsv")],
            "exclude_sts": [str(shared_data)],
            "max_rows": ROWS,
            "output": str(tmp_path / method),
            "progress": False,
            **SHARED_SETTINGS,
            **settings,
        }
        models[method] = str(train(TrainConfig.from_mapping(options)).model_path)
    results = evaluate(models, tasks=load_tasks(shared_data, names=["STSBenchmark"]), device="cpu")
    scores = {model.name: model.average("sts") for model in results.models}
    assert scores["lacos"] > scores["bloom-nano"] + 1
    assert scores["lacos"] > scores["sbert"] + 1
