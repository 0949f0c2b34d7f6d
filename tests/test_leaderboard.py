"""mteb's own runner: scores as ours, its layout of results, metadata, prompts, what a user does without our command."""

from __future__ import annotations

import errno
import json
import os
import re
import textwrap
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import yaml
from sentence_transformers import SentenceTransformer

from lacos_st.cli import main
from lacos_st.encoders import encoder
from lacos_st.errors import UserError
from lacos_st.evaluation import EvaluationOptions, evaluate
from lacos_st.evaluation import run as run_ours
from lacos_st.leaderboard.metadata import model_meta, mteb_name, wrapped
from lacos_st.leaderboard.run import evaluate_mteb, run
from lacos_st.leaderboard.tasks import load_named
from lacos_st.models import load_model
from lacos_st.sts import load_tasks

mteb = pytest.importorskip("mteb", reason="the extra lacos_st[mteb] is not installed")

WORDS = "a man woman dog plays sings the guitar street long is and walks un homme joue une rue longue नदी गाँव".split()
NAMES = ["STS12", "STSBenchmark", "STS17.es-en", "STS17.ar-en", "STSb-multi.en-fr"]
TOLERANCE = 1e-4  # of a correlation between -1 and 1


def _write(file: Path, *, seed: int, before: str = "", pairs: int = 60) -> None:
    rng = np.random.default_rng(seed)
    rows = [
        f"{before}{rng.integers(0, 26) / 5}\t"
        + "\t".join(" ".join(rng.choice(WORDS, rng.integers(2, 9))) for _ in "12")
        for _ in range(pairs)
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(rows) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated pairs in the known layout."""
    root = tmp_path_factory.mktemp("data")
    for seed, name in enumerate(["STS12", "STSb.test"]):
        _write(root / "en" / f"{name}.tsv", seed=seed, before="subset\t")
    for seed, name in enumerate(["track4a.es-en", "track2.ar-en", "track4b.es-en"], start=2):
        _write(root / "sts17" / f"{name}.tsv", seed=seed)
    for language in ("en", "fr"):
        _write(root / "stsb_multi_mt" / f"test.{language}.tsv", seed=5)
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A saved 8-bit encoder with an adapter that does something, as `lacos-st train` leaves it."""
    root = tmp_path_factory.mktemp("encoder")
    model = encoder(tiny.save(root / "base"), lora_rank=2, block_size=64, self_contained=True, device="cpu")
    tiny.stir_(model)
    place = root / "mine" / "model"
    model.save_pretrained(str(place))
    return str(place)


@pytest.fixture(scope="module")
def model(folder: str) -> SentenceTransformer:
    return load_model(folder, device="cpu")


def _results(out: Path) -> dict[str, Any]:
    files = [file for file in out.rglob("*.json") if file.name != "model_meta.json"]
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}


def _agree(mteb_entry: dict[str, Any], ours: dict[str, float]) -> None:
    for similarity in ("cosine", "manhattan", "euclidean"):
        assert mteb_entry[f"{similarity}_spearman"] == pytest.approx(ours[similarity] / 100, abs=TOLERANCE)


def test_scores_equal_our_evaluators_on_the_same_data(model: SentenceTransformer, data: Path, tmp_path: Path) -> None:
    table = evaluate_mteb({"a": model, "b": model}, NAMES, data=data, output_dir=tmp_path, baseline="a")
    ours = {task.task: task for task in evaluate([model], tasks=load_tasks(data, names=NAMES)).models[0].tasks}
    found = _results(tmp_path / "results" / "local__a")
    assert sorted(found) == ["STS12", "STS17", "STSBenchmark", "STSb-multi.en-fr"]
    spread = {task.spearman["cosine"] for task in ours.values()}
    assert len(spread) == len(NAMES)  # five different figures, so that none can stand for another
    for name in ("STS12", "STSBenchmark", "STSb-multi.en-fr"):
        (entry,) = found[name]["scores"]["test"]
        _agree(entry, ours[name].spearman)
        assert entry["cosine_pearson"] == pytest.approx(ours[name].pearson["cosine"] / 100, abs=TOLERANCE)
        assert f"{ours[name].spearman['cosine']:.2f} (+0.00)" in next(x for x in table.splitlines() if f" {name} " in x)
    subsets = {entry["hf_subset"]: entry for entry in found["STS17"]["scores"]["test"]}
    assert set(subsets) == {"es-en", "en-ar"}  # mteb's names
    _agree(subsets["es-en"], ours["STS17.es-en"].spearman)
    _agree(subsets["en-ar"], ours["STS17.ar-en"].spearman)
    assert subsets["en-ar"]["languages"] == ["eng-Latn", "ara-Arab"]
    assert found["STSb-multi.en-fr"]["scores"]["test"][0]["languages"] == ["eng-Latn", "fra-Latn"]
    assert [line.split("|")[1].strip() for line in table.splitlines() if "STS17" in line] == [
        *("STS17", "STS17.en-ar", "STS17.es-en")
    ]
    assert (tmp_path / "mteb.md").read_text() == table


