"""Pairs of many languages and Tatoeba retrieval: what is drawn, left out and measured, on generated files."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch import nn

from benchmarks.multilingual import pairs, retrieval
from lacos_st.errors import UserError

LANGUAGES = ("ar", "en", "es")
LABELS = ("neutral", "entailment", "contradiction")


def write(file: Path, *lines: tuple[str, ...]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join("\t".join(line) + "\n" for line in lines), encoding="utf-8")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Forty rows of each source; the sentences say what they are."""
    for split in ("dev", "test"):
        for language in LANGUAGES:
            rows = [(LABELS[n % 3], f"{language} premise {split} {n}", f"{language} so {split} {n}") for n in range(60)]
            write(tmp_path / "nli" / "xnli" / f"{split}.{language}.tsv", *rows)
    write(tmp_path / "nli" / "xnli" / "test.eu.tsv", ("entailment", "eu premise", "eu so"))
    for language in ("eng", "spa", "tur"):
        write(tmp_path / "parallel" / "ntrex" / f"{language}.txt", *[(f"{language} line\x85 {n}",) for n in range(40)])
    columns = [tuple(f"{language} scene {n}" for language in ("en", "de", "fr", "cs")) for n in range(40)]
    write(tmp_path / "parallel" / "multi30k.en-de-fr-cs.train.tsv", *columns)
    captions = [tuple(f"{language} caption {n} {k}" for language in ("en", "de") for k in range(5)) for n in range(40)]
    write(tmp_path / "para" / "multi30k_captions.train.tsv", *captions)
    write(tmp_path / "sts" / "en" / "STSb.dev.tsv", ("news", "4", "en scene 7", "another"), ("news", "1", "x", "y"))
    write(tmp_path / "sts" / "stsb_multi_mt" / "dev.es.tsv", ("4", "es so dev 1", "otra"), ("1", "x", "y"))
    return tmp_path


def test_entailments_are_drawn_in_one_language_and_across_two(data: Path) -> None:
    drawn = pairs.xnli(data, 300, random.Random(0))
    assert len(drawn) == 300
    languages = [(first.split()[0], second.split()[0]) for first, second in drawn]
    assert {name for both in languages for name in both} == set(LANGUAGES)  # Basque has no dev rows
    assert 110 < sum(first != second for first, second in languages) < 190  # a half
    for first, second in drawn:
        assert first.split()[2:] == second.split()[2:]  # the same row
        assert int(first.split()[3]) % 3 == 1  # an entailment


def test_languages_of_the_target_are_drawn_more_often() -> None:
    chance = random.Random(0)
    drawn = [pairs._language({"ar", "de", "es"}, chance) for _ in range(1300)]
    assert 540 < drawn.count("ar") < 660 and 540 < drawn.count("es") < 660 and 60 < drawn.count("de") < 140


def test_languages_that_are_not_aligned_are_refused(data: Path) -> None:
    file = data / "nli" / "xnli" / "dev.es.tsv"
    lines = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join([lines[1], lines[0], *lines[2:]]) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match="dev, line 1: labels .*not aligned"):
        pairs.xnli(data, 5, random.Random(0))


def test_entailments_of_one_language_and_translations_are_told_apart(data: Path) -> None:
    alone = pairs.xnli(data, 100, random.Random(0), across=0.0)
    assert all(first.split()[0] == second.split()[0] for first, second in alone)
    for first, second in pairs.xnli_translations(data, 100, random.Random(0)):
        assert first.split()[0] != second.split()[0] and first.split()[1:] == second.split()[1:]
    kinds = {kind: pairs.mixed(data, kind, 40, seed=0) for kind in pairs.KINDS}
    assert all(len(kind) == 40 for kind in kinds.values())
    assert not any(" so " in second for _, second in kinds["translated"])
    assert not any("line" in second for _, second in kinds["monolingual"])
    assert any("line" in second for _, second in kinds["many"]) and any(" so " in second for _, second in kinds["many"])


