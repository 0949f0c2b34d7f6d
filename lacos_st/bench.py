"""`Bench`: where the trials of a sweep are run: data, token counts and held-out pairs, loaded once per process."""

from __future__ import annotations

import hashlib
import logging
import random
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from lacos_st.embedded import resolve
from lacos_st.errors import UserError
from lacos_st.methods import build_loss, build_model, load_rows
from lacos_st.overlap import remove_overlap
from lacos_st.recipe.grid import Grid, parse_method
from lacos_st.recipe.runs_table import Run
from lacos_st.recipe.trials import Supply, Trial
from lacos_st.sts import StsTask, load_task_file

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer

    from lacos_st.recipe.shapes import ModelShape
    from lacos_st.settings import TrainConfig

logger = logging.getLogger(__name__)

PERCENT = 100.0
HELD_OUT_SPARE = 4
"""Rows to set aside for each that is wanted: most of a premise's hypotheses are not, as they share its sentence."""


class Bench:
    """The rows of a sweep and how a trial is run on them.

    Args:
        grid: of the sweep.
        commit: of the code, for the rows of the table.

    Raises:
        UserError: the data cannot be used, or there are too few pairs to hold out.
    """

    def __init__(self, grid: Grid, commit: str = "") -> None:
        import torch
        from transformers.utils.logging import disable_progress_bar

        if grid.threads is not None:
            torch.set_num_threads(grid.threads)
        disable_progress_bar()  # one for every base that is loaded: a sweep has its own lines
        self.grid, self.commit = grid, commit
        self.rows, self.held_out = _split(grid)
        self._counts: dict[tuple[Any, ...], list[int]] = {}
        self._keys: dict[tuple[Any, ...], tuple[Any, ...]] = {}

    @cached_property
    def held_out_sha256(self) -> str:
        """Of the held-out pairs, in their order: losses on others cannot be compared."""
        digest = hashlib.sha256()
        for anchor, positive in self.held_out:
            digest.update(f"{anchor}\t{positive}\n".encode())
        return digest.hexdigest()

    def shape(self, base: str) -> ModelShape:
        """Of a base, from its configuration."""
        from lacos_st.loading import read_config
        from lacos_st.recipe.shapes import shape_of

        return shape_of(read_config(resolve(base)))

    def supply(self, config: TrainConfig) -> Supply:
        """The data at hand for a run."""
        counts = self._pair_tokens(config)
        return Supply(len(counts), sum(counts))

    def run(self, trial: Trial) -> Run:
        """Train as the trial says, then measure once; nothing is written.

        A trial with too little data for its budget is not trained: its row says how much there was.

        Raises:
            UserError: the base cannot be used, the run does not fit in memory, or its loss is not finite.
        """
        from transformers import set_seed

        from lacos_st.training import fit_, prepared

        counts = self._pair_tokens(trial.config)
        if not trial.reached:
            return trial.row(tokens=sum(counts), commit=self.commit)
        chosen = self._pairs(trial, counts)
        rows = self.rows.select(chosen)
        config = prepared(trial.config, rows)
        set_seed(config.seed)
        model = build_model(config)
        with tempfile.TemporaryDirectory(prefix="lacos-sweep-") as folder:
            seconds = fit_(model, replace(config, output=folder), rows)
        model.eval()
        return trial.row(
            tokens=sum(counts[place] for place in chosen),
            commit=self.commit,
            seconds=round(seconds, 2),
            loss=mean_loss(model, trial.config, self.held_out, batch_size=self.grid.held_out_batch),
            sts_dev=self._sts(model),
        )

    def _pairs(self, trial: Trial, counts: Sequence[int]) -> list[int]:
        """Places of the pairs that a trial is trained on: by its seed, as many as come nearest to its tokens."""
        order = list(range(len(counts)))
        random.Random(trial.seed).shuffle(order)
        sums = list(accumulate(counts[place] for place in order))
        nearest = min(range(len(sums)), key=lambda place: abs(sums[place] - trial.tokens)) + 1
        return order[: max(nearest, self.grid.min_steps * trial.config.batch_size)]

    def _pair_tokens(self, config: TrainConfig) -> list[int]:
        """Tokens of each pair, both sides, as a run reads them (`tokens_read`).

        Counted once for all runs that read alike with one tokenizer.
        """
        from lacos_st.lengths import tokens_read
        from lacos_st.loading import read_tokenizer

        run = (config.base, config.prompt, config.echo, config.max_seq_length, config.chat_template)
        if run not in self._keys:
            tokenizer = read_tokenizer(resolve(config.base))
            digest = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
            template = str(tokenizer.chat_template) if config.chat_template else ""
            key = self._keys[run] = (digest, tokenizer.model_max_length, template, *run[1:])
            if key not in self._counts:
                sides = [tokens_read(config, tokenizer, list(self.rows[name])) for name in self.rows.column_names]
                self._counts[key] = [sum(pair) for pair in zip(*sides, strict=True)]
        return self._counts[self._keys[run]]

    def _sts(self, model: SentenceTransformer) -> float | None:
        """Spearman x100, the best of four similarities, as the paper takes it."""
        task = self._graded
        if task is None:
            return None
        from lacos_st.training import sts_evaluator

        scores = sts_evaluator(task, batch_size=self.grid.held_out_batch)(model)
        return PERCENT * max(value for name, value in scores.items() if "spearman" in name)

    @cached_property
    def _graded(self) -> StsTask | None:
        if self.grid.sts is None:
            return None
        task = load_task_file(self.grid.sts, option="sts")
        count = len(task.scores)
        rows = min(self.grid.sts_rows or count, count)
        places = [place * count // rows for place in range(rows)]
        return replace(
            task,
            sentences1=tuple(task.sentences1[place] for place in places),
            sentences2=tuple(task.sentences2[place] for place in places),
            scores=tuple(task.scores[place] for place in places),
        )


def _split(grid: Grid) -> tuple[Dataset, list[tuple[str, str]]]:
    """Pairs to train on, and those held out; no sentence of these stands in those."""
    method, setting = parse_method(grid.methods[0])  # any of them: not every preset knows every method
    config = grid.config(base=grid.bases[0], method=method, setting=setting, seed=grid.data_seed)
    aside_rows = 0 if grid.held_out else HELD_OUT_SPARE * grid.held_out_rows
    config = replace(config, eval_data=grid.held_out, eval_rows=aside_rows, eval_sts=grid.sts)
    rows, aside = load_rows(config)
    held_out = distinct_pairs(aside, grid.held_out_rows)
    if len(held_out) < grid.held_out_rows:
        where = ", ".join(grid.held_out) or "a tenth of the data"
        raise UserError(
            f"{where} has {len(held_out)} pairs without a sentence that stands in two, and {grid.held_out_rows} are "
            "wanted: lower held_out_rows, or give more data"
        )
    rows, _ = remove_overlap(rows, {text for pair in held_out for text in pair})
    return rows, held_out


def distinct_pairs(rows: Dataset | None, wanted: int) -> list[tuple[str, str]]:
    """The first pairs in which no sentence stands twice: a second one would be a false negative.

    Args:
        rows: of two columns, or of three, whose hard negatives are left out; None has none.
        wanted: how many, at most.
    """
    seen: set[str] = set()
    found: list[tuple[str, str]] = []
    for row in rows or ():
        pair: list[Any] = list(row.values())[:2]
        if len(found) < wanted and len(set(pair)) == 2 and not seen & set(pair):
            seen.update(pair)
            found.append((pair[0], pair[1]))
    return found


def mean_loss(
    model: SentenceTransformer, config: TrainConfig, pairs: Sequence[tuple[str, str]], *, batch_size: int
) -> float:
    """Mean in-batch loss over held-out pairs, in batches of a fixed size, whatever the model was trained with.

    The number of negatives is in the loss: only losses of one batch size, on the same pairs, can be compared.

    Args:
        model: not in training.
        config: of its training: prompt, temperature and directions; without a cached loss's detour.
        pairs: held out.
        batch_size: of each batch but a smaller last one.
    """
    import torch
    from sentence_transformers.util import batch_to_device

    from lacos_st.columns import tie_columns_

    loss = build_loss(replace(config, mini_batch_size=None), model)
    batches = [pairs[start : start + batch_size] for start in range(0, len(pairs), batch_size)]
    total = 0.0
    with torch.no_grad():
        for batch in batches:
            columns = [
                batch_to_device(model.preprocess(list(texts), prompt=config.prompt), model.device)
                for texts in zip(*batch, strict=True)
            ]
            tie_columns_(columns)
            total += float(loss(columns, None))
    return total / len(batches)
