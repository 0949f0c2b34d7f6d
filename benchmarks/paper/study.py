"""`Study`: what one of the commands was told: bases, data, graded pairs, training options, and where results go."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from benchmarks.paper.names import RANKS
from lacos_st.atomic import whole_folder
from lacos_st.bench import distinct_pairs
from lacos_st.errors import UserError
from lacos_st.locks import hold
from lacos_st.methods import load_rows
from lacos_st.settings import ADAPTER_METHODS, IN_BATCH, Method, TrainConfig
from lacos_st.sts import StsTask, load_mteb_task, load_tasks

VALIDATION_ROWS = 500
QUICK_ROWS, QUICK_GRADED = 60, 12  # NLI rows and graded pairs that the grammar writes for each language
FEWEST_HELD_OUT = 8


@dataclass(frozen=True)
class Study:
    """One experiment.

    Attributes:
        name: of the command.
        bases: to be trained.
        baseline: base of SBERT, where there is one.
        data: NLI or pairs to train on; the baseline needs three classes.
        eval_data: rows of the validation loss; none: a split of the data.
        sts: folder of graded pairs, whose sentences are not trained on; None: tasks of mteb.
        tasks: names of tasks; none: the defaults of the folder.
        train: options of `lacos-st train` for every method, in place of the preset's.
        by_method: options for one method, which go before those of `train`.
        output: folder of the trainings.
        results: folder of rows, table and plot.
        quick: a run whose figures mean nothing.
    """

    name: str
    bases: tuple[str, ...]
    baseline: str
    data: tuple[str, ...]
    eval_data: tuple[str, ...]
    sts: Path | None
    tasks: tuple[str, ...]
    train: Mapping[str, Any]
    by_method: Mapping[str, Mapping[str, Any]]
    output: Path
    results: Path
    quick: bool

    @property
    def benchmark(self) -> str:
        """The name of its rows, table and plot."""
        return f"paper_{self.name}"

    def file(self, suffix: str) -> Path:
        """Its table (".md") or plot (".png")."""
        return self.results / f"{self.benchmark}{suffix}"

    def config(self, base: str, method: str, **settings: Any) -> TrainConfig:
        """A training: `settings` go before the method's options, these before those of all, these before the paper's.

        Raises:
            UserError: an option is unknown, out of range, or none of the method's.
        """
        rank = {"lora_rank": RANKS[base]} if method in ("lacos", "lora") and base in RANKS else {}
        values = {
            "base": base,
            "method": method,
            "data": list(self.data),
            "eval_data": list(self.eval_data),
            "exclude_sts": [] if self.sts is None else [str(self.sts)],
            "output": str(self.output),
            "eval_rows": VALIDATION_ROWS,
            "progress": False,
            **rank,
            **{name: value for name, value in self.train.items() if method in OF_METHODS.get(name, METHODS)},
            **self.by_method.get(method, {}),
            **settings,
        }
        return TrainConfig.from_mapping(values, source=f"{self.name}, {method}").resolved()

    @cached_property
    def graded(self) -> list[StsTask]:
        """The tasks; fetched from mteb where there is no folder.

        Raises:
            UserError: a task is unknown or cannot be had.
        """
        if self.sts is not None:
            return load_tasks(self.sts, names=self.tasks or None)
        return [task for name in self.tasks for task in load_mteb_task(name)]

    @cached_property
    def graded_sha256(self) -> str:
        """Of the graded pairs in their order: scores on others cannot be compared."""
        digest = hashlib.sha256()
        for task in self.graded:
            for row in zip(task.sentences1, task.sentences2, task.scores, strict=True):
                digest.update("\t".join(map(str, row)).encode())
        return digest.hexdigest()[:16]

    @cached_property
    def held_out(self) -> list[tuple[str, str]]:
        """Pairs of the validation loss: the same for every training, and no sentence stands in two.

        Raises:
            UserError: there are too few.
        """
        config = self.config(self.bases[0], "full")
        if not self.eval_data and config.eval_rows < FEWEST_HELD_OUT:
            raise UserError(
                f"--train eval_rows={config.eval_rows}: a validation loss needs {FEWEST_HELD_OUT} rows or more: leave "
                "eval_rows out, or give --eval-data"
            )
        _, aside = load_rows(config)
        pairs = distinct_pairs(aside, VALIDATION_ROWS)
        if len(pairs) < FEWEST_HELD_OUT:
            where = ", ".join(self.eval_data) or "a tenth of the data"
            raise UserError(
                f"{where} has {len(pairs)} pairs without a sentence that stands in two; a validation loss needs "
                f"{FEWEST_HELD_OUT}: give --eval-data, or more data"
            )
        return pairs

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the output folder, so that no second process trains in it.

        Raises:
            UserError: another one does.
        """
        if self.output.exists() and not self.output.is_dir():
            raise UserError(f"output {self.output} is a file: name a folder")
        self.output.mkdir(parents=True, exist_ok=True)
        with (self.output / ".lock").open("a") as file:
            hold(file, refusal=f"another run is at work in {self.output}: wait, or choose another --output")
            yield


