"""The page's sentences: read from a file, compared by a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from html_report.report_parts import values
from lacos_st.errors import UserError
from lacos_st.html_report.sentences import MOST, SENTENCES, read_sentences
from lacos_st.html_report.similarity import SHOWN_FIRST, similarities, similarity_section


def test_similarities_are_the_models() -> None:
    from lacos_st.models import load_model

    found = similarities("bert-nano", SENTENCES)
    model = load_model("bert-nano")
    vectors = model.encode(list(SENTENCES))
    np.testing.assert_allclose(found.values, model.similarity(vectors, vectors), atol=6e-5)
    section = similarity_section([found], SENTENCES)
    assert section is not None
    cells = values(section.charts["similarity"])
    assert len(cells) == SHOWN_FIRST**2
    assert [cell["value"] for cell in cells[:SHOWN_FIRST]] == found.values[0][:SHOWN_FIRST]
    assert (cells[1]["a"], cells[1]["b"]) == SENTENCES[:2]
    assert similarity_section([], SENTENCES) is None


def test_sentences_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("one\n\n two \none\n", encoding="utf-8")
    assert read_sentences(file) == ["one", "two"]
    assert read_sentences(None) == list(SENTENCES)
    for text in ("one", "\n".join(str(number) for number in range(MOST + 1))):
        file.write_text(text)
        with pytest.raises(UserError, match=f"expected 2 to {MOST}"):
            read_sentences(file)
    with pytest.raises(UserError, match="cannot be read"):
        read_sentences(tmp_path / "gone.txt")
