"""Sections put together as one HTML file: styles, data, scripts and the chart library in it, no way to a network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from string import Template

from lacos_st.errors import UserError
from lacos_st.html_report.charts import DARK, LIGHT
from lacos_st.html_report.markup import Html, bullets, join, script_json, tag
from lacos_st.html_report.section import Section

FOLDER = Path(__file__).parent
SCRIPTS = ("page.js", "similarity.js")
EXPOSED = "window.vegaEmbed=vegaEmbed;"
"""Of the library's bundle: it holds Vega and Vega-Lite, whose own names vl-convert 1.9 leaves null."""


@cache
def library() -> str:
    """Vega-Embed, with Vega and Vega-Lite, as one script.

    Raises:
        UserError: vl-convert is not installed.
    """
    try:
        import vl_convert
    except ImportError as error:
        raise UserError("vl-convert-python is not installed: pip install 'lacos_st[report]'") from error
    return f"(() => {{{vl_convert.javascript_bundle(EXPOSED)}}})();"  # its own names stay its own


def assemble(title: str, sections: Sequence[Section], *, left_out: Sequence[str], footer: str) -> str:
    """The page.

    Args:
        title: of it.
        sections: in their order.
        left_out: what is not shown and why, sentences.
        footer: where it comes from, a sentence.

    Raises:
        UserError: the chart library is not installed.
        ValueError: a number of a chart is not finite.
    """
    scripts = [library(), *((FOLDER / name).read_text(encoding="utf-8") for name in SCRIPTS)]
    data = {
        "charts": {name: spec for section in sections for name, spec in section.charts.items()},
        "data": {name: value for section in sections for name, value in section.data.items()},
        "colours": {"light": LIGHT, "dark": DARK},
    }
    return Template((FOLDER / "page.html").read_text(encoding="utf-8")).substitute(
        policy=_policy(scripts),
        title=join([title]),
        style=(FOLDER / "page.css").read_text(encoding="utf-8"),
        links=join(tag("a", section.title, href=f"#{section.name}") for section in sections),
        sections=join(_section(section) for section in sections),
        left_out=tag("section", tag("h2", "Left out"), bullets(left_out), id="left-out") if left_out else "",
        footer=join([footer]),
        data=script_json(data),
        scripts="\n".join(f"<script>{_inline(script)}</script>" for script in scripts),
    )


def _section(section: Section) -> Html:
    heading = tag("h2", section.title, id=f"{section.name}-title")
    return tag("section", heading, section.body, id=section.name, aria_labelledby=f"{section.name}-title")


def _policy(scripts: Sequence[str]) -> str:
    """Nothing is fetched, and no script runs but these: a text that came in as markup would do nothing.

    Vega compiles its expressions, which is 'unsafe-eval'; it and the page's script set styles of elements.
    """
    hashes = " ".join(f"'sha256-{_sha256(_inline(script))}'" for script in scripts)
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-eval' {hashes}"


def _inline(script: str) -> str:
    """A script that its element holds to its end."""
    if "</script" in script.lower() or "<!--" in script:
        script = script.replace("</script", "<\\/script").replace("<!--", "<\\!--")
    return script


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
