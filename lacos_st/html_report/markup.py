"""HTML whose texts are escaped where they come in: a `str` is a text, only `Html` is markup."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
from typing import Any


class Html(str):
    """Markup that is safe as it is."""

    __slots__ = ()


def join(parts: Iterable[str]) -> Html:
    """Parts one after another; those that are not `Html` are escaped."""
    return Html("".join(part if isinstance(part, Html) else html.escape(part) for part in parts))


def tag(name: str, *parts: str, **attributes: str | int | float | bool | None) -> Html:
    """An element; what stands in it and in its attributes is escaped unless it is `Html`.

    Args:
        name: of the element.
        *parts: of its content.
        **attributes: `class_` is "class" and `data_sort` "data-sort"; True stands alone, False and None are left out.

    >>> tag("td", "a < b", class_="number")
    '<td class="number">a &lt; b</td>'
    """
    shown = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        shown.append(f" {key}" if value is True else f' {key}="{html.escape(str(value))}"')
    return Html(f"<{name}{''.join(shown)}>{join(parts)}</{name}>")


def paragraphs(lines: Iterable[str], *, class_: str | None = None) -> Html:
    """A paragraph each."""
    return join(tag("p", line, class_=class_) for line in lines)


def bullets(lines: Iterable[str]) -> Html:
    """A list; nothing where there is nothing."""
    items = [tag("li", line) for line in lines]
    return tag("ul", *items) if items else Html("")


def script_json(value: Any) -> Html:
    """JSON that no text in it can leave the script element of: `<`, `>` and `&` as escapes of JSON.

    Raises:
        ValueError: a number that is not finite.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Html(text)
