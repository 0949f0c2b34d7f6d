"""The figures of the documentation are those that their code draws."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytest.importorskip("matplotlib", reason='matplotlib is not installed: pip install "lacos_st[docs]"')
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # for docs, which is not installed

from docs.figures import draw, flat, law, lora  # noqa: E402
from lacos_st.recipe.paper import THRESHOLD_FLOPS  # noqa: E402

PAGE = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")
SMALL_BYTES = 100_000


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("figures")
    draw.draw(folder)
    return folder


def parts(path: Path) -> list[tuple[str, str, list[float]]]:
    """Tags, texts and coordinates in order, without what only a version of matplotlib decides."""
    root = ElementTree.parse(path).getroot()
    for metadata in root.findall("{*}metadata"):
        root.remove(metadata)
    found = []
    for element in root.iter():
        numbers = re.findall(r"-?\d+\.\d+", element.get("d", "") + element.get("transform", ""))
        found.append((element.tag, (element.text or "").strip(), [round(float(number), 1) for number in numbers]))
    return found


@pytest.mark.parametrize("name", draw.FIGURES)
def test_a_figure_is_what_is_drawn_now(name: str, drawn: Path) -> None:
    kept = draw.FOLDER / f"{name}.svg"
    assert parts(kept) == parts(drawn / kept.name), "run `python -m docs.figures`"
    assert f"(assets/figures/{name}.svg)" in PAGE
    assert kept.stat().st_size < SMALL_BYTES
    assert not re.search(r"(?:href|src)=\"https?:", kept.read_text(encoding="utf-8"))


def test_a_changed_figure_is_noticed(drawn: Path, tmp_path: Path) -> None:
    text = (drawn / "flat.svg").read_text(encoding="utf-8")
    (tmp_path / "flat.svg").write_text(text.replace("sentence 3", "sentence 4"), encoding="utf-8")
    assert parts(tmp_path / "flat.svg") != parts(drawn / "flat.svg")


def test_figures_say_what_the_package_does() -> None:
    assert lora.adapted("paper") == {"dense_h_to_4h", "dense_4h_to_h", "word_embeddings"}
    assert lora.adapted("recipe") == lora.adapted("paper") | {"query_key_value", "dense"}
    assert lora.adapted("recipe") <= {name for name, _ in lora.LAYERS} - set(lora.FREE)
    assert len(flat.lengths()) == 5
    assert min(law.BUDGETS) < THRESHOLD_FLOPS < max(law.BUDGETS)
    assert f"{THRESHOLD_FLOPS:.2e}".replace("e+", "e") in PAGE
