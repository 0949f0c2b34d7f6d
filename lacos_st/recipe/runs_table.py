"""The table of a sweep's runs: a CSV file, one row per run, that the sweep appends to and the laws are fitted on."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lacos_st.errors import UserError

METHODS = ("full", "freeze", "bias", "lora", "lacos")
"""Whose losses can be compared: sbert's is another one."""
COLUMNS = {
    "family": "family",
    "N": "parameters",
    "N_F": "forward",
    "N_B": "backward",
    "N_U": "updated",
    "D": "tokens",
    "method": "method",
    "setting": "setting",
    "S": "trainable",
    "budget_flops": "budget_flops",
    "loss": "loss",
    "sts_dev": "sts_dev",
    "seconds": "seconds",
    "seed": "seed",
    "commit": "commit",
    "reached": "reached",
}
"""Names of the columns, the paper's where it has one, and the fields of `Run` that they hold."""
COUNTS = ("N", "N_F", "N_B", "N_U", "seed")
OPTIONAL = ("sts_dev", "seconds")
YES, NO = "yes", "no"

S_TOLERANCE = 0.01
COST_TOLERANCE = 1.5
"""By which factor 2·(N_F + N_B + N_U)·D may miss the budget. Whole steps and attention do; tokens of one side of the
pairs miss it by 2."""


@dataclass(frozen=True)
class Run:
    """One run; counts of parameters are without the token embedding.

    Attributes:
        family: the ladder of models it belongs to: one tokenizer, one pretraining.
        parameters: of the base, the papers' N.
        forward: N_F, those that take part in the forward pass, adapters included.
        backward: N_B, those that a gradient flows back through.
        updated: N_U, those that are trained.
        tokens: D, trained on, both sides of the pairs.
        method: one of `METHODS`.
        setting: what else was chosen, see `show_setting`.
        budget_flops: that it belongs to; the runs of an IsoFLOP line share it to the digit.
        loss: on held-out pairs; None where there is none.
        sts_dev: Spearman x100 on the development set, where it was measured.
        seconds: of training, where they were measured.
        seed: of the run.
        commit: of the code that ran.
        reached: whether the budget was: a run that had too little data for it is recorded and never fitted.
    """

    family: str
    parameters: int
    forward: int
    backward: int
    updated: int
    tokens: float
    method: str
    setting: str
    budget_flops: float
    loss: float | None
    sts_dev: float | None
    seconds: float | None
    seed: int
    commit: str
    reached: bool = True

    @property
    def trainable(self) -> float:
        """S, the trainable fraction: N_U / N_F."""
        return self.updated / self.forward

    @property
    def flops_per_token(self) -> float:
        """Of training, as the paper counts: 2·N_F + 2·N_B + 2·N_U."""
        return 2.0 * (self.forward + self.backward + self.updated)

    @property
    def key(self) -> tuple[str, int, str, str, float, int]:
        """What tells a run from all others of its table."""
        return self.family, self.parameters, self.method, self.setting, self.budget_flops, self.seed


def show_setting(values: Mapping[str, float | str]) -> str:
    """A setting as the table has it, sorted by name.

    >>> show_setting({"rank": 8, "lr": 1e-3})
    'lr=0.001 rank=8'
    """
    return " ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in sorted(values.items())
    )


def read_setting(text: str) -> dict[str, float]:
    """The numbers of a setting.

    >>> read_setting("lr=0.001 rank=8")
    {'lr': 0.001, 'rank': 8.0}

    Raises:
        UserError: it is not made of name=number.
    """
    try:
        return {name: float(value) for name, value in (part.split("=") for part in text.split())}
    except ValueError as error:
        raise UserError(
            f"the setting {text!r} cannot be read: expected name=number, such as 'lr=0.001 rank=8'"
        ) from error


