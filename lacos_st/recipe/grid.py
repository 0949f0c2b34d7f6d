"""`Grid`: what a sweep is told, and the settings and budgets that its text stands for. Nothing here needs torch.

>>> parse_method("lora rank=8 lr=3e-3")
('lora', {'rank': 8, 'lr': 0.003})
"""

from __future__ import annotations

import json
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from lacos_st.errors import UserError
from lacos_st.options import build_options, option, read_yaml, required
from lacos_st.recipe.runs_table import METHODS
from lacos_st.recipe.units import parse_flops
from lacos_st.settings import MOST_SEED, TrainConfig

SHORT = {"rank": "lora_rank", "alpha": "lora_alpha"}
"""Names of a setting that the table of runs has shorter than `TrainConfig`."""
FROZEN_SHARE = "frozen_share"
"""A setting that becomes `frozen_blocks` when a base's blocks are known."""
OWNED = (
    *("base", "data", "output", "method", "seed", "epochs", "max_steps", "resume", "overwrite", "fit"),
    *("eval_data", "eval_rows", "eval_sts", "eval_steps", "best", "log_steps", "progress"),
)
"""Options of `TrainConfig` that a sweep sets itself."""
COMMON = ("scale", "matryoshka_dims", "max_rows")
"""Options of `TrainConfig` that all runs of a table share: what its loss is, and which rows they are trained on."""
TEXT = {name for name, hint in typing.get_type_hints(TrainConfig).items() if hint in (str, str | None)}
"""Options of `TrainConfig` that are any text, such as a prompt: taken as they stand, blanks at their ends too."""


@dataclass(frozen=True)
class Grid:
    """Every option of `lacos-st sweep`; what each one means stands in its `help`, which the command line shows too."""

    family: str = required("name of the ladder: bases of one tokenizer and one pretraining, which differ in size")
    bases: tuple[str, ...] = required("the bases: folders, hub names or embedded models, each of another size")
    budgets: tuple[str, ...] = required('of a run, in FLOP by the paper\'s formula: "3e11", "2.5 TFLOP"')
    methods: tuple[str, ...] = required(
        'methods with their settings, "full lr=1e-3" or "lora rank=8 lr=3e-3": numbers by the names of lacos-st train, '
        "rank for lora_rank; frozen_share=0.5 for that part of a base's blocks"
    )
    data: tuple[str, ...] = required("pairs to train on, as in lacos-st train; every run takes what its budget allows")
    output: str = required("the table, a CSV file; a row is appended for every run")
    seeds: tuple[str, ...] = option(("0", "1"), "seeds of a run's pairs, their order and its adapters")
    train: tuple[str, ...] = option(
        (), "options of lacos-st train for every run: batch_size=32 scale=40 symmetric=true"
    )

    held_out: tuple[str, ...] = option((), "pairs whose loss is measured after training; none: split off the data")
    held_out_rows: int = option(1024, "how many of them, none of whose sentences stands in two")
    held_out_batch: int = option(64, "pairs in a batch of that loss, whatever the batch of the training")
    data_seed: int = option(0, "seed of the split and of which rows train's max_rows keeps: the same for every run")
    sts: str | None = option(None, "file of graded pairs (score, s1, s2 as last columns), scored after training")
    sts_rows: int | None = option(None, "rows of it, evenly spaced; none: all")

    min_steps: int = option(1, "steps that a budget has to allow")
    leave_out_small: bool = option(False, "leave out runs of fewer steps instead of refusing the grid")
    jobs: int = option(1, "runs at a time, each in a process of its own; 1: in this process")
    threads: int | None = option(None, "threads of each; none: the cores divided by the jobs")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], *, source: str = "options") -> Grid:
        """Check names and types; numbers of a YAML list and a mapping under `train` become text first.

        Raises:
            UserError: a key is unknown, a required one is missing, or a value is not of the option's type.
        """
        plain = {key: _texts(value) for key, value in values.items()}
        return cast(Grid, build_options(cls, plain, source=source)).checked()

    @classmethod
    def from_yaml(cls, path: str | Path, **overrides: Any) -> Grid:
        """The options in a YAML file, with `overrides` on top; raises as `from_mapping` and `read_yaml`."""
        return cls.from_mapping({**read_yaml(path), **overrides}, source=str(path))

    def checked(self) -> Grid:
        """The same grid, everything in it readable.

        Raises:
            UserError: a budget, method, setting, seed or training option cannot be read, one stands there twice, or a
                number is out of range.
        """
        for name in ("bases", "budgets", "methods", "data", "seeds"):
            values: Sequence[Any] = getattr(self, name)
            if not values:
                raise UserError(f"{name} is empty: give at least one")
            read = {"budgets": parse_flops, "methods": lambda text: str(parse_method(text)), "seeds": _seed}.get(
                name, str
            )
            found = [read(value) for value in values]
            for place, value in enumerate(found):
                if value in found[:place]:
                    raise UserError(f"{name} holds {values[place]!r} twice: leave one of them out")
        lowest = {"held_out_rows": 2, "held_out_batch": 2, "sts_rows": 2, "min_steps": 1, "jobs": 1, "threads": 1}
        for name, low in (lowest | {"data_seed": 0}).items():
            if (number := getattr(self, name)) is not None and number < low:
                raise UserError(f"{name} is {number}: expected {low} or more")
        if self.held_out_rows % self.held_out_batch:
            raise UserError(
                f"held_out_rows is {self.held_out_rows} and held_out_batch {self.held_out_batch}: the loss depends on "
                "the number of negatives, so expected a multiple of it"
            )
        if not self.family.strip():
            raise UserError("family is empty: name the ladder that the bases belong to")
        for text in self.methods:
            method, setting = parse_method(text)
            _check_setting(text, setting)
            self.config(base=self.bases[0], method=method, setting=setting, seed=0)
        return self

    def config(self, *, base: str, method: str, setting: Mapping[str, float], seed: int) -> TrainConfig:
        """The training options of one run; a frozen share counts as no block frozen, see `trials`.

        Raises:
            UserError: they contradict each other, or one is unknown.
        """
        options = {SHORT.get(name, name): value for name, value in setting.items() if name != FROZEN_SHARE}
        if FROZEN_SHARE in setting:
            options["frozen_blocks"] = 0
        source = f"sweep, method {method!r}"
        return TrainConfig.from_mapping(
            {
                **self.common(),
                **options,
                "base": base,
                "method": method,
                "data": self.data,
                "output": self.output,
                "seed": seed,
                "eval_rows": 0,
                "progress": False,
            },
            source=source,
        ).resolved()

    def common(self) -> dict[str, Any]:
        """The training options of every run, by name.

        Raises:
            UserError: see `training_options`.
        """
        return training_options(self.train)

    @property
    def budget_flops(self) -> tuple[float, ...]:
        """Ascending."""
        return tuple(sorted(parse_flops(text) for text in self.budgets))

    @property
    def seed_numbers(self) -> tuple[int, ...]:
        """In the order given."""
        return tuple(_seed(text) for text in self.seeds)


