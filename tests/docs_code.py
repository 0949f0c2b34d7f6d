"""The blocks of code in Markdown pages: found, run, or checked where they say that they are not run."""

from __future__ import annotations

import re
import shlex
import textwrap
import tomllib
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from lacos_st.cli import build_parser, main
from lacos_st.commands.sweep import OPTIONS
from lacos_st.recipe.grid import Grid

ROOT = Path(__file__).parents[1]
FENCE = re.compile(
    r"(?:^ *<!-- not run: (?P<reason>[^\n]+?) -->\n+)?^ *```(?P<language>[^\n]*)\n(?P<code>.*?)^ *```$", re.M | re.S
)
DATA = {"json", "yaml"}
RUN = {"python", "sh"}
TEXT = {"", "text"}
PREPARES = {"pip", "make", "export"}
"""What is looked at and never run: it would change the machine."""
EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
TASKS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))


@dataclass(frozen=True)
class Block:
    """One of a page.

    Attributes:
        where: page and line, for a message.
        language: of its fence.
        code: without the fence.
        reason: why it is not run; None where it is.
    """

    where: str
    language: str
    code: str
    reason: str | None


def blocks(text: str, *, name: str = "page") -> list[Block]:
    """All of a page, in order."""
    return [
        Block(
            f"{name}:{text.count(chr(10), 0, found.start()) + 1}",
            found["language"],
            textwrap.dedent(found["code"]),
            found["reason"],
        )
        for found in FENCE.finditer(text)
    ]


def commands(code: str) -> Iterator[list[str]]:
    """The words of each line of a shell block; lines that end in a backslash go on, assignments before a command go."""
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words and re.match(r"\w+=", words[0]):
            words = words[1:]
        if words:
            yield words


def check(block: Block) -> None:
    """Read a block without running it: Python compiles, each command is one that there is.

    Raises:
        AssertionError: it is not; a SyntaxError is raised as it is.
    """
    if block.language == "python":
        compile(block.code, block.where, "exec")
    elif block.language == "sh":
        for words in commands(block.code):
            check_command(words, foreign=block.reason is not None)
    elif block.language in TEXT:
        for line in block.code.splitlines():
            shown = re.split(r"\s{2,}", line.strip())[0]
            if shown.startswith("lacos-st ") and not re.search(r"[\[|]|\.\.\.", shown):
                check_command(shlex.split(shown), foreign=False)
    else:
        assert block.language in DATA, f"a block of {block.language!r}: expected {sorted(RUN | TEXT | DATA)}"


def check_command(words: list[str], *, foreign: bool) -> None:
    """One command: options by the program's parser, extras by pyproject.toml, tasks by the Makefile, modules by files.

    Args:
        words: of the command.
        foreign: whether it may be none of ours.
    """
    if words[0] == "lacos-st" or ("-m", "lacos_st") in zip(words, words[1:], strict=False):
        given = words[1:] if words[0] == "lacos-st" else words[words.index("lacos_st") + 1 :]
        given = given[: given.index(">")] if ">" in given else given
        parsed = build_parser().parse_args(given)
        assert callable(parsed.run)
        if given[0] == "sweep" and parsed.config is None:  # the options that a grid needs are no parser's
            Grid.from_mapping({name: value for name, value in vars(parsed).items() if name in OPTIONS})
    elif words[0] == "pip":
        named = [name for word in words for group in re.findall(r"\[([\w,]+)\]", word) for name in group.split(",")]
        assert set(named) <= EXTRAS, f"{named}: the extras are {sorted(EXTRAS)}"
    elif words[0] == "make":
        assert set(words[1:2]) <= TASKS, f"{words[1:2]}: the tasks are {sorted(TASKS)}"
    elif words[:2] == ["python", "-m"]:
        path = ROOT.joinpath(*words[2].split("."))
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), f"there is no module {words[2]}"
    else:
        assert foreign or words[0] in PREPARES, f"{words[0]} is none of our commands: say why it is not run"


def run(block: Block, names: dict[str, Any]) -> None:
    """Run a block in the working folder.

    Args:
        block: of Python or shell.
        names: what the page's Python has defined so far.

    Raises:
        AssertionError: a command ends with another status than 0.
    """
    check(block)
    if block.language == "python":
        exec(compile(block.code, block.where, "exec"), names)
        return
    for words in commands(block.code):
        if words[0] != "lacos-st":
            continue  # checked above, and not for a test to run
        given, _, target = (words[1:], "", "") if ">" not in words else (words[1 : words.index(">")], ">", words[-1])
        said = StringIO()
        with redirect_stdout(said):
            status = main(given)
        assert status == 0, f"{block.where}: {shlex.join(words)} ended with {status}"
        if target:
            Path(target).write_text(said.getvalue(), encoding="utf-8")
