"""The synthetic grammar: reproducible, disjoint in its two parts, graded by meaning and not by words."""

from __future__ import annotations

import random
import re
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lacos_st import grammar, lexicon
from lacos_st.errors import UserError
from lacos_st.grammar import LANGUAGES, GradedRow, graded_rows, nli_rows, score
from lacos_st.surface import Meaning, sentence

TABLES = (lexicon.NOUNS, lexicon.VERBS, lexicon.ADJECTIVES, lexicon.PLACES, lexicon.TIMES)

meanings = st.integers(0, 10_000).map(lambda seed: grammar._draw(random.Random(seed)))


def said(language: str, **slots: object) -> set[str]:
    """Every way to say a meaning that 300 draws find."""
    meaning = Meaning(**slots)  # type: ignore[arg-type]
    return {sentence(meaning, language=language, rng=random.Random(seed)) for seed in range(300)}


def test_rows_are_many_distinct_balanced_and_reproducible() -> None:
    rows = nli_rows(6000, languages=["en"], seed=1)
    assert len(set(rows)) == 6000
    assert Counter(row.label for row in rows) == dict.fromkeys(grammar.LABELS, 2000)
    assert rows == nli_rows(6000, languages=["en"], seed=1)
    assert not set(rows[:100]) & set(nli_rows(100, languages=["en"], seed=2))


def test_lexicon_has_the_promised_size_and_no_word_for_two_concepts() -> None:
    assert len(lexicon.BEINGS | lexicon.THINGS) >= 30
    assert len(lexicon.VERBS) >= 20
    for table in TABLES:
        for language in LANGUAGES:
            words = [word.forms[0] for concept in table.values() for word in concept.words[language]]
            assert [word for word, count in Counter(words).items() if count > 1] == []


def test_opposites_are_mutual_and_take_the_same_objects() -> None:
    for name, verb in lexicon.VERBS.items():
        opposite, target, _ = verb.traits
        if opposite != "-":
            assert lexicon.VERBS[opposite].traits[:2] == (name, target)


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_evaluation_sentence_occurs_in_training(language: str) -> None:
    training = {text for row in nli_rows(2000, languages=[language]) for text in row[1:]}
    own = graded_rows(500, language1=language, language2=language)
    crossed = graded_rows(500, language1="en", language2=language)
    evaluation = {text for row in own for text in row[1:]} | {row.sentence2 for row in crossed}
    assert len(evaluation) > 900
    assert not training & evaluation


@given(meanings, meanings)
@settings(max_examples=200, deadline=None)
def test_score_is_symmetric_bounded_and_full_for_the_same_meaning_only(first: Meaning, second: Meaning) -> None:
    assert score(first, first) == 5
    assert score(first, second) == score(second, first)
    assert 0 <= score(first, second) <= 5
    assert (score(first, second) == 5) == (first == second)


@given(meanings, st.integers(0, 100), st.sampled_from(LANGUAGES))
@settings(max_examples=200, deadline=None)
def test_entailment_rows_say_nothing_that_the_premise_does_not(meaning: Meaning, seed: int, language: str) -> None:
    general = grammar._generalise(meaning, random.Random(seed))
    for slot in ("verb", "number", "negated"):
        assert getattr(general, slot) == getattr(meaning, slot)
    for slot in ("adjective", "place", "time"):
        assert getattr(general, slot) in ("", getattr(meaning, slot))
    for slot in ("agent", "patient"):
        noun = getattr(meaning, slot)
        assert getattr(general, slot) in (noun, lexicon.NOUNS[noun].traits[0])
    text = sentence(general, language=language, rng=random.Random(seed))
    assert re.fullmatch(r"\S+( \S+)+\.", text), text
    assert text[0].isupper()
    assert "\t" not in text


def test_scores_by_hand() -> None:
    base = Meaning(agent="dog", verb="chase", patient="cat")
    swapped = Meaning(agent="cat", verb="chase", patient="dog")
    assert score(base, swapped) == pytest.approx(5 * (0.5 + 1 + 0.5) / 3)  # both are animals
    assert score(base, Meaning(agent="dog", verb="chase", patient="cat", negated=True)) == 2.5
    car = Meaning(agent="woman", verb="buy", patient="car", adjective="red", place="market")
    bicycle = Meaning(agent="woman", verb="buy", patient="bicycle", adjective="red", number=2)
    assert score(car, bicycle) == pytest.approx(5 * (1 + 1 + 0.5 + 0.5) / (1 + 1 + 1 + 0.5 + 0.5 + 0.5))
    other = Meaning(agent="man", verb="sell", patient="apple")
    assert score(Meaning(agent="dog", verb="see", patient="cat"), other) == 0


def overlap(row: GradedRow) -> float:
    one, two = (set(re.findall(r"\w+", text.lower())) for text in row[1:])
    return len(one & two) / len(one | two)