def read_runs(path: str | Path) -> list[Run]:
    """All runs of a table, those that did not reach their budget included; other columns are left out.

    Args:
        path: a CSV file, comma-separated, in UTF-8, whose first line names the columns of `COLUMNS`.

    Raises:
        UserError: no such file, no such column, a cell that cannot be (NaN, no number, no loss of a run that is to be
            fitted), counts that contradict each other, or a run that stands there twice; with file and line.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): expected a CSV file of runs") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: expected a CSV file of runs") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    runs: list[Run] = []
    lines: dict[Any, int] = {}
    try:
        header = next(reader, [])
        _check_header(header, path)
        for cells in reader:
            if not cells:
                continue
            where = f"{path}, line {reader.line_num}"
            if len(cells) != len(header):
                raise UserError(
                    f"{where}: {len(cells)} cells, but {len(header)} columns: a line that was not written to its end? "
                    "Mend or delete it"
                )
            run = _run(dict(zip(header, cells, strict=True)), where)
            if (first := lines.setdefault(run.key, reader.line_num)) != reader.line_num:
                raise UserError(f"{where}: the same run as line {first} ({_describe(run)}): delete one of them")
            runs.append(run)
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: no CSV ({error}): mend or delete the line") from error
    return runs


def _check_header(header: Sequence[str], path: Path) -> None:
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise UserError(
            f"{path}, line 1: there is no column {', '.join(missing)} (found: {', '.join(header) or 'nothing'}): "
            f"expected a comma-separated table with the columns {', '.join(COLUMNS)}"
        )


def _run(row: Mapping[str, str], where: str) -> Run:
    values: dict[str, Any] = {}
    for column, field in COLUMNS.items():
        cell = row[column].strip()
        if column == "reached":
            if cell not in (YES, NO):
                raise UserError(f"{where}: reached is {cell!r}: expected {YES} or {NO}")
            values[field] = cell == YES
        elif column in ("setting", "commit"):
            values[field] = cell
        elif column in ("family", "method"):
            if not cell or (column == "method" and cell not in METHODS):
                wanted = ", ".join(METHODS) if column == "method" else "a name"
                raise UserError(f"{where}: {column} is {cell!r}: expected {wanted}")
            values[field] = cell
        else:
            empty = not cell and (column in OPTIONAL or (column == "loss" and row["reached"].strip() == NO))
            values[field] = None if empty else _number(cell, column, where, fitted=row["reached"].strip() == YES)
    share = values.pop("trainable")
    run = Run(**values)
    if abs(share - run.trainable) > S_TOLERANCE * run.trainable:
        raise UserError(f"{where}: S is {share:g}, but N_U / N_F is {run.trainable:g}: mend the one that is wrong")
    cost = run.flops_per_token * run.tokens
    if run.reached and not 1 / COST_TOLERANCE <= cost / run.budget_flops <= COST_TOLERANCE:
        raise UserError(
            f"{where}: 2·(N_F + N_B + N_U)·D is {cost:.3g} FLOP, but budget_flops is {run.budget_flops:.3g}: D counts "
            f"the tokens of both sides of the pairs; a run that did not use up its budget has reached={NO}"
        )
    return run


def _number(cell: str, column: str, where: str, *, fitted: bool) -> float | int | None:
    try:
        value = float(cell)
    except ValueError:
        raise UserError(f"{where}: {column} is {cell!r}: expected a number") from None
    if not math.isfinite(value):
        if column == "loss" and not fitted:
            return None
        advice = f": a run that diverged is no point of a law: delete the line, or set reached to {NO}"
        raise UserError(f"{where}: {column} is {cell}{advice if column == 'loss' else ': expected a finite number'}")
    if value < 0 and column != "sts_dev" or value == 0 and column not in ("sts_dev", "seconds", "seed"):
        raise UserError(f"{where}: {column} is {cell}: expected a number above 0")
    if column in COUNTS:
        if value != int(value):
            raise UserError(f"{where}: {column} is {cell}: expected a whole number")
        return int(value)
    return value


def _describe(run: Run) -> str:
    return f"{run.method} {run.setting}, N={run.parameters}, {run.budget_flops:g} FLOP, seed {run.seed}"


def append_run(path: str | Path, run: Run) -> None:
    """Add a run to a table, in one write: whole or not at all, also where several processes append to one file.

    Args:
        path: of the table; made, with its header, where it is missing.
        run: to be added.

    Raises:
        UserError: the file is there and has other columns.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        with suppress(ImportError):  # no such locks on Windows: there, one process a table
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX)
        size = os.fstat(handle).st_size
        with open(path, "rb") as file:
            header = next(csv.reader([file.readline().decode("utf-8-sig", errors="replace")]), [])
            file.seek(max(0, size - 1))
            ends = file.read() in (b"", b"\n")
        before = "" if ends else "\n"  # after a torn or hand-written last line: `read_runs` says which it was
        if header:
            _check_header(header, path)
        else:
            header, before = list(COLUMNS), _line(COLUMNS)
        cells = _cells(run)
        row = (before + _line(cells.get(column, "") for column in header)).encode()
        if os.write(handle, row) < len(row):
            os.ftruncate(handle, size)
            raise OSError(f"{path}: the disk is full: the run was not added")
        os.fsync(handle)
    finally:
        os.close(handle)


def _cells(run: Run) -> dict[str, str]:
    values = {column: getattr(run, field) for column, field in COLUMNS.items()}
    values["reached"] = YES if run.reached else NO
    return {column: "" if value is None else str(value) for column, value in values.items()}


def _line(cells: Iterable[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def rows_sha256(runs: Iterable[Run]) -> str:
    """A hash of runs in their order: the same for any file that holds them, whatever its line ends or other columns."""
    return hashlib.sha256("".join(_line(_cells(run).values()) for run in runs).encode()).hexdigest()


def fittable(
    runs: Sequence[Run], *, methods: Sequence[str] = (), family: str | None = None, source: str = "the table"
) -> dict[str, list[Run]]:
    """The runs that a law can be fitted on: of one family, those that reached their budget, by method.

    Args:
        runs: of a table.
        methods: that are wanted; none: all that are there.
        family: that is wanted; None where there is only one.
        source: of the runs, for messages.

    Raises:
        UserError: several families and none named, no such family or method, or a method with one size or one budget.
    """
    families = sorted({run.family for run in runs})
    if not families:
        raise UserError(f"{source} holds no runs: run a sweep first")
    if family is None and len(families) > 1:
        raise UserError(
            f"{source} holds several families ({', '.join(families)}), and a law belongs to one: name it with --family"
        )
    if family is not None and family not in families:
        raise UserError(f"{source} holds no family {family!r}: it has {', '.join(families)}")
    mine = [run for run in runs if family in (None, run.family)]
    there = [method for method in METHODS if any(run.method == method for run in mine)]
    for method in methods:
        if method not in there:
            raise UserError(f"{source} holds no runs of method {method!r}: it has {', '.join(there)}")
    found = {}
    for method in methods or there:
        rows = [run for run in mine if run.method == method]
        usable = [run for run in rows if run.reached]
        for what, values in (
            ("size (N)", {run.parameters for run in usable}),
            ("budget (budget_flops)", {run.budget_flops for run in usable}),
        ):
            if len(values) < 2:
                count = f"{len(values)} {what}"
                if len(rows) > len(usable):
                    count += f"; {len(rows) - len(usable)} did not reach their budget"
                raise UserError(
                    f"{source}: the {len(usable)} runs of {method} that can be fitted have {count}: a law needs "
                    "two at the very least, and five to say much. Run more, or name the other methods with --methods"
                )
        found[method] = usable
    return found
