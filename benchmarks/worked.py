"""Write the output of the commands that docs/recipe.md shows into it.

python -m benchmarks.worked
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex

from benchmarks import rows
from lacos_st.cli import main as lacos_st

FILE = rows.ROOT / "docs" / "recipe.md"
EXAMPLE = re.compile(r"(<!-- example: lacos-st ([^\n]*) -->\n).*?(<!-- end of example -->)", re.DOTALL)


def output(arguments: str) -> str:
    """What `lacos-st` prints.

    Raises:
        ValueError: it fails.
    """
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        status = lacos_st(shlex.split(arguments))
    if status:
        raise ValueError(f"lacos-st {arguments} failed with status {status}: mend the example in {FILE.name}")
    return text.getvalue()


def rewrite(text: str) -> str:
    """`text` with the output of every example between its markers replaced.

    Raises:
        ValueError: there is no example, or one fails.
    """
    if not EXAMPLE.search(text):
        raise ValueError(f"{FILE.name} lacks the marker lines of an example: put them back")
    return EXAMPLE.sub(
        lambda found: f"{found[1]}\n```\n$ lacos-st {found[2]}\n{output(found[2])}```\n\n{found[3]}", text
    )


def main() -> None:
    """Rewrite docs/recipe.md in place."""
    FILE.write_text(rewrite(FILE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
