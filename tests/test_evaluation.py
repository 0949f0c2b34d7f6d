"""Side-by-side evaluation: parity with the stock evaluator and scipy, known answers, files, messages."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import BertConfig, BertModel, BertTokenizerFast

from lacos_st import evaluation
from lacos_st.errors import UserError
from lacos_st.evaluation import EvaluationOptions, evaluate, run
from lacos_st.models import load_model, zero_shot
from lacos_st.report import SIMILARITIES
from lacos_st.sts import StsTask

WORDS = ["a", "cat", "dog", "bird", "sits", "runs", "sings", "here", "there", "now", "un", "chat", "chien"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of hidden size 32 in a plain transformers folder."""
    folder = tmp_path_factory.mktemp("base")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    BertTokenizerFast(vocab={word: i for i, word in enumerate(vocabulary)}).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(base: Path) -> SentenceTransformer:
    return SentenceTransformer(modules=[Transformer(str(base)), Pooling(32, pooling_mode="mean")], device="cpu")


def _task(name: str, *, group: Any = "sts", languages: str = "en-en", seed: int = 0, pairs: int = 40) -> StsTask:
    rng = np.random.default_rng(seed)
    one, two = (tuple(" ".join(rng.choice(WORDS, rng.integers(1, 9))) for _ in range(pairs)) for _ in range(2))
    return StsTask(name, group, languages, one, two, tuple(rng.integers(0, 26, pairs) / 5), (0.0, 5.0))


TASKS = [
    _task("one", seed=1),
    _task("two", seed=2),
    _task("pair.en-en", group="xsts", seed=3),
    _task("pair.es-en", group="xsts", languages="es-en", seed=4),
    _task("pair.fr-fr", group="xsts", languages="fr-fr", seed=5),
]


def test_scores_equal_the_stock_evaluators_called_by_hand(model: SentenceTransformer) -> None:
    results = evaluate([model], tasks=TASKS)
    for task, found in zip(TASKS, results.models[0].tasks, strict=True):
        stock = EmbeddingSimilarityEvaluator(
            list(task.sentences1), list(task.sentences2), list(task.scores), similarity_fn_names=[*SIMILARITIES]
        )(model)
        for similarity in SIMILARITIES:
            assert found.spearman[similarity] == pytest.approx(100 * stock[f"spearman_{similarity}"], abs=1e-6)
            assert found.pearson[similarity] == pytest.approx(100 * stock[f"pearson_{similarity}"], abs=1e-3)
        assert found.figure("max") == pytest.approx(100 * stock["spearman_max"], abs=1e-6)
        assert found.pairs == 40


def test_cosine_equals_scipy_on_the_embeddings(model: SentenceTransformer) -> None:
    task = TASKS[0]
    one, two = (model.encode(list(side)).astype(np.float64) for side in (task.sentences1, task.sentences2))
    cosine = (one * two).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(two, axis=1)
    scores = evaluate([model], tasks=[task]).models[0].tasks[0]
    assert scores.spearman["cosine"] == pytest.approx(100 * spearmanr(cosine, task.scores).statistic, abs=0.1)


class _AngleEncoder(torch.nn.Module):
    """Embeds the text "x degrees" as the unit vector of that angle: its cosine to "0" falls as x grows."""

    max_seq_length = None
    constant = False

    def get_embedding_dimension(self) -> int:
        return 2

    def encode(self, sentences: list[str], **_: Any) -> np.ndarray:
        angles = np.radians([0.0 if self.constant else float(sentence) for sentence in sentences])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


@pytest.mark.parametrize(("scores", "expected"), [((5.0, 4.0, 2.0, 0.0), 100.0), ((0.0, 2.0, 4.0, 5.0), -100.0)])
def test_a_perfect_ranking_is_100_and_a_reversed_one_minus_100(scores: tuple[float, ...], expected: float) -> None:
    task = StsTask("angles", "sts", "en-en", ("0",) * 4, ("10", "40", "70", "120"), scores, (0.0, 5.0))
    found = evaluate({"angles": _AngleEncoder()}, tasks=[task]).models[0]  # type: ignore[dict-item]
    assert found.tasks[0].spearman == pytest.approx(dict.fromkeys(SIMILARITIES, expected))
    assert found.average("sts") == pytest.approx(expected)
    assert found.average("xsts") is None


def test_a_collapsed_model_is_an_error_not_nan(tmp_path: Path) -> None:
    encoder = _AngleEncoder()
    encoder.constant = True
    task = StsTask("angles", "sts", "en-en", ("0",) * 3, ("10", "40", "70"), (1.0, 2.0, 3.0), (0.0, 5.0))
    with pytest.raises(UserError, match="model flat on angles: Spearman with cosine"):
        evaluate({"flat": encoder}, tasks=[task], output_dir=tmp_path / "out")  # type: ignore[dict-item]
    assert not (tmp_path / "out").exists()