def test_translations_keep_their_line(data: Path) -> None:
    for first, second in pairs.ntrex(data, 60, random.Random(0)):
        assert first.startswith("eng line\x85") and second.split(" ")[0] in ("spa", "tur")
        assert first.split(" ")[-1] == second.split(" ")[-1]
    for first, second in pairs.multi30k(data, 60, random.Random(0)):
        assert first.startswith("en ") and second.split()[0] in ("de", "fr", "cs")
        assert first.split()[2] == second.split()[2]


def test_both_kinds_hold_the_same_captions_and_no_sentence_of_a_dev_set(data: Path) -> None:
    many = pairs.mixed(data, "many", 40, seed=0)
    english = pairs.mixed(data, "en", 40, seed=0)
    assert len(many) == len(english) == 40
    assert len(set(many)) == len(set(english)) == 40
    assert all(text.startswith("en ") for pair in english for text in pair)
    shown = [{pair for pair in kind if "caption" in pair[0]} for kind in (many, english)]
    assert len(shown[0] & shown[1]) >= 5
    everything, dropped = pairs.without_dev([("a", "es so dev 1"), ("en scene 7", "b"), ("c", "d")], data)
    assert (everything, dropped) == ([("c", "d")], 2)
    with pytest.raises(UserError, match="ask for fewer --rows"):
        pairs.mixed(data, "en", 2000, seed=0)


def test_more_are_drawn_where_many_come_twice(data: Path) -> None:
    drawn = pairs.mixed(data, "monolingual", 110, seed=0)  # of 120 entailments in one language, and captions
    assert len(set(drawn)) == 110
    assert all(first.split()[0] == second.split()[0] for first, second in drawn)


class Bag(nn.Module):
    """Embeds a sentence by its last word: the translation is the neighbour, but where two share that word."""

    def tokenize(self, texts: list[str], **_: object) -> dict[str, torch.Tensor]:
        return {"numbers": torch.tensor([int(text.split()[-1]) for text in texts])}

    preprocess = tokenize

    def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        angle = features["numbers"].float() / 10
        return {"sentence_embedding": torch.stack([angle.cos(), angle.sin()], dim=1)}


def test_accuracy_is_counted_in_both_directions() -> None:
    model = SentenceTransformer(modules=[Bag()], device="cpu")
    english = [f"one {n}" for n in range(10)]
    foreign = [f"uno {n}" for n in (*range(9), 0)]  # the last is the first's
    found = retrieval.measure(model, foreign, english, batch_size=4)
    assert found == {"from_english": pytest.approx(90.0), "to_english": pytest.approx(90.0)}


def test_a_language_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    folder = tmp_path / "parallel" / "tatoeba"
    write(folder / "tatoeba.spa-eng.spa", ("hola",), ("adios",))
    write(folder / "tatoeba.spa-eng.eng", ("hello",), ("bye",))
    assert retrieval.load_pair(tmp_path, "spa", 1) == (["hola"], ["hello"])
    with pytest.raises(UserError, match="no language 'xxx'.*choose from spa"):
        retrieval.load_pair(tmp_path, "xxx", 1)
    write(folder / "tatoeba.spa-eng.eng", ("hello",))
    with pytest.raises(UserError, match="2 lines beside 1"):
        retrieval.load_pair(tmp_path, "spa", 1)


def test_a_changed_model_is_measured_again(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("1")
    first = retrieval.identity(str(tmp_path / "model"), ["a"])
    assert first == retrieval.identity(str(tmp_path / "model"), ["a"])
    (tmp_path / "model" / "weights").write_text("22")
    assert first != retrieval.identity(str(tmp_path / "model"), ["a"])


def test_the_table_marks_languages_without_training_pairs() -> None:
    found = {("m", name): {"from_english": 10.0, "to_english": 20.0} for name in ("spa", "xho")}
    text = retrieval.table(found, ["m"], {"spa"})
    assert "| spa | 10.0 | 20.0 |" in text and "| xho* | 10.0 | 20.0 |" in text and "| mean | 10.0 | 20.0 |" in text
