"""What the columns of a table mean: NLI rows, paraphrase rows with a yes/no label, or plain pairs."""

from __future__ import annotations

import logging
import re
from collections import Counter
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal

from lacos_st.errors import UserError
from lacos_st.sources import NO_GOLD, Cells, Table, flaw

logger = logging.getLogger(__name__)

ENTAILMENT, NEUTRAL, CONTRADICTION = 0, 1, 2
NOT_A_PAIR = 3  # a yes/no label that says no: neither a pair nor one of the three classes
LABEL_NAMES = ("entailment", "neutral", "contradiction")

OnBadRow = Literal["error", "skip"]
Kind = Literal["nli", "binary", "pairs"]
Row = tuple[str, str, int]

_PAIR_COLUMNS = (
    ("premise", "hypothesis"),
    ("anchor", "positive"),
    ("sentence1", "sentence2"),
    ("sentence_1", "sentence_2"),
    ("sentence_a", "sentence_b"),
    ("question1", "question2"),
    ("text1", "text2"),
    ("s1", "s2"),
    ("query", "positive"),
    ("query", "answer"),
    ("question", "answer"),
    ("english", "non_english"),
)
_LABEL_COLUMNS = ("gold_label", "label", "labels", "entailment_label", "entailment_judgment", "is_duplicate")
_SCORE_COLUMNS = ("score", "similarity_score", "relatedness_score", "similarity")
_NLI_WORDS = {"entailment": 0, "neutral": 1, "contradiction": 2, "e": 0, "n": 1, "c": 2}
_YES = ("equivalent", "duplicate", "paraphrase")
_BINARY_WORDS = {word: ENTAILMENT for word in (*_YES, "true")} | {
    word: NOT_A_PAIR for word in (*(f"not_{yes}" for yes in _YES), "not_entailment", "false")
}
_NUMBERS = {"0": 0, "1": 1, "2": 2, "0.0": 0, "1.0": 1, "2.0": 2}  # 1.0: what pandas makes of integers beside NaN
_NEGATIVE = re.compile(r"negative(_\d+)?")
_NO_GOLD = (NO_GOLD, "-1", "-1.0")
SHOWN = 10  # malformed rows of a file that a message describes; all are counted
_LABELS = frozenset((*_NLI_WORDS, *_BINARY_WORDS, *_NUMBERS, *_NO_GOLD))


@dataclass
class Examples:
    """The usable rows of one table, and what was left out.

    Attributes:
        kind: "nli" (three classes), "binary" (same meaning or not) or "pairs" (no label: every row is a pair).
        rows: (first sentence, second sentence, label): 0 entailment or pair, 1 neutral, 2 contradiction, 3 no pair.
        negatives: (first sentence, a sentence that does not mean the same): contradictions, and the columns negative,
            negative_1, negative_2, ... of pairs.
        no_gold: Rows left out because they have no gold label ("-" or -1).
        bad: Malformed rows left out (`on_bad_row="skip"`).
    """

    kind: Kind
    rows: list[Row] = field(default_factory=list)
    negatives: list[tuple[str, str]] = field(default_factory=list)
    no_gold: int = 0
    bad: int = 0


@dataclass(frozen=True)
class _Layout:
    first: Any
    second: Any
    label: Any = None
    width: int | None = None  # cells a row must have; None for rows with names
    header: Cells | None = None  # the row of names
    is_nli: bool = False  # the column names leave no doubt
    takes_negatives: bool = False
    negatives: tuple[int, ...] = ()  # their places in rows without names; those with names may each have others


class _UnknownColumns(UserError):
    """A row that says nothing of what its columns mean."""


