"""Rows of graded pairs in a file: score, sentence 1, sentence 2; a malformed one refuses the file."""

from __future__ import annotations

import math
from pathlib import Path

from lacos_st.errors import UserError
from lacos_st.sources import Cells, cells_of, flaw, read_csv, read_lines

Rows = list[tuple[float, str, str]]

SUFFIXES = (".tsv", ".csv")
SHOWN = 10  # malformed rows of a file that a message describes; all are counted


def kind_of(path: Path) -> str | None:
    """Ending `.tsv` or `.csv`, also of a name in capitals or with ".gz" behind; None of other files."""
    name = path.name.lower().removesuffix(".gz")
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)


def stem_of(path: Path) -> str:
    """The name of a file of graded pairs without these endings."""
    return path.name[: path.name.lower().removesuffix(".gz").rindex(".")]


def read_rows(path: Path, *, first_column: int | None, scale: tuple[float, float] | None) -> Rows:
    """Read (score, s1, s2) from the three columns from first_column on.

    A file of an unknown set (first_column None) has just these, or a subset's or genre's name before them; files of
    graded pairs alone (first_column 0) have just three.

    Args:
        path: of a .tsv (no quoting) or .csv (quoted) file, either also as .gz.
        first_column: of the three; None: 0, or 1 in a file of four columns.
        scale: lowest and highest score; None: any finite number.

    Raises:
        UserError: a row is malformed (the message has file and line), or there is none.
    """
    lines = _read_cells(path)
    exact = not first_column
    if first_column is None:
        parsed = next((cells for _, cells in lines if not isinstance(cells, str)), [])
        first_column = 1 if len(parsed) == 4 else 0
    width = first_column + 3
    rows: Rows = []
    problems: list[tuple[int, str]] = []
    for line, cells in lines:
        if isinstance(cells, str):
            problems.append((line, cells))
        elif len(cells) < width or (exact and len(cells) != width):
            problems.append((line, f"{len(cells)} columns, expected {width} ({'..., ' * first_column}score, s1, s2)"))
        elif line == 1 and cells[first_column].strip().lower() == "score":
            continue  # a header
        else:
            score_text, sentence1, sentence2 = cells[first_column:width]
            score, problem = _score(score_text, scale)
            problem = problem or flaw(sentence1) or flaw(sentence2)
            if problem is None:
                rows.append((score, sentence1, sentence2))
            else:
                problems.append((line, problem))
    if problems:
        shown = "; ".join(f"line {line}: {problem}" for line, problem in problems[:SHOWN])
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise UserError(
            f"{path}, {shown}{more} ({len(problems)} malformed, {len(rows)} usable rows): mend them: graded rows are "
            "never left out, as scores over other rows do not compare"
        )
    if not rows:
        raise UserError(f"{path}: no rows; expected lines of score, sentence 1, sentence 2")
    return rows


def _score(text: str, scale: tuple[float, float] | None) -> tuple[float, str | None]:
    """The number in `text`, and what is wrong with it, if anything."""
    low, high = scale or (float("-inf"), float("inf"))
    try:
        score = float(text) if "_" not in text else None  # float() reads "1_5" as 15
    except ValueError:
        score = None
    if score is None:
        return 0.0, f"score {text!r} is not a number"
    if not math.isfinite(score):
        return score, f"score {text!r} is not a finite number"
    if not low <= score <= high:
        return score, f"score {text!r} is not a number between {low:g} and {high:g}"
    return score, None


def _read_cells(path: Path) -> list[tuple[int, list[str] | str]]:
    """Split a tsv at its tabs (no quoting), read a csv with quotes; each row with its 1-based line number.

    Cells are a `str` that says what is wrong where a row could not be parsed. A blank line of a tsv is a row of one
    cell: rows of aligned files are told by their place.
    """
    if kind_of(path) == ".csv":
        return [(line, _as_row(cells)) for line, cells in read_csv(path)]
    return [(line, wrong or cells_of(text)) for line, text, wrong in read_lines(path)]


def _as_row(cells: Cells | str) -> list[str] | str:
    return cells if isinstance(cells, str) else list(cells)
