"""The page of `lacos-st report` in headless Chromium: charts, sorting, theme, sentences, a phone, strangers' texts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vl_convert", reason='vl-convert-python is not installed: pip install "lacos_st[report]"')

import sweeps  # noqa: E402

from html_report.report_parts import EVIL, LAST, OPTION, PLAN, log, results, write_run  # noqa: E402
from lacos_st.html_report.options import ReportOptions  # noqa: E402
from lacos_st.html_report.run import write_report  # noqa: E402
from lacos_st.recipe.law_file import fit_laws  # noqa: E402
from lacos_st.recipe.runs_table import append_run  # noqa: E402

SENTENCES = ["A man plays.", "Un homme joue.", EVIL, *(f"sentence number {place}" for place in range(12))]
NAME = EVIL.replace("/", "")  # a slash would be a path's
BARS, SYMBOLS, LINES = ".mark-rect.role-mark path", ".mark-symbol.role-mark path", ".mark-line.role-mark path"


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two runs, three models' scores, a layer's errors, a plan with its law and runs, and a model's similarities."""
    folder = tmp_path_factory.mktemp("report")
    runs = [write_run(folder / "a", log()), write_run(folder / "b", log(steps=3, last={**LAST, "measured": EVIL}))]
    scored = results(("base", 40.0), (NAME, 50.5), ("c", 39.0), baseline="base")
    errors = {"linear": {"relative_rms": 0.005}, "dynamic": {"relative_rms": 0.009}}
    evil = {**OPTION, "base": EVIL}
    layer = {"name": EVIL, "shape": [4, 4], "blocks": [{"block_size": 4, "errors": errors}]}
    for name, values in (
        ("results.json", scored.to_dict()),
        ("errors.json", {"base": EVIL, "layers": [layer, {**layer, "name": "h.1"}]}),
        ("plan.json", {**PLAN, "why": [EVIL], "plan": evil, "considered": [evil, *PLAN["considered"]]}),
    ):
        (folder / name).write_text(json.dumps(values), encoding="utf-8")
    fitted = sweeps.sweep()
    fit_laws({"full": fitted}, source=EVIL, date="2026-01-02", forms=["ND"], bootstrap=4).save(folder / "law.json")
    for each in fitted:
        append_run(folder / "runs.csv", each)
    (folder / "sentences.txt").write_text("\n".join(SENTENCES), encoding="utf-8")
    files = [str(folder / f"{name}") for name in ("results.json", "errors.json", "plan.json", "law.json", "runs.csv")]
    options = ReportOptions(
        (*runs, *files, "bert-nano"), folder / "page.html", title=EVIL, sentences=folder / "sentences.txt"
    )
    return write_report(options).path


class Opened:
    """The page in a window, with what it said on the console and what it asked of others."""

    def __init__(self, browser: Any, file: Path, *, width: int = 1200, scheme: str = "light") -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.set_default_timeout(120_000)  # of a machine with other work
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(file.as_uri())
        self.page.wait_for_selector("html[data-ready=yes]")

    def count(self, chart: str, marks: str) -> int:
        return int(self.page.locator(f"#chart-{chart} svg {marks}").count())

    def texts(self, selector: str) -> list[str]:
        return list(self.page.locator(selector).all_inner_texts())


@pytest.fixture(scope="module")
def opened(browser: Any, page_file: Path) -> Iterator[Opened]:
    """A wide page, whose parts the tests use one each."""
    opened = Opened(browser, page_file)
    yield opened
    opened.page.close()


@pytest.fixture(scope="module")
def phone(browser: Any, page_file: Path) -> Iterator[Opened]:
    """A narrow page on a system with a dark theme."""
    opened = Opened(browser, page_file, width=360, scheme="dark")
    yield opened
    opened.page.close()


def test_charts_have_a_mark_for_each_figure(opened: Opened, page_file: Path) -> None:
    assert opened.count("scores-0", BARS) == 3 * (3 + 2)  # models; tasks and averages
    assert [opened.count("curve-loss", marks) for marks in (LINES, SYMBOLS)] == [2, 4 + 3]
    assert opened.count("curve-eval_loss", SYMBOLS) == 5 + 4
    assert opened.count("memory", BARS) == 2 * (4 + 1)  # parts predicted, and the measured
    assert opened.count("quantization-0", SYMBOLS) == 2 * 2  # layers, codes
    assert opened.count("choices-0", SYMBOLS) == 3 + 1  # the plan is marked
    assert opened.count("choices-0", ".mark-rule.role-mark line") == 1  # one of them has an interval
    assert opened.count("isoflop-0-full", LINES) == 5 + 5  # the law's and the parabolas
    assert opened.count("isoflop-0-full", SYMBOLS) == len(sweeps.SIZES) * 5 + 5  # measured, and the minima
    assert opened.count("frontier-0", SYMBOLS) == 5
    assert opened.said == []
    assert opened.asked == [page_file.as_uri()], "the page asks for something"