def read_examples(table: Table, *, on_bad_row: OnBadRow = "error") -> Examples:
    """Recognise the columns of `table` and read its rows.

    Column names are recognised in any case (premise/hypothesis, sentence1/sentence2, anchor/positive, ... with label or
    gold_label). Without names, two columns are a pair and three are label, premise, hypothesis (or the label last).
    Labels are words (entailment, neutral, contradiction; e, n, c) or 0, 1, 2 in that order. Numbers that are only ever
    0 and 1, under columns that do not say NLI, are yes/no paraphrase labels (1: same meaning), as in MRPC and PAWS.

    Malformed rows are counted and the first of them named, with line and reason: in the error, or in a warning.

    Raises:
        UserError: The columns cannot be recognised, there is no row, or (`on_bad_row="error"`) a row is malformed.
    """
    layout: _Layout | None = None
    unknown: dict[Any, UserError] = {}
    found: list[tuple[str, str, str]] = []
    problems: list[tuple[int, str]] = []
    negatives: list[tuple[str, str]] = []
    no_gold = 0
    for number, cells in table.rows:
        problem = cells if isinstance(cells, str) else None
        if problem is None and not isinstance(cells, str):
            if layout is None:
                try:
                    layout = _recognise(table.name, cells)
                except _UnknownColumns as error:
                    if on_bad_row == "error":
                        raise
                    unknown.setdefault(_shape(cells), error)
                    problems.append((number, "columns whose meaning is unknown"))
                    continue
                if _shape(cells) in unknown:  # the rows before were no exception, but what the table is like
                    raise unknown[_shape(cells)]
                if layout.header is not None:
                    continue
            first, second, label = _take(layout, cells)
            if label in _NO_GOLD:
                no_gold += 1
                continue
            problem = _problem(layout, cells, first, second, label)
        if problem is None:
            assert layout is not None  # else the row is none
            found.append((first.strip(), second.strip(), label))
            negatives += [(first.strip(), text.strip()) for text in _negatives(layout, cells)]
        else:
            problems.append((number, problem))
    if layout is None and unknown:
        raise next(iter(unknown.values()))
    _tell(table, problems, usable=len(found), on_bad_row=on_bad_row)
    if not found or layout is None:
        raise UserError(
            f"{table.name} holds no usable row ({len(problems)} malformed, {no_gold} without a gold label): "
            "expected pairs or NLI rows"
        )
    kind, codes = _scheme(table.name, layout, {row[2] for row in found})
    rows = [(first, second, codes[label]) for first, second, label in found]
    negatives += [(first, second) for first, second, label in rows if label == CONTRADICTION]
    return Examples(kind=kind, rows=rows, negatives=negatives, no_gold=no_gold, bad=len(problems))


def _tell(table: Table, problems: list[tuple[int, str]], *, usable: int, on_bad_row: OnBadRow) -> None:
    """Refuse the malformed rows of a table, or say which are left out: never neither."""
    if not problems:
        return
    shown = "; ".join(f"{table.unit} {number}: {problem}" for number, problem in problems[:SHOWN])
    more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    if on_bad_row == "error":
        raise UserError(
            f"{table.name}, {shown}{more} ({len(problems)} malformed, {usable} usable rows): mend them, or leave such "
            'rows out with --on-bad-row skip, in Python on_bad_row="skip"'
        )
    logger.warning("%s: %d malformed rows left out, %d usable: %s%s", table.name, len(problems), usable, shown, more)


def _recognise(name: str, cells: Cells) -> _Layout:
    if isinstance(cells, dict):
        keys = {str(key).strip().lower(): key for key in cells}
        if layout := _by_name(name, keys, None):
            return layout
        texts = [key for key, value in cells.items() if isinstance(value, str)]
        if len(texts) == 2 == len(cells):
            return _Layout(texts[0], texts[1])
        raise _UnknownColumns(f"{name} has the columns {', '.join(map(str, cells))}: {_EXPECTED}")
    places = {str(cell).strip().lower(): place for place, cell in enumerate(cells)}
    if layout := _by_name(name, places, cells):
        return layout
    if len(cells) == 1:
        raise _UnknownColumns(f"{name} has one column (first row: {str(cells[0])[:60]!r}): {_EXPECTED}")
    if len(cells) == 2:
        if all(str(cell).isidentifier() and str(cell).isascii() for cell in cells):
            logger.warning(
                "%s: the first row, %s, was read as a pair; if it is a header, name its columns anchor and positive",
                name,
                " / ".join(map(str, cells)),
            )
        return _Layout(0, 1, None, 2)
    if len(cells) == 3 and _label(cells[0]) in _LABELS:
        return _Layout(1, 2, 0, 3)
    if len(cells) == 3 and _label(cells[2]) in _LABELS:
        return _Layout(0, 1, 2, 3)
    start = " | ".join(str(cell)[:30] for cell in cells[:4])
    raise _UnknownColumns(f"{name} has {len(cells)} columns whose meaning is unknown (first row: {start}): {_EXPECTED}")


_EXPECTED = (
    "expected a pair (two columns, or columns named anchor and positive) or NLI rows (label, premise, hypothesis, "
    "or columns of these names); a file with other columns needs a header that names them so"
)


