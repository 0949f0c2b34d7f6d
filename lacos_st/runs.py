"""`RunFolder`: the files of one training run, and when it may start, go on or be replaced."""

from __future__ import annotations

import dataclasses
import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lacos_st.atomic import clear_leftovers, not_written, remove_folder, write_text
from lacos_st.errors import UserError
from lacos_st.resume import checkpoints
from lacos_st.rows_hash import RowsHash
from lacos_st.settings import RUN_CONTROL, TrainConfig

LAST_LINE = "train_runtime"
"""A figure that the log's last line has and no other: what the training came to."""


@dataclass(frozen=True)
class RunFolder:
    """The files of one run: `model/` (written last), `checkpoints/`, `train.yaml`, `rows.json`, `log.jsonl`."""

    path: Path

    @property
    def model(self) -> Path:
        """The trained model, written last: whole or not at all."""
        return self.path / "model"

    @property
    def checkpoints(self) -> Path:
        """The trainer's checkpoints: the last and the best."""
        return self.path / "checkpoints"

    @property
    def config(self) -> Path:
        """The options that reproduce the run."""
        return self.path / "train.yaml"

    @property
    def rows(self) -> Path:
        """A hash of the rows that the run trains and is validated on."""
        return self.path / "rows.json"

    @property
    def log(self) -> Path:
        """The trainer's figures, a JSON object a line."""
        return self.path / "log.jsonl"

    def check(self, config: TrainConfig) -> None:
        """Whether `config` may start here; changes nothing.

        Raises:
            UserError: The folder is a file, or holds something and neither `overwrite` nor `resume` was given; on
                `resume`, there is no run, or it was started with other options.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"output {self.path} is a file: name a folder")
        if config.resume:
            if not self.config.is_file():
                raise UserError(f"output {self.path} holds no {self.config.name}: there is no run to resume")
            self._check_same(config)
        elif self.path.is_dir() and any(self.path.iterdir()) and not config.overwrite:
            raise UserError(
                f"output folder {self.path} exists and is not empty: choose another one, replace the run in it with "
                "--overwrite, or go on with it with --resume"
            )

    def revision(self, config: TrainConfig) -> str | None:
        """That of `config`; where it names none, that with which the run that it resumes was started.

        The options of a run do not name what `train.yaml` was given when the base had been fetched from the hub.
        """
        if config.revision is None and config.resume and self.config.is_file():
            with suppress(UserError):  # `check` says it
                old = TrainConfig.from_yaml(self.config)
                return old.revision if old.base == config.base else None
        return config.revision

    def check_rows(self, rows: RowsHash, *, resume: bool) -> None:
        """Whether a run may go on here with these rows; it may where none were noted down.

        Raises:
            UserError: it was started on others.
        """
        if resume and self.rows.is_file() and (old := RowsHash.read(self.rows)) != rows:
            raise UserError(
                f"the run in {self.path} was started on other rows ({old.train_rows} to train on and {old.eval_rows} "
                f"for validation, now {rows.train_rows} and {rows.eval_rows}): what data, eval_data or exclude_sts "
                "name was changed since; put it back, or train anew with --overwrite"
            )

    def _check_same(self, config: TrainConfig) -> None:
        old = dataclasses.asdict(TrainConfig.from_yaml(self.config))
        new = dataclasses.asdict(config)
        # where it lies and how it shows itself may change between the two halves of a run
        skip = (*RUN_CONTROL, "output", "progress", "report_to", "cpu")
        changed = [f"{key} {old[key]!r} -> {new[key]!r}" for key in old if key not in skip and old[key] != new[key]]
        if changed:
            raise UserError(
                f"the run in {self.path} was started with other options ({'; '.join(changed)}): resume with those of "
                f"{self.config.name}, or train anew with --overwrite"
            )

    def last_checkpoint(self) -> Path | None:
        """The checkpoint of the highest step; None where the run was stopped before its first."""
        whole = checkpoints(self.checkpoints)
        return whole[-1] if whole else None

    def start(self, config: TrainConfig, rows: RowsHash) -> None:
        """Make the folder and write `train.yaml` and `rows.json`; what a killed process left is cleared away.

        With `overwrite`, clear away the old run but for its model, which stays until the new one is ready.

        Raises:
            UserError: The folder cannot be written.
        """
        clear_leftovers(self.path, "model", self.config.name, self.rows.name, self.log.name)
        if not config.resume:
            self.clear(and_folder=False)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise not_written(self.path, error) from error
        rows.write(self.rows)  # first: with train.yaml the run can be resumed
        write_text(self.config, config.to_yaml())

    def clear(self, *, and_folder: bool) -> None:
        """Remove what a run writes besides its model; `and_folder`: the folder too where nothing else is in it."""
        for file in (self.config, self.rows, self.log):  # first, so that nobody resumes what is being removed
            file.unlink(missing_ok=True)
        clear_leftovers(self.path, self.checkpoints.name)
        remove_folder(self.checkpoints)
        if and_folder and self.path.is_dir() and not any(self.path.iterdir()):
            self.path.rmdir()


def read_log(file: Path) -> list[dict[str, Any]]:
    """The rows of `log.jsonl`; a last line that a killed process left unfinished is none.

    Raises:
        UserError: another line is no row.
    """
    lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
    rows = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("no object")
        except ValueError as error:
            raise UserError(f"{file}, line {number}, is broken ({error}): remove that line") from error
        rows.append(row)
    return rows
