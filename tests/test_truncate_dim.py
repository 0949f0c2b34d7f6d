"""`lacos-st evaluate --truncate-dim`: the first dimensions, as stock truncates them, in both forms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from sentence_transformers import SentenceTransformer

from lacos_st.cli import main
from lacos_st.encoders import encoder
from lacos_st.errors import UserError
from lacos_st.evaluation import evaluate
from lacos_st.leaderboard.run import evaluate_mteb
from lacos_st.sts import load_tasks

WORDS = "a man woman dog plays sings the guitar street long is and walks".split()
WIDTH = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A saved encoder."""
    root = tmp_path_factory.mktemp("encoder")
    model = encoder(tiny.save(root / "base"), lora_rank=2, block_size=64, self_contained=True, device="cpu")
    model.save_pretrained(str(root / "model"))
    return str(root / "model")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated pairs."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    pairs = [[" ".join(rng.choice(WORDS, rng.integers(2, 9))) for _ in "12"] for _ in range(60)]
    file = root / "en" / "STS12.tsv"
    file.parent.mkdir()
    file.write_text("".join(f"subset\t{rng.integers(0, 26) / 5}\t{one}\t{two}\n" for one, two in pairs))
    return root


def _by_hand(folder: str, data: Path) -> float:
    model = SentenceTransformer(folder, device="cpu", truncate_dim=WIDTH)
    return evaluate({"m": model}, tasks=load_tasks(data)).models[0].tasks[0].spearman["cosine"]


def test_scores_are_those_of_stocks_truncated_embeddings(
    folder: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", folder, "--data", str(data), "--device", "cpu", "--truncate-dim", str(WIDTH)]
    assert main([*command, "--output", str(tmp_path / "out")]) == 0
    (scored,) = json.loads((tmp_path / "out" / "results.json").read_text())["models"]
    assert scored["tasks"][0]["spearman"]["cosine"] == pytest.approx(_by_hand(folder, data), abs=1e-9)
    assert scored["info"]["embedding_dimension"] == scored["info"]["truncate_dim"] == WIDTH
    assert f"## {folder}, first {WIDTH} dimensions: Spearman" in capsys.readouterr().out
    assert main(["export", folder, str(tmp_path / "plain"), "--results", str(tmp_path / "out")]) == 0
    card = (tmp_path / "plain" / "README.md").read_text()
    assert f"of the first {WIDTH} dimensions of the trained model's embeddings" in card
    (whole,) = evaluate([folder], tasks=load_tasks(data), device="cpu").models
    assert abs(whole.tasks[0].spearman["cosine"] - scored["tasks"][0]["spearman"]["cosine"]) > 0.1
    capsys.readouterr()


@pytest.mark.parametrize("width", [0, -1, 10_000])
def test_widths_that_there_are_not_are_refused(folder: str, data: Path, width: int) -> None:
    with pytest.raises(UserError, match=f"truncate_dim is {width}: expected 1 to "):
        evaluate([folder], tasks=load_tasks(data), device="cpu", truncate_dim=width)


def _mteb_files(out: Path) -> dict[str, Any]:
    return {
        str(file.relative_to(out)): json.loads(file.read_text())["scores"]["test"][0]
        for file in out.rglob("STS12.json")
    }


@pytest.mark.parametrize("given", ["folder", "model"])
def test_mteb_keeps_them_beside_those_of_the_whole(folder: str, data: Path, tmp_path: Path, given: str) -> None:
    pytest.importorskip("mteb", reason="the extra lacos_st[mteb] is not installed")
    evaluate_mteb({"m": folder}, ["STS12"], data=data, output_dir=tmp_path, device="cpu")
    (whole,) = _mteb_files(tmp_path)
    if given == "folder":
        evaluate_mteb({"m": folder}, ["STS12"], data=data, output_dir=tmp_path, device="cpu", truncate_dim=WIDTH)
    else:
        narrow = SentenceTransformer(folder, device="cpu", truncate_dim=WIDTH)
        evaluate_mteb({"m": narrow}, ["STS12"], data=data, output_dir=tmp_path)
    found = _mteb_files(tmp_path)
    (other,) = set(found) - {whole}
    assert "experiments" in other
    assert found[other]["cosine_spearman"] == pytest.approx(_by_hand(folder, data) / 100, abs=1e-4)
    assert abs(found[whole]["cosine_spearman"] - found[other]["cosine_spearman"]) > 1e-3
    assert json.loads((tmp_path / other).with_name("model_meta.json").read_text())["embed_dim"] == WIDTH
