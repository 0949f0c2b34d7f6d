from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
from sentence_transformers import SentenceTransformer

from lacos_st import demo, grammar
from lacos_st.errors import UserError
from lacos_st.settings import TrainConfig

NAMES = [demo.SBERT, "bert-nano zero-shot", "bloom-nano zero-shot", demo.LACOS]  # the baseline goes first


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Random stand-ins, wide enough for the default block of 256."""
    folders = []
    for name in ("bloom", "bert"):
        folder = tmp_path_factory.mktemp(name)
        tiny.model(name, hidden=256, std=0.02).save_pretrained(folder)
        tiny.tokenizer().save_pretrained(folder)
        folders.append(str(folder))
    return folders[0], folders[1]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """An even smaller --quick; on the CPU, whatever machine this is."""
    monkeypatch.setattr(demo, "QUICK", demo._Size(nli_rows=30, graded_rows=10, epochs=1.0, max_rows=150))
    monkeypatch.setitem(demo.SHARED_SETTINGS, "cpu", True)
    monkeypatch.setitem(demo.SHARED_SETTINGS, "progress", False)


def test_the_demo_leaves_models_scores_and_a_plot(bases: tuple[str, str], tmp_path: Path) -> None:
    output = tmp_path / "demo"
    lines = list(demo.run(output=output, quick=True, bases=bases))
    results = json.loads((output / "results.json").read_text())
    assert [model["name"] for model in results["models"]] == NAMES
    assert results["baseline"] == demo.SBERT
    groups = {task["languages"]: task["group"] for task in results["models"][0]["tasks"]}
    assert groups["en-en"] == "sts"
    assert groups["en-fr"] == "xsts"
    assert (output / "scores.png").read_bytes().startswith(b"\x89PNG")
    assert (output / "results.md").read_text() in "\n".join(lines) + "\n"
    assert {path.name for path in output.iterdir()} == set(demo.WRITTEN)
    model = SentenceTransformer(str(output / demo.LACOS), device="cpu")
    assert model.encode(["a man"]).shape == (1, 256)
    configs = [TrainConfig.from_yaml(output / "runs" / name / "train.yaml") for name in (demo.LACOS, demo.SBERT)]
    assert (configs[0].method, configs[1].method) == ("lacos", "sbert")
    assert (configs[0].data, configs[0].max_rows, configs[0].seed) == (
        configs[1].data,
        configs[1].max_rows,
        configs[1].seed,
    )
    assert all(Path(file).is_file() for file in configs[0].data)

    with pytest.raises(UserError, match="--overwrite"):
        next(demo.run(output=output, quick=True, bases=bases))


def test_real_data_is_cleaned_of_what_is_evaluated(bases: tuple[str, str], tmp_path: Path) -> None:
    data = tmp_path / "data"
    rows = grammar.nli_rows(66, languages=["en"])
    (data / "nli").mkdir(parents=True)
    (data / "nli" / "snli_sample18k.tsv").write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    (data / "sts" / "en").mkdir(parents=True)
    (data / "sts" / "sts17").mkdir()
    entailment = next(row for row in rows if row.label == "entailment")
    graded = [(1.0, entailment.premise, "x"), (3.0, "a man", "a man walks"), (5.0, "y", "the street")]
    lines = ["\t".join(map(str, row)) + "\n" for row in graded]
    (data / "sts" / "en" / "STSb.test.tsv").write_text("".join("s\t" + line for line in lines), encoding="utf-8")
    (data / "sts" / "sts17" / "track3.es-en.tsv").write_text("".join(lines), encoding="utf-8")
    output = tmp_path / "demo"
    told = list(demo.run(output=output, data=data, quick=True, bases=bases))
    results = json.loads((output / "results.json").read_text())
    assert [task["task"] for task in results["models"][0]["tasks"]] == ["STSBenchmark", "STS17.es-en"]
    held = sum(row.label == "entailment" and entailment.premise in row for row in rows)
    pairs = sum(row.label == "entailment" for row in rows) - held
    trained = next(line for line in told if "numbers trained" in line)
    assert trained.strip().startswith(f"{pairs - pairs // 10} rows")


def test_data_without_nli_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data" / "sts").mkdir(parents=True)
    with pytest.raises(UserError, match="snli_sample18k"):
        next(demo.run(output=tmp_path / "demo", data=tmp_path / "data"))
    assert not (tmp_path / "demo").exists()
