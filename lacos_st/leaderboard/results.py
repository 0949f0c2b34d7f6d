"""mteb's folder of results, each file of it whole or not there."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lacos_st.atomic import write_text
from lacos_st.errors import UserError

RESULTS = "results"
"""mteb's name of the folder within its cache: results/OWNER__NAME/REVISION/TASK.json."""


def whole_results(folder: Path) -> Any:
    """An `mteb.ResultCache` in `folder` whose files appear whole or not at all, and which takes no NaN for a score."""
    from mteb import ResultCache

    class WholeResults(ResultCache):
        def save_to_cache(
            self,
            task_result: Any,
            model_name: Any,
            model_revision: str | None = None,
            *,
            encode_kwargs: Mapping[str, Any] | None = None,
        ) -> None:
            """Have mteb write beside, then move each file to its place."""
            check_finite(task_result)
            place = self.get_task_result_path(task_result.task_name, model_name, model_revision).parent
            place.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory() as beside:
                staged = ResultCache(beside)
                there = staged.get_task_result_path(task_result.task_name, model_name, model_revision).parent
                there.mkdir(parents=True)
                for file in place.glob("run_settings*"):  # mteb adds to it
                    shutil.copy(file, there / file.name)
                staged.save_to_cache(task_result, model_name, model_revision, encode_kwargs=encode_kwargs)
                for file in sorted(there.iterdir()):
                    write_text(place / file.name, file.read_text(encoding="utf-8"))

    return WholeResults(folder)


def check_finite(result: Any) -> None:
    """That the main scores of an mteb task are numbers.

    Raises:
        UserError: one is NaN or infinite.
    """
    for entries in result.scores.values():
        for entry in entries:
            if not math.isfinite(entry["main_score"]):
                raise UserError(
                    f"mteb task {result.task_name}: the main score is {entry['main_score']}, the embeddings hold NaN "
                    "or are all the same: the model is broken or its training diverged"
                )
