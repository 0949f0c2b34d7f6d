"""What `mkdocs build` does beside its own work: files that the pages link to outside docs/, and nothing from a network.

Pages are written for whoever reads them in the repository, so they link to `../EXPERIMENTS.md` or an example. For the
site such a file comes along, a page where it is Markdown. The built pages are read once more at the end: whatever a
browser would fetch by itself has to lie in the site.
"""

from __future__ import annotations

import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
OUTSIDE = "repository"
"""The folder of the site for what lies outside docs/."""
LINK = re.compile(r"(?<=\]\()(?!\w+:|#|/)([^)\s#]+)(#[^)\s]*)?(?=\))")
NOT_RUN = re.compile(r"^( *)<!-- not run: (.+?) -->$", re.M)
"""Above a block of code that `tests/test_docs_code.py` only parses: why."""
FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "audio": "src", "video": "src"}
"""What a browser fetches without being asked, besides <link>; a plain link is nothing of the kind."""
RELATIONS = {"canonical", "next", "prev", "alternate"}
"""Of <link>: those that are not fetched."""


def target(file: Path, link: str) -> Path | None:
    """The file that a relative link means, a folder's README.md; None where it is none of this repository's."""
    path = Path(os.path.normpath(file.parent / link))
    path = path / "README.md" if path.is_dir() else path
    return path if path.is_file() and path.is_relative_to(ROOT) else None


def place(file: Path) -> str:
    """Where a file of the repository lies in the site's sources."""
    if file.is_relative_to(DOCS):
        return file.relative_to(DOCS).as_posix()
    inside = file.relative_to(ROOT)
    return f"{OUTSIDE}/{inside.with_name('index.md') if inside.name == 'README.md' else inside}"


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add every file outside docs/ that a page links to, and what those link to in their turn."""
    waiting = [DOCS / file.src_uri for file in files.documentation_pages()]
    seen = set(waiting)
    while waiting:
        file = waiting.pop()
        for link, _ in LINK.findall(file.read_text(encoding="utf-8")) if file.suffix == ".md" else ():
            found = target(file, link)
            if found is None or found in seen:
                continue
            seen.add(found)
            waiting.append(found)
            if not found.is_relative_to(DOCS):
                files.append(File.generated(config, place(found), abs_src_path=str(found)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links at where files lie in the site, and show why a block of code is not run by the tests."""
    file = Path(page.file.abs_src_path or "")

    def pointed(found: re.Match[str]) -> str:
        meant = target(file, found[1])
        if meant is None:
            return found[0]  # mkdocs says what is wrong with it
        return os.path.relpath(place(meant), Path(place(file)).parent) + (found[2] or "")

    shown = NOT_RUN.sub(r'\1<p class="not-run">Not run by the tests: \2</p>\n', markdown)
    return LINK.sub(pointed, shown)


def on_post_build(*, config: MkDocsConfig) -> None:
    """Refuse a site that asks anything of another machine.

    Raises:
        PluginError: names the pages and what they would fetch.
    """
    pages = sorted(Path(config.site_dir).rglob("*.html"))
    found = [
        f"{page.relative_to(config.site_dir)}: {name}" for page in pages for name in foreign(page.read_text("utf-8"))
    ]
    if not pages or found:
        raise PluginError("pages that fetch from the network:\n" + "\n".join(found or ["no page was built"]))


def foreign(html: str) -> list[str]:
    """What a browser that opens this page would fetch from other machines."""
    reader = _Fetched()
    reader.feed(html)
    styles = re.findall(r"(?:url\(|@import)\s*['\"]?((?:https?:)?//[^'\")\s]+)", html)
    return [name for name in [*reader.names, *styles] if re.match(r"(?:https?:)?//", name)]


class _Fetched(HTMLParser):
    """Collects the addresses that a page fetches."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given: dict[str, Any] = dict(attrs)
        if tag == "link" and not set((given.get("rel") or "").split()) & RELATIONS:
            self.names.append(given.get("href") or "")
        elif tag in FETCHED:
            self.names.append(given.get(FETCHED[tag]) or "")