@pytest.mark.slow
def test_scores_equal_our_evaluators_on_real_data(shared_data: Path, tmp_path: Path) -> None:
    names = ["STS12", "STSBenchmark", "SICK-R", "STS17"]
    model = load_model("bloom-nano", device="cpu")
    evaluate_mteb([model], names, data=shared_data, output_dir=tmp_path, batch_size=64)
    ours = {task.task: task for task in evaluate([model], tasks=load_tasks(shared_data, names=names)).models[0].tasks}
    found = _results(tmp_path)
    for name in names[:3]:
        _agree(found[name]["scores"]["test"][0], ours[name].spearman)
    turned = {"en-ar": "ar-en", "en-tr": "tr-en"}
    subsets = found["STS17"]["scores"]["test"]
    assert len(subsets) == 6
    for entry in subsets:
        _agree(entry, ours[f"STS17.{turned.get(entry['hf_subset'], entry['hf_subset'])}"].spearman)


def test_mteb_reads_the_results_back(model: SentenceTransformer, folder: str, data: Path, tmp_path: Path) -> None:
    run(EvaluationOptions((folder,), mteb=("STS12",), data=data, output_dir=tmp_path, device="cpu"))
    meta = model_meta(folder)
    cache = mteb.ResultCache(tmp_path)
    result = cache.load_task_result("STS12", meta)
    assert result.get_score() == _results(tmp_path)["STS12"]["scores"]["test"][0]["main_score"]
    assert result.dataset_revision.startswith("local-")  # not the revision of the hub's data, which was not read
    place = tmp_path / "results" / "local__mine" / meta.revision
    assert sorted(file.name for file in place.iterdir()) == ["STS12.json", "model_meta.json", "run_settings.jsonl"]
    text = (place / "model_meta.json").read_text()
    assert str(Path(folder).parent) not in text  # results go to others
    assert "memory_usage_mb" in text
    (settings,) = map(json.loads, (place / "run_settings.jsonl").read_text().splitlines())
    assert settings["encode_kwargs"]["batch_size"] == 32
    frame = cache.load_results(models=[meta.name], tasks=["STS12"], include_remote=False)
    assert frame.model_results[0].model_name == "local/mine"


def test_metadata_says_what_the_model_is(folder: str, model: SentenceTransformer) -> None:
    meta = model_meta(folder)
    base = tiny.model()  # BLOOM of two layers, width 64: the same in floats
    count = sum(parameter.numel() for parameter in base.parameters())
    # LoRA of rank 2 on the feed-forward layers (64 to 256 and back) and the token embedding, as the paper
    rows = base.get_input_embeddings().num_embeddings
    adapters = 2 * 2 * (2 * (64 + 256)) + 2 * (rows + 64)
    assert meta.n_parameters == count + adapters
    assert meta.n_embedding_parameters == rows * 64
    assert meta.n_active_parameters == count + adapters - rows * 64
    assert 0.2 < meta.memory_usage_mb * 2**20 / (4 * count) < 0.5  # a byte and little for each, four for the adapter's
    assert (meta.name, meta.embed_dim, meta.max_tokens) == ("local/mine", 64, model.max_seq_length)
    assert (meta.similarity_fn_name, meta.model_type, meta.modalities) == ("cosine", ["dense"], ["text"])
    assert meta.framework == ["Sentence Transformers", "PyTorch", "safetensors"]
    assert meta.use_instructions is False
    assert meta.open_weights is meta.license is meta.languages is meta.training_datasets is None  # nothing says so