def test_strangers_texts_are_texts(opened: Opened) -> None:
    page = opened.page
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0
    assert page.title() == EVIL
    assert opened.texts("#similarity-chosen li")[2].startswith(EVIL)
    assert NAME in " ".join(opened.texts("#scores-table-0 thead th"))
    page.evaluate("document.querySelector('main').insertAdjacentHTML('beforeend', '<img src=x onerror=hacked=1>')")
    page.wait_for_timeout(50)
    assert page.evaluate("window.hacked") is None, "the policy lets strangers' scripts run"
    refused = [said for said in opened.said if "Content Security Policy" in said]
    assert refused, "the console says what the policy refused"
    opened.said.clear()


def test_tables_sort_and_compare(opened: Opened) -> None:
    page = opened.page
    column = "#runs-table tbody tr > :first-child"
    assert opened.texts(column) == ["a", "b"]
    for wanted in (["a", "b"], ["b", "a"]):  # steps: falling first, then rising
        page.click("#runs-table thead button:text-is('steps')")
        assert opened.texts(column) == wanted
    assert page.get_attribute("#runs-table th:has(button:text-is('steps'))", "aria-sort") == "ascending"
    page.click("#scores-table-0 thead button:text-is('base')")
    assert opened.texts("#scores-table-0 tfoot th") == ["STS-Avg (2)", "xSTS-Avg (1)"], "averages stay below"
    first = "#scores-table-0 tbody tr:first-child td"
    assert opened.texts(first)[:3] == ["41.00", "51.50 (+10.50)", "40.00 (-1.00)"]
    page.select_option("select[data-baseline]", label="c")
    page.select_option("select[data-scores]", "cosine")
    assert opened.texts(first)[:3] == ["40.00 (+1.00)", "50.50 (+11.50)", "39.00"]
    drawn = "[...document.querySelectorAll('#chart-scores-0 .mark-rect.role-mark path')].map(e => e.ariaLabel).join()"
    page.wait_for_function(f"{drawn}.includes('40.00') && !{drawn}.includes('41.00')")


def test_a_phone_does_not_scroll_sideways(phone: Opened) -> None:
    assert phone.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    ends = phone.page.evaluate("[...document.querySelectorAll('.chart svg')].map(e => e.getBoundingClientRect().right)")
    assert len(ends) == 11
    assert max(ends) <= 360
    assert phone.said == []


def test_the_theme_is_the_systems_until_it_is_chosen(phone: Opened) -> None:
    page = phone.page
    colours = """() => [document.body, document.querySelector('#chart-scores-0 .role-axis-label text'),
        document.querySelector('#chart-scores-0 .mark-rect.role-mark path')]
        .map((each, place) => getComputedStyle(each)[place ? 'fill' : 'backgroundColor'])"""
    dark = page.evaluate(colours)
    page.click("#theme")
    page.wait_for_function(f"({colours})()[2] !== {json.dumps(dark[2])}")
    light = page.evaluate(colours)
    assert light[0] == "rgb(255, 255, 255)"
    assert all(one != other for one, other in zip(dark, light, strict=True)), "paper, axis and bars"
    assert phone.count("scores-0", BARS) == 15
    page.reload()
    page.wait_for_selector("html[data-ready=yes][data-theme=light]")
    assert phone.said == []


def test_the_reader_picks_among_what_was_computed(opened: Opened) -> None:
    page = opened.page
    assert opened.count("similarity", BARS) == opened.count("similarity", ".mark-text.role-mark text") == 9 * 9
    page.fill("#similarity-typed", "NUMBER 1")
    assert opened.texts("#similarity-matches button") == ["sentence number 10", "sentence number 11"]
    page.press("#similarity-typed", "Enter")
    assert "pick one" in page.inner_text("#similarity-said")
    page.click("#similarity-matches button >> nth=1")
    page.wait_for_function("document.querySelectorAll('#chart-similarity .mark-rect.role-mark path').length === 100")
    page.fill("#similarity-typed", "Sentence NUMBER 9")
    page.press("#similarity-typed", "Enter")
    page.wait_for_function("document.querySelectorAll('#chart-similarity .mark-rect.role-mark path').length === 121")
    page.fill("#similarity-typed", "sentence number 9")
    assert "is in the map" in page.inner_text("#similarity-said")
    page.fill("#similarity-typed", "a sentence of my own")
    assert "a page without a model cannot compute it" in page.inner_text("#similarity-said")
    page.press("#similarity-typed", "Enter")
    assert len(opened.texts("#similarity-chosen li")) == 11
    page.click("#similarity-chosen li:first-child button:text-is('nearest')")
    data = json.loads(page.locator("#page-data").text_content())["data"]["similarity"]
    nearest = max((value, place) for place, value in enumerate(data["models"][0]["values"][0]) if place != 0)
    assert opened.texts("#similarity-nearest li")[0].endswith(data["sentences"][nearest[1]])
    page.click("#similarity-chosen li:first-child button:text-is('✕')")
    page.wait_for_function("document.querySelectorAll('#chart-similarity .mark-rect.role-mark path').length === 100")
    assert opened.said == []