def test_averages_leave_english_with_english_out_of_xsts(model: SentenceTransformer) -> None:
    scores = evaluate([model], tasks=TASKS).models[0]
    by_name = {task.task: task for task in scores.tasks}
    assert [task.task for task in scores.members("xsts")] == ["pair.es-en", "pair.fr-fr"]
    expected = (by_name["pair.es-en"].spearman["cosine"] + by_name["pair.fr-fr"].spearman["cosine"]) / 2
    assert scores.average("xsts", figure="cosine") == pytest.approx(expected)
    best = (max(by_name["one"].spearman.values()) + max(by_name["two"].spearman.values())) / 2
    assert scores.average("sts") == pytest.approx(best)


def test_each_sentence_is_embedded_once_per_model(model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda sentences, **kw: (seen.extend(sentences), encode(sentences, **kw))[1])
    evaluate([model], tasks=TASKS)
    assert len(seen) == len(set(seen)) == len({s for t in TASKS for s in (*t.sentences1, *t.sentences2)})


def test_files_and_table_hold_models_side_by_side(model: SentenceTransformer, base: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    results = evaluate({"mine": model}, baseline=str(base), tasks=TASKS, output_dir=out)
    record = json.loads((out / "results.json").read_text())
    assert sorted(path.name for path in out.iterdir()) == ["results.json", "results.md"]
    assert [each["name"] for each in record["models"]] == [str(base), "mine"]
    assert record["baseline"] == str(base)
    first = record["models"][1]["tasks"][0]
    assert first["spearman"] == results.models[1].tasks[0].spearman
    assert first["max"] == max(first["spearman"].values()) == first["spearman"][first["best"]]
    assert record["models"][1]["averages"]["xSTS-Avg"]["tasks"] == ["pair.es-en", "pair.fr-fr"]
    assert record["models"][1]["info"]["embedding_dimension"] == 32
    table = (out / "results.md").read_text()
    assert table == results.table()
    figure = first["max"]  # the same weights as the baseline's, so no difference
    assert f"{figure:.2f} (+0.00)" in next(line for line in table.splitlines() if line.startswith("| one "))
    assert f"**{figure:.2f}**" in table
    assert "**STS-Avg** (2 tasks)" in table


def test_a_baseline_among_the_models_runs_once_and_comes_first(model: SentenceTransformer) -> None:
    results = evaluate({"mine": model, "base": model}, baseline="base", tasks=TASKS[:1])
    assert [each.name for each in results.models] == ["base", "mine"]


def test_an_output_folder_in_use_needs_overwrite(model: SentenceTransformer, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"not empty.*--overwrite"):
        evaluate([model], tasks=TASKS[:1], output_dir=tmp_path)
    evaluate([model], tasks=TASKS[:1], output_dir=tmp_path, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "results.json", "results.md"]
    with pytest.raises(UserError, match="is a file"):
        evaluate([model], tasks=TASKS[:1], output_dir=tmp_path / "notes.txt")


def test_nothing_is_left_when_a_write_fails(
    model: SentenceTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space"):
        evaluate([model], tasks=TASKS[:1], output_dir=tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_nothing_or_twice_the_same_is_refused(model: SentenceTransformer) -> None:
    with pytest.raises(UserError, match="no models"):
        evaluate([], tasks=TASKS)
    with pytest.raises(UserError, match="no tasks"):
        evaluate([model], tasks=[])
    with pytest.raises(UserError, match="task 'one' is given 2 times"):
        evaluate([model], tasks=[TASKS[0], TASKS[0]])
    with pytest.raises(UserError, match="model 'x/y' is given 2 times"):
        evaluate(["x/y", "x/y"], tasks=TASKS)


def test_models_that_cannot_be_loaded_are_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        load_model("./nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"neither modules.json nor config.json"):
        load_model(str(tmp_path / "empty"))
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="a file; expected the folder"):
        load_model(str(tmp_path / "file"))
    broken = tmp_path / "broken"
    load_model(str(base)).save_pretrained(str(broken))
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot load the weights of"):
        load_model(str(broken))


def test_an_unreachable_hub_is_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("We couldn't connect to 'https://huggingface.co'")

    monkeypatch.setattr("sentence_transformers.SentenceTransformer", unreachable)
    with pytest.raises(UserError, match=r"'someone/model' could not be loaded \(OSError: We couldn't connect"):
        load_model("someone/model")


def test_zero_shot_is_mean_pooling_of_the_base(base: Path, model: SentenceTransformer) -> None:
    np.testing.assert_array_equal(zero_shot(str(base), device="cpu").encode(["a cat"]), model.encode(["a cat"]))


def test_run_reads_a_folder_and_returns_the_table(base: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.tsv").write_text("1\ta cat\ta dog runs\n5\ta cat\ta cat\n3\ta bird\tchat here now\n")
    options = EvaluationOptions((str(base),), data=tmp_path / "data", output_dir=tmp_path / "out", device="cpu")
    text = run(options)
    assert text == (tmp_path / "out" / "results.md").read_text()
    with pytest.raises(UserError, match="--overwrite"):
        run(options)


def test_versions_are_recorded() -> None:
    assert set(evaluation._versions("mteb")) >= {"sentence-transformers", "torch", "mteb"}