def test_words_in_common_do_not_give_the_score_away() -> None:
    rows = graded_rows(1000)
    same = [overlap(row) for row in rows if row.score == 5]
    other = [overlap(row) for row in rows if row.score <= 3]
    assert sum(each < 0.5 for each in same) >= 20  # one meaning, few words in common
    assert sum(each > 0.7 for each in other) >= 20  # many words in common, another meaning
    assert len({row.score for row in rows}) > 20


@pytest.mark.parametrize(
    ("language", "slots", "expected"),
    [
        ("en", {"number": 1, "adjective": "expensive"}, {"The woman buys an expensive apple."}),
        ("en", {"negated": True}, {"The woman does not buy an apple.", "An apple is not purchased by the lady."}),
        ("fr", {"negated": True}, {"La femme n'achète pas de pomme.", "Une pomme n'est pas achetée par la dame."}),
        ("fr", {"number": 3, "adjective": "white"}, {"Trois pommes blanches sont achetées par la femme."}),
        ("fr", {"agent": "man"}, {"L'homme achète une pomme.", "Une pomme est achetée par l'homme."}),
        ("es", {"number": 2, "adjective": "blue"}, {"La mujer compra dos manzanas azules."}),
        ("es", {"patient": "truck", "number": 2}, {"Dos camiones son adquiridos por la señora."}),
        ("pt", {"number": 2, "adjective": "blue"}, {"Duas maçãs azuis são compradas pela mulher."}),
        ("pt", {"patient": "guitar", "number": 2}, {"A mulher compra dois violões."}),
        ("id", {"number": 2, "adjective": "red"}, {"Dua apel merah dibeli oleh perempuan itu."}),
        ("vi", {"number": 2, "adjective": "red"}, {"Người phụ nữ đó mua hai quả táo màu đỏ."}),
    ],
)
def test_sentences_written_by_hand(language: str, slots: dict[str, object], expected: set[str]) -> None:
    assert expected <= said(language, **({"agent": "woman", "verb": "buy", "patient": "apple"} | slots))


def test_personal_a_of_spanish_and_contractions() -> None:
    assert "La mujer sigue al perro." in said("es", agent="woman", verb="follow", patient="dog")
    assert "El perro sigue a la mujer." in said("es", agent="dog", verb="follow", patient="woman")
    assert "La mujer vende tres documentos." in said("es", agent="woman", verb="sell", patient="document", number=3)
    assert "O gato é seguido pelo cachorro." in said("pt", agent="dog", verb="follow", patient="cat")
    assert not any(
        re.search(r"\b(a el|de un|por o)\b", text) for text in said("es", agent="dog", verb="see", patient="cat")
    )


def test_languages_differ_and_crossed_rows_use_both() -> None:
    samples = {name: {row.sentence1 for row in graded_rows(50, language1=name, language2=name)} for name in LANGUAGES}
    for one, two in combinations(LANGUAGES, 2):
        assert not samples[one] & samples[two]
    row = graded_rows(1, language1="en", language2="vi")[0]
    assert row.sentence1.isascii()
    assert not row.sentence2.isascii()


def test_written_files_have_the_shape_of_the_real_data(tmp_path: Path) -> None:
    files = grammar.write(tmp_path / "one", nli_rows=30, graded_rows=10, languages=["en", "fr"], seed=3)
    again = grammar.write(tmp_path / "two", nli_rows=30, graded_rows=10, languages=["en", "fr"], seed=3)
    names = sorted(str(file.relative_to(tmp_path / "one")) for file in files)
    assert names == [
        "nli/train.en.tsv",
        "nli/train.fr.tsv",
        "sts/grammar.en-en.tsv",
        "sts/grammar.en-fr.tsv",
        "sts/grammar.fr-fr.tsv",
    ]
    assert [file.read_bytes() for file in files] == [file.read_bytes() for file in again]
    for file in files:
        lines = file.read_text(encoding="utf-8").splitlines()
        assert len(lines) == (30 if "nli" in str(file.parent) else 10)
        assert {line.count("\t") for line in lines} == {2}
        assert b"\r" not in file.read_bytes()


def test_what_the_grammar_cannot_write_is_an_error() -> None:
    with pytest.raises(UserError, match=r"languages de: the grammar writes en, fr"):
        nli_rows(1, languages=["de"])
    with pytest.raises(UserError, match="-1 rows"):
        graded_rows(-1)
    assert nli_rows(0) == []


def test_a_supply_that_ends_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    only = Meaning(agent="dog", verb="chase", patient="cat")
    monkeypatch.setattr(grammar, "_draw", lambda rng: only)
    monkeypatch.setattr(grammar, "_is_evaluation", lambda meaning: False)
    with pytest.raises(UserError, match="ask for fewer"):
        nli_rows(2000, languages=["en"])