def test_what_the_model_does_not_say_can_be_said(model: SentenceTransformer, folder: str) -> None:
    said = {"name": "me/mine", "license": "apache-2.0", "languages": ["eng-Latn"], "training_datasets": {"SNLI"}}
    meta = model_meta(model, given=folder, **said, open_weights=True)
    assert {field: getattr(meta, field) for field in said} == said
    assert meta.is_zero_shot_on(["STS12"]) is True
    with pytest.raises(UserError, match=r"no field licence: choose from"):
        model_meta(model, licence="mit")
    with pytest.raises(UserError, match=r"metadata of me: name: .*organization/model_name"):
        model_meta(model, name="me")


def test_a_model_card_and_a_run_are_read(model: SentenceTransformer, tmp_path: Path) -> None:
    model.save_pretrained(str(tmp_path / "m"))
    card = "---\nlanguage: [en, fr]\nlicense: someones-own\nbase_model: bigscience/bloom-560m\n---\n# A model\n"
    (tmp_path / "m" / "README.md").write_text(card)
    (tmp_path / "m" / "train.yaml").write_text("data: ['sentence-transformers/all-nli:pair@train']\n")
    meta = model_meta(str(tmp_path / "m"))
    assert meta.languages == ["eng-Latn", "fra-Latn"]
    assert meta.license is None  # mteb knows no such licence
    assert meta.training_datasets == {"SNLI", "MNLI"}
    (tmp_path / "m" / "train.yaml").write_text("data: ['sentence-transformers/all-nli:pair@train', mine.tsv]\n")
    (tmp_path / "m" / "README.md").write_text("---\nlanguage: [en\n---\n")
    meta = model_meta(str(tmp_path / "m"))
    assert meta.training_datasets is None  # what mine.tsv is nobody knows
    assert meta.languages is None


def test_a_revision_is_that_of_the_weights_and_options(folder: str, model: SentenceTransformer) -> None:
    first = model_meta(folder).revision
    assert model_meta(model, given="elsewhere").revision == first
    assert len(first) == 40
    other = load_model(folder, device="cpu")
    other.max_seq_length = 7
    assert model_meta(other).revision != first
    other = load_model(folder, device="cpu")
    next(parameter for name, parameter in other.named_parameters() if "lora_" in name).data += 1e-3
    assert model_meta(other).revision != first
    other = load_model(folder, device="cpu")
    other.prompts = {"query": "q: ", "document": ""}
    changed = model_meta(other)
    assert changed.revision != first
    assert changed.use_instructions is True
    for name, value in {"default_prompt_name": "query", "similarity_fn_name": "dot", "truncate_dim": 8}.items():
        known = model_meta(other).revision
        setattr(other, name, value)
        assert model_meta(other).revision != known, name
    known = model_meta(other).revision
    other.tokenizer.truncation_side = "left"
    assert model_meta(other).revision != known


def test_names_in_mteb() -> None:
    assert mteb_name("runs/mine/model/") == "local/mine"
    assert mteb_name("/a/b c") == "local/b_c"
    assert mteb_name("owner/name") == "owner/name"
    assert mteb_name("../..") == "local/unnamed"


def test_prompts_reach_the_model(model: SentenceTransformer, data: Path, tmp_path: Path) -> None:
    (task,) = load_tasks(data, names=["STS12"])
    prefixed = type(task)(
        *("STS12", "sts", "en-en"),
        tuple("the street: " + sentence for sentence in task.sentences1),
        tuple("the street: " + sentence for sentence in task.sentences2),
        *(task.scores, task.score_range),
    )
    plain, expected = (evaluate([model], tasks=[one]).models[0].tasks[0].spearman for one in (task, prefixed))
    assert abs(plain["cosine"] - expected["cosine"]) > 0.1
    own = dict(model.prompts)
    evaluate_mteb([model], ["STS12"], data=data, output_dir=tmp_path / "a", prompts={"STS": "the street: "})
    _agree(_results(tmp_path / "a")["STS12"]["scores"]["test"][0], expected)
    assert model.prompts == own
    assert len(list((tmp_path / "a").rglob("experiments/*/STS12.json"))) == 1  # beside the plain run, not in its place
    model.prompts = {**own, "STS12": "the street: "}  # the model's own, as its folder may hold them
    try:
        evaluate_mteb([model], ["STS12"], data=data, output_dir=tmp_path / "b")
    finally:
        model.prompts = own
    _agree(_results(tmp_path / "b")["STS12"]["scores"]["test"][0], expected)
    with pytest.raises(UserError, match="prompts are for names that mteb does not know.*STS99"):
        wrapped(model, prompts={"STS99": "x"})