def training_options(texts: Sequence[str]) -> dict[str, Any]:
    """Options of `TrainConfig` by name, from texts such as "batch_size=32": text as it stands, other values as YAML.

    Raises:
        UserError: one is not of the form name=value, stands there twice, or is one that a sweep sets itself.
    """
    import yaml

    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals or not name:
            raise UserError(f"train: {text!r} cannot be read: expected name=value, such as batch_size=32")
        if name in OWNED:
            raise UserError(f"train: {name} is set by the sweep itself: leave it out")
        if name in found:
            raise UserError(f"train: {name} stands there twice: leave one of them out")
        try:
            found[name] = value if name in TEXT else yaml.safe_load(value)
        except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that there is not
            said = "expected a value, or a list such as [a, b]"
            raise UserError(f"train: {text!r} cannot be read: {said}") from error
    return found


def parse_method(text: str) -> tuple[str, dict[str, float]]:
    """A method and its setting, from text such as "lora rank=8 lr=3e-3"; whole numbers become ints.

    Raises:
        UserError: the method is unknown, or a part is not name=number.
    """
    name, *parts = text.split() or [""]
    if name not in METHODS:
        raise UserError(f"method {text!r} cannot be read: expected one of {', '.join(METHODS)}, then name=number")
    setting: dict[str, float] = {}
    for part in parts:
        key, _, number = part.partition("=")
        try:
            value = float(number)
        except ValueError:
            raise UserError(
                f"method {text!r}: {part!r} cannot be read: expected name=number, such as lr=1e-3"
            ) from None
        if key in setting:
            raise UserError(f"method {text!r}: {key} stands there twice: leave one of them out")
        setting[key] = int(value) if value.is_integer() and "e" not in number.lower() and "." not in number else value
    if not 0 <= setting.get(FROZEN_SHARE, 0) < 1:
        raise UserError(f"method {text!r}: {FROZEN_SHARE} is {setting[FROZEN_SHARE]:g}: expected 0 or more, below 1")
    if FROZEN_SHARE in setting and (name != "freeze" or "frozen_blocks" in setting):
        raise UserError(f"method {text!r}: {FROZEN_SHARE} is for freeze, instead of frozen_blocks")
    return name, setting


def _check_setting(text: str, setting: Mapping[str, float]) -> None:
    """That a setting leaves alone what rows of one table are compared by.

    Raises:
        UserError: it names an option of the sweep's own, or one of the loss or the data.
    """
    for name in setting:
        if name in OWNED:
            raise UserError(f"method {text!r}: {name} is set by the sweep itself: leave it out")
        if name in COMMON:
            raise UserError(
                f"method {text!r}: {name} is for every run, or their losses could not be compared: give it in train "
                f"(--train {name}=...), and other values with another table"
            )


def _seed(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > len(str(MOST_SEED)) or int(text) > MOST_SEED:
        raise UserError(f"seeds holds {text[:40]!r}: expected whole numbers, 0 to {MOST_SEED}")
    return int(text)


def _texts(value: Any) -> Any:
    """Numbers in a list as text, a mapping as name=value: what `build_options` takes for a tuple of texts."""
    if isinstance(value, dict):
        return [f"{name}={_plain(name, item) if name in TEXT else _text(item)}" for name, item in value.items()]
    if isinstance(value, list):
        return [_text(item) if isinstance(item, int | float) else item for item in value]
    return value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _plain(name: str, value: Any) -> str:
    """The text of an option that is text; "none" for none, as on the command line."""
    if value is not None and not isinstance(value, str):
        raise UserError(f"train: {name} is {value!r}: expected text, in quotes where YAML reads something else")
    return "none" if value is None else value
