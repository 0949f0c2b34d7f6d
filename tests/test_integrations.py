"""The examples with other libraries run as they stand, and find what plain `encode` finds."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import lacos_st

EXAMPLES = Path(__file__).parents[1] / "examples" / "integrations"
NEEDS = {
    "langchain_embeddings": "langchain_huggingface",
    "llamaindex_embeddings": "llama_index.embeddings.huggingface",
    "search_faiss": "faiss",
    "search_qdrant": "qdrant_client",
}

pytestmark = pytest.mark.filterwarnings("ignore")  # of libraries that are not ours


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("model"))
    lacos_st.encoder("bloom-nano", device="cpu").save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(sys, "argv", ["example"])
    yield
    for name in [name for name, found in sys.modules.items() if _of_examples(found)]:
        del sys.modules[name]


def _of_examples(module: ModuleType) -> bool:
    return str(getattr(module, "__file__", None) or "").startswith(str(EXAMPLES))


@pytest.mark.parametrize("name", NEEDS)
def test_a_search_finds_the_nearest_sentences(name: str, model: str) -> None:
    try:
        importlib.import_module(NEEDS[name])
    except ImportError:
        pytest.skip(f"{NEEDS[name]} is not installed: pip install -r examples/integrations/requirements.txt")
    sentences = importlib.import_module("sentences")
    encoder = lacos_st.encoder("bloom-nano", device="cpu")
    scores = encoder.similarity(encoder.encode([sentences.QUERY]), encoder.encode(sentences.SENTENCES))[0]
    wanted = [sentences.SENTENCES[place] for place in scores.argsort(descending=True)[:3]]
    assert importlib.import_module(name).search(model) == wanted


@pytest.mark.parametrize("name", ["search_faiss", "search_qdrant"])
def test_real_sentences_from_a_file_are_searched(
    name: str, model: str, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(NEEDS[name], reason="pip install -r examples/integrations/requirements.txt")
    folder = shared_data / "parallel" / "tatoeba"
    if not folder.is_dir():
        pytest.skip(f"no Tatoeba under {folder}")
    lines = (folder / "tatoeba.fra-eng.eng").read_text(encoding="utf-8").splitlines()
    own = tmp_path / "sentences.txt"
    own.write_text("\n".join(["", *lines, lines[0], ""]), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["example", model, str(own), lines[5]])
    sentences, query = importlib.import_module("sentences").asked()
    assert sentences == list(dict.fromkeys(lines)) and len(sentences) > 900
    found = importlib.import_module(name).search(model, sentences, query)
    encoder = lacos_st.encoder("bloom-nano", device="cpu")
    scores = encoder.similarity(encoder.encode([query]), encoder.encode(sentences))[0]
    assert found[0] == query
    assert found == [sentences[place] for place in scores.argsort(descending=True)[:3]]


def test_a_file_of_too_few_sentences_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "few.txt"
    own.write_text("one\none\n\ntwo\n", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["example", "model", str(own)])
    with pytest.raises(SystemExit, match="few.txt has 2 sentences"):
        importlib.import_module("sentences").asked()


def test_topics_have_words(model: str) -> None:
    pytest.importorskip("bertopic", reason="pip install -r examples/integrations/requirements.txt")
    sentences = importlib.import_module("sentences")
    labels, words = importlib.import_module("topics").topics(model)
    assert len(labels) == len(sentences.SENTENCES) and set(labels) == set(words) == set(range(sentences.SUBJECTS))
    spoken = " ".join(sentences.SENTENCES).lower()
    assert all(named and all(word in spoken for word in named) for named in words.values())


def test_every_sentence_has_a_cluster(model: str) -> None:
    pytest.importorskip("sklearn")
    sentences = importlib.import_module("sentences")
    found = importlib.import_module("clusters").clusters(model)
    assert len(found) == len(sentences.SENTENCES) and set(found) == set(range(sentences.SUBJECTS))


def test_mined_negatives_are_of_another_subject(model: str) -> None:
    sentences = importlib.import_module("sentences")
    rows = list(importlib.import_module("hard_negatives").mine(model))
    assert len(rows) == sentences.SUBJECTS
    place = {text: number // 4 for number, text in enumerate(sentences.SENTENCES)}
    for row in rows:
        assert place[row["anchor"]] == place[row["positive"]] != place[row["negative"]]


def test_the_page_lists_every_example() -> None:
    listed = {
        line.split("`")[1] for line in (EXAMPLES / "README.md").read_text().splitlines() if line.startswith("| `")
    }
    assert listed == {path.name for path in EXAMPLES.glob("*.py")} - {"sentences.py"}
