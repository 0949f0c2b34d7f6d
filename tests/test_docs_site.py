"""The documentation as a site: links out of docs/ come along, nothing is fetched from a network, pages fit a phone."""

from __future__ import annotations

import functools
import http.server
import re
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mkdocs", reason='mkdocs is not installed: pip install "lacos_st[docs]"')
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # for docs, which is not installed

from mkdocs.commands.build import build  # noqa: E402
from mkdocs.config import load_config  # noqa: E402
from mkdocs.exceptions import PluginError  # noqa: E402

import lacos_st  # noqa: E402
from docs import hooks  # noqa: E402


@pytest.mark.parametrize(
    ("html", "fetched"),
    [
        ('<script src="https://cdn.example/x.js"></script>', ["https://cdn.example/x.js"]),
        ('<link rel="stylesheet" href="//fonts.example/css">', ["//fonts.example/css"]),
        ('<link rel="preconnect" href="https://fonts.example">', ["https://fonts.example"]),
        ('<img src="http://example/x.png"/>', ["http://example/x.png"]),
        ("<style>@import url('https://example/a.css'); b { background: url(//example/b) }</style>", None),
        ('<a href="https://example">a link</a><script src="assets/x.js"></script>', []),
        ('<link rel="canonical" href="https://example/"><link rel="icon" href="assets/favicon.png">', []),
    ],
)
def test_what_a_page_fetches_from_elsewhere_is_found(html: str, fetched: list[str] | None) -> None:
    assert hooks.foreign(html) == (["https://example/a.css", "//example/b"] if fetched is None else fetched)


def test_a_site_that_asks_other_machines_is_refused(tmp_path: Path) -> None:
    config: Any = {"site_dir": str(tmp_path)}
    settings = type("Config", (), config)()
    with pytest.raises(PluginError, match="no page was built"):
        hooks.on_post_build(config=settings)
    (tmp_path / "good.html").write_text("<p>text</p>")
    hooks.on_post_build(config=settings)
    (tmp_path / "bad.html").write_text('<script src="https://cdn.example/x.js"></script>')
    with pytest.raises(PluginError, match=r"bad\.html: https://cdn\.example"):
        hooks.on_post_build(config=settings)


def test_links_out_of_the_pages_are_places_in_the_site() -> None:
    assert hooks.target(ROOT / "docs" / "a.md", "../EXPERIMENTS.md") == ROOT / "EXPERIMENTS.md"
    assert hooks.target(ROOT / "docs" / "a.md", "../benchmarks/paper") == ROOT / "benchmarks/paper/README.md"
    assert hooks.target(ROOT / "docs" / "a.md", "../../secret") is None
    assert hooks.target(ROOT / "docs" / "a.md", "nowhere.md") is None
    assert hooks.place(ROOT / "docs" / "x.md") == "x.md"
    assert hooks.place(ROOT / "README.md") == "repository/index.md"
    assert hooks.place(ROOT / "examples" / "train_slurm.sh") == "repository/examples/train_slurm.sh"


def test_every_page_is_in_the_navigation_and_every_export_in_the_reference() -> None:
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = re.findall(r"([\w-]+\.md)$", config, re.M)
    assert sorted(named) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))
    reference = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    shown = {name.rpartition(".")[2] for name in re.findall(r"^::: ([\w.]+)$", reference, re.M)}
    assert set(lacos_st.__all__) <= shown


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the built site, on the loopback."""
    folder = tmp_path_factory.mktemp("site")
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of mkdocs and its plugins
def test_pages_open_in_a_browser(site: str, browser: Any) -> None:
    asked: list[str] = []
    errors: list[str] = []
    with urllib.request.urlopen(f"{site}bloom-7b1.html") as answer:
        assert "Not run by the tests: the base is 14 GB" in answer.read().decode()
    with urllib.request.urlopen(f"{site}repository/examples/train_ray.py") as answer:
        assert answer.status == 200, "a file that a page links to has to come along"
    phone = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme="dark")
    phone.set_default_timeout(120_000)  # a loaded machine takes its time
    phone.on("request", lambda request: asked.append(request.url))
    phone.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    phone.on("pageerror", lambda error: errors.append(str(error)))
    for name in ("concepts", "repository/index"):
        phone.goto(f"{site}{name}.html")
        assert phone.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} scrolls sideways"
        assert phone.evaluate("document.body.dataset.mdColorScheme") == "slate"
        pictures = "[...document.querySelectorAll('article img')].every(image => image.complete && image.naturalWidth)"
        phone.wait_for_function(pictures)
    assert errors == []
    assert [url for url in asked if not url.startswith((site, "data:"))] == []
