"""Which training rows hold a sentence of an evaluation set, whatever its case, spaces and punctuation."""

from __future__ import annotations

import datasets

from lacos_st.overlap import Overlap, find_overlap, normalise, remove_overlap


def test_remove_overlap_looks_at_both_sentences_whatever_case_and_space() -> None:
    pairs = datasets.Dataset.from_dict(
        {"anchor": ["A  cat", "b", "c"], "positive": ["x", "The DOG ", "d"], "id": [1, 2, 3]}
    )
    clean, dropped = remove_overlap(pairs, ["a CAT", "the\tdog", "unused"])
    assert dropped == 2
    assert list(clean) == [{"anchor": "c", "positive": "d", "id": 3}]
    assert remove_overlap(pairs, [])[1] == 0


def test_overlap_is_found_between_raw_and_tokenised_text() -> None:
    tokenised = ["``We did n't ,'' she said .", "A man ( in a hat ) sings .", "\U0001f600 !", "Not there ."]
    pairs = datasets.Dataset.from_dict({"anchor": tokenised, "positive": ["x"] * 4})
    raw = ['"We didn\u2019t," she said.', "A man (in a hat) sings", "\U0001f600!"]
    assert find_overlap(pairs, raw) == Overlap(rows=(0, 1, 2), sentences=3, of=3)
    assert find_overlap(pairs, ["\U0001f600  !", "?"]).rows == (2,)  # without a letter, punctuation is the sentence


def test_overlap_is_found_in_rows_and_in_sentences() -> None:
    pairs = datasets.Dataset.from_dict({"anchor": ["Cafe\u0301", "b", "caf\u00e9"], "positive": ["x", "d", "D"]})
    assert find_overlap(pairs, ["CAF\u00c9", "d", "D ", "unused"]) == Overlap(rows=(0, 1, 2), sentences=2, of=3)
    assert find_overlap(pairs, ["unused"]) == Overlap(rows=(), sentences=0, of=1)
    assert find_overlap(pairs, []) == Overlap(rows=(), sentences=0, of=0)


def test_marks_tell_words_apart_and_widths_do_not() -> None:
    assert normalise("\u0915\u093f") != normalise("\u0915\u0941")  # Hindi ki, ku: the vowels are marks
    assert normalise("\uff21\uff11") == normalise("a 1")
    assert normalise("5 %") == normalise("5")
    assert normalise("?!") == "?!" != normalise("!")