def _by_name(name: str, keys: dict[str, Any], header: Cells | None) -> _Layout | None:
    """The layout by column names; None where they are not names that we know."""
    pair = next((pair for pair in _PAIR_COLUMNS if pair[0] in keys and pair[1] in keys), None)
    if pair is None:
        return None
    first, second = keys[pair[0]], keys[pair[1]]
    for column in (*pair, *_LABEL_COLUMNS):
        if header is not None and sum(_label(cell) == column for cell in header) > 1:
            raise UserError(f"{name} has two columns {column}: which one is meant? rename the other")
    width = None if header is None else len(header)
    label = next((keys[key] for key in _LABEL_COLUMNS if key in keys), None)
    if label is None and pair[0] == "premise":
        raise UserError(
            f"{name} has premise and hypothesis but no label column: add a column label, or name them "
            "anchor and positive if every row is an entailment"
        )
    if label is None and any(key in keys for key in _SCORE_COLUMNS):
        raise UserError(
            f"{name} holds graded pairs (a column of scores): they are evaluation data; training needs "
            "NLI rows or positive pairs; leave the column out if every row is such a pair"
        )
    if pair[1] != "positive":
        return _Layout(first, second, label, width, header, is_nli=pair[0] == "premise")
    places = () if header is None else tuple(key for column, key in keys.items() if _NEGATIVE.fullmatch(column))
    return _Layout(first, second, label, width, header, takes_negatives=True, negatives=places)


def _shape(cells: Cells) -> Any:
    """What rows of one table have in common: names, or how many cells."""
    return frozenset(cells) if isinstance(cells, dict) else len(cells)


def _label(value: Any) -> str:
    return str(value).strip().lower()


def _take(layout: _Layout, cells: Cells) -> tuple[Any, Any, str]:
    def cell(key: Any) -> Any:
        if isinstance(cells, dict):
            return cells.get(key)
        return cells[key] if isinstance(key, int) and key < len(cells) else None

    return cell(layout.first), cell(layout.second), "" if layout.label is None else _label(cell(layout.label))


def _negatives(layout: _Layout, cells: Cells) -> list[Any]:
    """The cells of a row's negatives; a row with names may lack them, or have null."""
    if not isinstance(cells, dict):
        return [cells[place] for place in layout.negatives]
    if not layout.takes_negatives:
        return []
    named = ((_label(key), text) for key, text in cells.items() if text is not None)
    return [text for key, text in named if _NEGATIVE.fullmatch(key)]


def _problem(layout: _Layout, cells: Cells, first: Any, second: Any, label: str) -> str | None:
    """What is wrong with a row, or None."""
    if isinstance(cells, dict) != (layout.width is None):
        return "a JSON list among objects, or an object among lists"
    if layout.width is not None and len(cells) != layout.width:
        return f"{len(cells)} columns where the first row has {layout.width}"
    if layout.header is not None and cells == layout.header:
        return "the header again (were files joined?)"
    if isinstance(cells, dict) and (lacking := [key for key in (layout.first, layout.second) if key not in cells]):
        return f"no {lacking[0]}"
    if isinstance(cells, dict) and layout.label is None and (more := _says_more(cells)):
        return f"a column {more} that the first row does not have: name it in every row, or in none"
    texts = (first, second, *_negatives(layout, cells))
    if (wrong := next(filter(None, map(flaw, texts)), None)) is not None:
        return wrong
    if layout.label is not None and label not in _LABELS:
        return f"label {label!r:.60} is none of {', '.join(LABEL_NAMES)}, e, n, c, 0, 1, 2 (or - for no gold label)"
    return None


def _says_more(cells: dict[Any, Any]) -> str | None:
    """A column that is filled and tells that a row may be no positive pair."""
    filled = {_label(key) for key, value in cells.items() if value is not None}
    return next((column for column in (*_LABEL_COLUMNS, *_SCORE_COLUMNS) if column in filled), None)


def _scheme(name: str, layout: _Layout, labels: set[str]) -> tuple[Kind, dict[str, int]]:
    """What each label of a whole table stands for; it takes all of them to tell 0/1 from 0/1/2."""
    if layout.label is None:
        return "pairs", {"": ENTAILMENT}
    words = labels - set(_NUMBERS)
    if words and words != labels:
        mixed = ", ".join(sorted(labels))
        raise UserError(f"{name} mixes words and numbers as labels ({mixed}): write one kind")
    if words:
        codes = _NLI_WORDS | _BINARY_WORDS
        return ("binary" if words & set(_BINARY_WORDS) else "nli"), {label: codes[label] for label in words}
    codes = {label: _NUMBERS[label] for label in labels}
    if layout.is_nli or CONTRADICTION in codes.values():
        return "nli", codes
    logger.warning(
        "%s: the labels are only 0 and 1, so they were read as yes/no (1: same meaning); write NLI labels as "
        "words if they are NLI",
        name,
    )
    return "binary", {label: ENTAILMENT if code == 1 else NOT_A_PAIR for label, code in codes.items()}


def count_labels(examples: list[Examples]) -> Counter[int]:
    """How many rows carry each label, over several tables."""
    return Counter(label for _, _, label in chain.from_iterable(part.rows for part in examples))