def synthetic(folder: Path) -> tuple[Path, Path]:
    """The grammar's text for a quick run: folders of NLI rows and of graded pairs, written once."""
    from lacos_st import grammar

    if not folder.is_dir():
        with whole_folder(folder) as new:
            grammar.write(new, nli_rows=QUICK_ROWS, graded_rows=QUICK_GRADED)
    return folder / "nli", folder / "sts"


def parse_settings(
    given: Sequence[str], *, own: Sequence[str] = ()
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Options of `lacos-st train`: for all methods, and for each method that is named before a dot.

    >>> parse_settings(["batch_size=64", "lacos.lr=2e-3", "cpu=true"])
    ({'batch_size': 64, 'cpu': True}, {'lacos': {'lr': '2e-3'}})

    Args:
        given: "option=value" or "method.option=value"; a value is read as YAML.
        own: options that the command has another way to give.

    Raises:
        UserError: it is not of that form, or names an option that the experiment sets itself, or for one method an
            option that shapes the split.
    """
    import yaml

    common: dict[str, Any] = {}
    by_method: dict[str, dict[str, Any]] = {}
    for text in given:
        key, equals, value = text.partition("=")
        method, dot, option = key.rpartition(".")
        if not equals or not option or (dot and method not in METHODS):
            raise UserError(
                f"--train {text}: expected OPTION=VALUE or METHOD.OPTION=VALUE, such as lr=2e-3 or sbert.lr=1e-4, with "
                f"an option of lacos-st train and one of the methods {', '.join(METHODS)}"
            )
        if option in (*OWN, *own):
            raise UserError(
                f"--train {text}: {option} is set by the experiment, by an option of its own or for all runs"
            )
        if dot and option in OF_THE_SPLIT:
            raise UserError(
                f"--train {text}: {option} decides which rows are held out, and these are the same for all methods: "
                f"give {option}={value} for all"
            )
        (by_method.setdefault(method, {}) if dot else common)[option] = yaml.safe_load(value)
    return common, by_method


METHODS = get_args(Method)
PAIRED = tuple(method for method in METHODS if method != "sbert")
OF_METHODS = {
    "lora_rank": ADAPTER_METHODS,
    **dict.fromkeys(IN_BATCH, PAIRED),
    "embedding_device": ("lacos",),
    "frozen_blocks": ("freeze",),
}
"""Options that only some methods have: given for all, they are for these."""
OWN = ("base", "method", "data", "eval_data", "exclude_sts", "output", "overwrite", "resume", "eval_sts", "best")
"""Options of a training that an experiment fills in."""
OF_THE_SPLIT = ("seed", "max_rows", "eval_rows", "on_bad_row", "hard_negatives")
"""Options that decide which rows are held out: a method with its own would train on the others' held-out ones."""