def test_a_run_goes_on_where_it_stopped(
    model: SentenceTransformer, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    out, seen = tmp_path / "out", []
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda sentences, **kw: (seen.extend(sentences), encode(sentences, **kw))[1])
    evaluate_mteb([model], ["STS12"], data=data, output_dir=out)
    assert len(seen) == 120
    evaluate_mteb([model], ["STS12", "STS17.es-en"], data=data, output_dir=out)
    assert len(seen) == 240  # STS12 is there
    table = evaluate_mteb([model], ["STS17.ar-en"], data=data, output_dir=out)
    assert len(seen) == 360
    assert "es-en" not in table
    assert {entry["hf_subset"] for entry in _results(out)["STS17"]["scores"]["test"]} == {"es-en", "en-ar"}
    evaluate_mteb([model], ["STS12"], data=data, output_dir=out, overwrite=True)
    assert len(seen) == 480
    assert not caplog.records or "other data" not in caplog.text
    _write(tmp_path / "changed" / "en" / "STS12.tsv", seed=9, before="subset\t")
    evaluate_mteb([model], ["STS12"], data=tmp_path / "changed", output_dir=out)
    assert len(seen) == 600  # mteb itself would have taken the result of the other data
    assert "the result there is of other data or another mteb: STS12 runs again" in caplog.text
    (file,) = out.rglob("STS12.json")
    file.write_text("{")
    with pytest.raises(UserError, match=r"STS12.json is broken .*--overwrite"):
        evaluate_mteb([model], ["STS12"], data=data, output_dir=out)


