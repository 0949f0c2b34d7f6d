r"""Training data from hub names, files and folders: positive pairs for LACoS, three-class NLI rows for SBERT.

>>> import pathlib, tempfile
>>> file = pathlib.Path(tempfile.mkdtemp()) / "nli.tsv"
>>> _ = file.write_text("entailment\tA cat naps.\tIt sleeps.\nneutral\tA cat naps.\tIt dreams.\n-1\tA cat.\tA dog.\n")
>>> load_pairs([str(file)])[0]
{'anchor': 'A cat naps.', 'positive': 'It sleeps.'}
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lacos_st.errors import UserError
from lacos_st.negatives import draw_negatives
from lacos_st.nli import (
    CONTRADICTION,
    ENTAILMENT,
    LABEL_NAMES,
    NEUTRAL,
    NOT_A_PAIR,
    Examples,
    OnBadRow,
    Row,
    count_labels,
    read_examples,
)
from lacos_st.sources import open_source

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SourceReport:
    """What one source held; every figure counts rows.

    Attributes:
        source: The source as it was given.
        kind: "nli", "binary", "pairs", or several of them joined by "+".
        files: Files (or splits) read.
        entailment: Entailment rows and positive pairs.
        neutral: Neutral rows.
        contradiction: Contradiction rows.
        not_pairs: Rows of a yes/no label that says no.
        no_gold: Rows left out for want of a gold label.
        bad: Malformed rows left out.
    """

    source: str
    kind: str
    files: int
    entailment: int
    neutral: int
    contradiction: int
    not_pairs: int
    no_gold: int
    bad: int


@dataclass(frozen=True)
class LoadReport:
    """Where a training set came from; every figure counts rows.

    Attributes:
        sources: One report for each source, in the order given.
        duplicates: Rows left out because the same two sentences with the same label had been read before.
        over_limit: Rows left out by `max_rows`.
        rows: Rows of the dataset.
        seed: Seed of the shuffle.
    """

    sources: tuple[SourceReport, ...]
    duplicates: int
    over_limit: int
    rows: int
    seed: int

    def __str__(self) -> str:
        lines = [
            f"{part.source}: {part.kind}, {part.files} file(s), {part.entailment} entailment or pair, {part.neutral} "
            f"neutral, {part.contradiction} contradiction, {part.not_pairs} no pair, left out: {part.no_gold} without "
            f"gold label, {part.bad} malformed"
            for part in self.sources
        ]
        total = f"{self.rows} rows, {self.duplicates} duplicates and {self.over_limit} over the limit left out"
        return "\n".join([*lines, f"{total}, seed {self.seed}"])


def load_pairs(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    seed: int = 0,
    max_rows: int | None = None,
    on_bad_row: OnBadRow = "error",
    hard_negatives: bool = False,
) -> Dataset:
    """Positive pairs for `MultipleNegativesRankingLoss`: the entailment rows of NLI sources, the rows of pair sources.

    The sources are mixed: exact duplicates are removed, the rest is shuffled with `seed`. The report of what was read
    is logged and travels with the dataset: see `describe`.

    Args:
        sources: Files (tsv, csv, jsonl, also .gz; parquet), folders of them, hub names `owner/name:config@split`.
        seed: Seed of the shuffle.
        max_rows: Labelled rows to keep *before* the entailment rows are chosen, so that the same sources, seed and
            `max_rows` give `load_pairs` and `load_nli` the same rows; of three-class NLI about a third are pairs.
        on_bad_row: "error" names file and line of a malformed row; "skip" leaves such rows out and counts them.
        hard_negatives: A third column `negative`: of the same anchor, a contradiction or a sentence of the columns
            negative, negative_1, ...; where there is none, another pair's positive. Drawn with `seed`.

    Returns:
        Dataset with string columns `anchor`, `positive` and, with `hard_negatives`, `negative`.

    Raises:
        UserError: A source cannot be found or read, its columns are unknown, it is empty, holds no entailment row, or
            with `hard_negatives` no negative.
    """
    pairs, negatives = read_pairs(sources, seed=seed, max_rows=max_rows, on_bad_row=on_bad_row)
    return add_negatives(pairs, negatives, seed=seed) if hard_negatives else pairs


def read_pairs(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    seed: int,
    max_rows: int | None = None,
    on_bad_row: OnBadRow = "error",
) -> tuple[Dataset, list[tuple[str, str]]]:
    """As `load_pairs` without hard negatives; and what these can be drawn from, each negative beside its anchor."""
    from datasets import Dataset

    rows, negatives, report = _collect(sources, seed=seed, max_rows=max_rows, on_bad_row=on_bad_row, for_nli=False)
    pairs = [row for row in rows if row[2] == ENTAILMENT]
    if not pairs:
        raise UserError(
            f"no entailment row is among the {len(rows)} rows that max_rows={max_rows} keeps: raise max_rows"
        )
    columns = {"anchor": [row[0] for row in pairs], "positive": [row[1] for row in pairs]}
    return _with_report(Dataset.from_dict(columns), report), negatives


def add_negatives(
    pairs: Dataset, negatives: Sequence[tuple[str, str]], *, seed: int, spare: Sequence[str] | None = None
) -> Dataset:
    """The pairs with a column `negative`; arguments and errors as `draw_negatives`."""
    anchors, positives = list(pairs["anchor"]), list(pairs["positive"])
    drawn = draw_negatives(anchors, positives, negatives, seed=seed, spare=spare)
    return pairs.add_column("negative", drawn)


def load_nli(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    seed: int = 0,
    max_rows: int | None = None,
    on_bad_row: OnBadRow = "error",
) -> Dataset:
    """Three-class NLI rows for the SBERT baseline's softmax objective; arguments as in `load_pairs`.

    Returns:
        Dataset with columns `sentence1` (premise), `sentence2` (hypothesis), `label` (0 entailment, 1 neutral,
        2 contradiction).

    Raises:
        UserError: As `load_pairs`; also where a source holds pairs or yes/no labels, or one of the classes is missing.
    """
    from datasets import Dataset

    rows, _, report = _collect(sources, seed=seed, max_rows=max_rows, on_bad_row=on_bad_row, for_nli=True)
    names = ("sentence1", "sentence2", "label")
    data = Dataset.from_dict({name: [row[place] for row in rows] for place, name in enumerate(names)})
    return _with_report(data, report)


def describe(dataset: Dataset) -> LoadReport | None:
    """The report that `load_pairs` or `load_nli` left in `dataset.info.description`; None if there is none."""
    try:
        values = json.loads(dataset.info.description)["lacos_st"]
        sources = tuple(SourceReport(**part) for part in values.pop("sources"))
        return LoadReport(sources=sources, **values)
    except (ValueError, TypeError, KeyError):
        return None


def _collect(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    seed: int,
    max_rows: int | None,
    on_bad_row: OnBadRow,
    for_nli: bool,
) -> tuple[list[Row], list[tuple[str, str]], LoadReport]:
    """Read, check, de-duplicate, shuffle and cut: shared, so that pairs and NLI rows are the same rows."""
    names = [os.fspath(source) for source in ([sources] if isinstance(sources, str | os.PathLike) else sources)]
    if not names:
        raise UserError("no training data was given: give at least one file, folder or hub name")
    if max_rows is not None and max_rows < 1:
        raise UserError(f"max_rows is {max_rows}: expected a number above zero, or None for all rows")
    if on_bad_row not in ("error", "skip"):
        raise UserError(f"on_bad_row is {on_bad_row!r}: expected 'error' or 'skip'")
    rows: list[Row] = []
    negatives: list[tuple[str, str]] = []
    reports = []
    for name in names:
        parts, report = _read_source(name, on_bad_row=on_bad_row, for_nli=for_nli)
        for part in parts:
            rows.extend(part.rows)
            negatives.extend(part.negatives)
        reports.append(report)
    unique = list(dict.fromkeys(rows))
    _check_classes(unique, names, for_nli=for_nli)
    random.Random(seed).shuffle(unique)
    kept = unique[:max_rows]
    result = LoadReport(
        sources=tuple(reports),
        duplicates=len(rows) - len(unique),
        over_limit=len(unique) - len(kept),
        rows=len(kept),
        seed=seed,
    )
    return kept, negatives, result


def _read_source(name: str, *, on_bad_row: OnBadRow, for_nli: bool) -> tuple[list[Examples], SourceReport]:
    tables = open_source(name)
    parts = [read_examples(table, on_bad_row=on_bad_row) for table in tables]
    for table, part in zip(tables, parts, strict=True):
        if for_nli and part.kind != "nli":
            what = "pairs without labels" if part.kind == "pairs" else "yes/no labels"
            raise UserError(
                f"{table.name} holds {what}: the softmax objective needs NLI rows of three classes "
                "(entailment, neutral, contradiction); train on pairs with method lacos, lora or full"
            )
    counts = count_labels(parts)
    report = SourceReport(
        source=name,
        kind="+".join(sorted({part.kind for part in parts})),
        files=len(parts),
        entailment=counts[ENTAILMENT],
        neutral=counts[NEUTRAL],
        contradiction=counts[CONTRADICTION],
        not_pairs=counts[NOT_A_PAIR],
        no_gold=sum(part.no_gold for part in parts),
        bad=sum(part.bad for part in parts),
    )
    return parts, report


def _check_classes(rows: list[Row], names: list[str], *, for_nli: bool) -> None:
    """Refuse what cannot be trained on: no entailment row; for the softmax objective, a missing class."""
    found = {row[2] for row in rows}
    held = ", ".join((*LABEL_NAMES, "no pair")[label] for label in sorted(found))
    if ENTAILMENT not in found:
        raise UserError(
            f"{', '.join(names)}: {len(rows)} rows without an entailment row (labels found: {held}): "
            "training pairs are the entailment rows; add data that has them"
        )
    if for_nli and len(found) < 3:
        raise UserError(f"{', '.join(names)}: the softmax objective needs three classes, found only: {held}")


def _with_report(data: Dataset, report: LoadReport) -> Dataset:
    report = dataclasses.replace(report, rows=len(data))
    for line in str(report).splitlines():
        logger.info("training data: %s", line)
    data.info.description = json.dumps({"lacos_st": dataclasses.asdict(report)}, ensure_ascii=False)
    return data
