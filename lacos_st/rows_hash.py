"""`RowsHash`: the rows of a run in a small file, so that it is not resumed on others."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lacos_st.atomic import write_text
from lacos_st.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

HASHED_AT_A_TIME = 1000


@dataclass(frozen=True)
class RowsHash:
    """The rows of a run as they were loaded, in their order.

    Attributes:
        train_rows: how many are trained on.
        eval_rows: how many the validation loss is of.
        sha256: over all of them.
    """

    train_rows: int
    eval_rows: int
    sha256: str

    @classmethod
    def of(cls, train_rows: Dataset, eval_rows: Dataset | None) -> RowsHash:
        """That of these rows."""
        digest = hashlib.sha256()
        for rows in (train_rows, eval_rows):
            for batch in () if rows is None else rows.iter(batch_size=HASHED_AT_A_TIME):
                digest.update(json.dumps(batch).encode())
            digest.update(b"\n")
        return cls(len(train_rows), len(eval_rows or ()), digest.hexdigest())

    def write(self, file: Path) -> None:
        """Write it as JSON."""
        write_text(file, json.dumps(dataclasses.asdict(self)) + "\n")

    @classmethod
    def read(cls, file: Path) -> RowsHash:
        """What `write` wrote.

        Raises:
            UserError: the file is broken.
        """
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            return cls(int(values["train_rows"]), int(values["eval_rows"]), str(values["sha256"]))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{file} is broken ({error}): remove it to resume without a look at the rows, or train anew with "
                "--overwrite"
            ) from error