def test_results_are_whole_or_not_there(
    model: SentenceTransformer, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space"):
        evaluate_mteb([model], ["STS12"], data=data, output_dir=tmp_path / "out")
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_a_collapsed_model_is_an_error_not_nan(model: SentenceTransformer, data: Path, tmp_path: Path) -> None:
    for value, words in ((1.0, "main score is nan"), (float("nan"), "hold NaN")):
        broken = type("Broken", (SentenceTransformer,), {"encode": lambda _, texts, v=value, **kw: _constant(texts, v)})
        other = broken(modules=list(model.children()), device="cpu")
        with pytest.raises(UserError, match=words):
            evaluate_mteb([other], ["STS12"], data=data, output_dir=tmp_path / words)
        assert not _results(tmp_path / words)


def _constant(texts: list[str], value: float) -> np.ndarray:
    return np.full((len(texts), 64), value, dtype=np.float32)


def test_mteb_used_directly_on_our_folder(folder: str, data: Path, tmp_path: Path) -> None:
    """As users benchmark: mteb's own calls, nothing of our command but the data that stands in for the hub's."""
    from mteb.models.model_implementations import MODEL_REGISTRY

    ours = evaluate([folder], tasks=load_tasks(data, names=["STSBenchmark"])).models[0].tasks[0].spearman
    (task,) = load_named(["STSBenchmark"], data=data)
    model = SentenceTransformer(folder, device="cpu")
    meta = model_meta(folder)
    MODEL_REGISTRY[meta.name] = meta
    try:
        with warnings.catch_warnings():  # of mteb to itself
            warnings.simplefilter("ignore")
            by_name = mteb.get_model("local/mine", device="cpu")
            models = {
                "sentence-transformers' model": model,
                "mteb's wrapper": mteb.models.SentenceTransformerEncoderWrapper(folder, device="cpu"),
                "by metadata": meta,
                "by name": by_name,
            }
            found = {
                kind: mteb.evaluate(one, task, cache=None, show_progress_bar=False) for kind, one in models.items()
            }
    finally:
        del MODEL_REGISTRY[meta.name]
    assert by_name.mteb_model_meta.revision == meta.revision
    for each in found.values():
        _agree(each.task_results[0].scores["test"][0], ours)
    assert found["by metadata"].model_name == "local/mine"
    assert found["sentence-transformers' model"].model_name == "no_model_name/available"  # docs/evaluate.md says so


@pytest.mark.filterwarnings("ignore:Could not find model:UserWarning")
def test_mteb_loads_no_folder_by_its_path(folder: str) -> None:
    """Stock behaviour that docs/evaluate.md tells: where this fails, mteb has learned it and the page is to change."""
    with pytest.raises(NotImplementedError):
        mteb.get_model(folder)


PAGE = (Path(__file__).parents[1] / "docs" / "evaluate.md").read_text(encoding="utf-8")


def test_the_pages_command_runs(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (command,) = re.findall(r"^lacos-st (evaluate bloom-nano --mteb .*)$", PAGE, re.MULTILINE)
    assert main(command.replace("DATA", str(data)).split()) == 0
    assert sorted(_results(tmp_path / "scores" / "results")) == ["STS12", "STS17", "STSBenchmark"]
    fields = yaml.safe_load(textwrap.dedent(PAGE.partition("```yaml\n")[2].partition("```")[0]))
    assert model_meta("bloom-nano", **fields).languages == ["eng-Latn", "fra-Latn"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of mteb to itself
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore:The task:UserWarning")
def test_the_pages_python_runs(folder: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mteb, "get_tasks", lambda names: load_named(names, data=data))  # the hub is not there
    Path("my-encoder").symlink_to(folder)
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(block, {})
    assert sorted(_results(tmp_path / "scores" / "results" / "me__my-encoder")) == ["STS12", "STSBenchmark"]


def test_without_a_network_the_task_is_named(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", folder, "--mteb", "STS12"]) == 2
    message = capsys.readouterr().err
    assert "data of mteb task 'STS12' could not be fetched" in message
    assert "mteb.get_task('STS12').load_data()" in message
    assert "--data" in message
    assert "Traceback" not in message


def test_names_and_folders_that_cannot_be_used_are_refused(
    model: SentenceTransformer, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="unknown mteb task 'STS99'"):
        evaluate_mteb([model], ["STS99"])
    with pytest.raises(UserError, match="mteb task 'STS17' has no subset 'xx-yy': choose from ko-ko"):
        evaluate_mteb([model], ["STS17.xx-yy"])
    with pytest.raises(UserError, match=r"unknown task 'STS99' in .*choose from STS12"):
        evaluate_mteb([model], ["STS99"], data=data)
    with pytest.raises(UserError, match="unknown task 'STS17.nl-en'|unknown task 'STS17.en-nl'"):
        evaluate_mteb([model], ["STS17.nl-en"], data=data)
    with pytest.raises(UserError, match="'Banking77Classification' cannot be run on files"):
        evaluate_mteb([model], ["Banking77Classification"], data=data)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"not empty.*--overwrite"):
        evaluate_mteb([model], ["STS12"], data=data, output_dir=tmp_path)
    with pytest.raises(UserError, match="metadata is of one model, 2 are given"):
        evaluate_mteb({"a": model, "b": model}, ["STS12"], data=data, meta={"license": "mit"})
    with pytest.raises(UserError, match="tasks .STS12. are not for mteb's runner"):
        run(EvaluationOptions(("m",), mteb=(), tasks=("STS12",)))
    with pytest.raises(UserError, match="prompts is for mteb's runner"):
        run_ours(EvaluationOptions(("m",), prompts=Path("p.yaml")))
    (tmp_path / "prompts.yaml").write_text("STS: [a]\n")
    with pytest.raises(UserError, match="the prompt of 'STS' is"):
        run(EvaluationOptions(("m",), mteb=("STS12",), prompts=tmp_path / "prompts.yaml"))


def test_files_of_ones_own_are_tasks(
    model: SentenceTransformer, folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, name in enumerate(["mine", "mine.en-xx"]):
        _write(tmp_path / "data" / f"{name}.tsv", seed=seed)
    (tmp_path / "meta.yaml").write_text("license: mit\nname: me/mine\n")
    options = ["--data", str(tmp_path / "data"), "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert main(["evaluate", folder, "--mteb", *options, "--meta", str(tmp_path / "meta.yaml")]) == 0
    assert "| mine.en-xx |" in capsys.readouterr().out
    found = _results(tmp_path / "out" / "results" / "me__mine")
    assert main(["evaluate", folder, "--mteb", "mine", *options[:2], "--device", "cpu", "--json"]) == 0
    (printed,) = json.loads(capsys.readouterr().out)[folder]
    assert printed["scores"]["test"][0]["main_score"] == pytest.approx(
        found["mine"]["scores"]["test"][0]["main_score"], abs=1e-6
    )
    ours = evaluate([model], tasks=load_tasks(tmp_path / "data")).models[0].tasks
    for task in ours:
        _agree(found[task.task]["scores"]["test"][0], task.spearman)
    assert found["mine"]["scores"]["test"][0]["languages"] == ["und-Zyyy"]
    assert found["mine.en-xx"]["scores"]["test"][0]["languages"] == ["eng-Latn", "und-Zyyy"]
