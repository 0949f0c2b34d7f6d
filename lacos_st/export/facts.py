"""`Facts`: what a model card can say of a trained model, from the files that lie beside it."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lacos_st.data import load_nli, load_pairs
from lacos_st.errors import UserError
from lacos_st.export.saved import SavedModel
from lacos_st.lengths import tokens_read
from lacos_st.recipe.bill import bill_of
from lacos_st.recipe.job import Job
from lacos_st.recipe.shapes import shape_of
from lacos_st.runs import read_log
from lacos_st.settings import TrainConfig

logger = logging.getLogger(__name__)

CONFIG_FILE, LOG_FILE, RESULTS_FILE = "train.yaml", "log.jsonl", "results.json"
MODEL_FOLDER = "model"  # of a run, see `lacos_st.runs`
SAMPLED_ROWS = 1000  # whose sentences' lengths stand for all
LICENCE_FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "COPYING")

LICENCES = {
    "xnli": "CC BY-NC 4.0",
    "snli": "CC BY-SA 4.0",
    "multinli": "OANC and others, see MultiNLI",
    "multi_nli": "OANC and others, see MultiNLI",
    "all-nli": "of SNLI (CC BY-SA 4.0) and MultiNLI (OANC and others)",
    "indonli": "CC BY-SA 4.0",
    "pawsx": "free for any use, with attribution",
    "asset": "CC BY-NC 4.0",
    "mrpc": "Microsoft Research, research only",
    "multi30k": "of Flickr30k's texts: research, non-commercial",
    "ntrex": "CC BY-SA 4.0",
    "tatoeba": "CC BY 2.0 FR",
}
"""By a word in the name of a data set. The longest word that fits counts: "xnli" holds no "snli"."""

BASE_LICENCES = {
    "bigscience/bloom": "bigscience-bloom-rail-1.0",
    "eleutherai/pythia": "apache-2.0",
    "huggingfacetb/smollm": "apache-2.0",
}
"""By the beginning of a base's name on the hub."""


@dataclass(frozen=True)
class Source:
    """Training data.

    Attributes:
        name: on the hub, or of the file or folder.
        rows: that it holds, None where it is not here to be counted.
        licence: as far as its name or a file beside it tells; None where they do not.
    """

    name: str
    rows: int | None
    licence: str | None


@dataclass(frozen=True)
class Facts:
    """Of a model.

    Attributes:
        base: its name; of a local one, the last part of the path.
        base_on_hub: whether that is a name on the hub.
        base_licence: None where it is not known.
        license: of the exported model, as its owner gave it.
        config: the run's options, None where train.yaml is not there.
        sources: the training data.
        rows: trained on, validation left out; None where no card says so.
        steps: of the optimiser.
        flops: of the training, by the recipe paper's count; None where the data are not here.
        tokens: that those are for.
        scores: the entry of this model in results.json.
    """

    base: str
    base_on_hub: bool
    base_licence: str | None
    license: str | None
    config: TrainConfig | None
    sources: tuple[Source, ...] = ()
    rows: int | None = None
    steps: int | None = None
    flops: float | None = None
    tokens: float | None = None
    scores: dict[str, Any] | None = None


def read_facts(saved: SavedModel, *, results: str | None = None, license: str | None = None) -> Facts:
    """Look beside the model: train.yaml, the run's log, the data it names, results.json.

    Raises:
        UserError: `results` cannot be read or does not know the model.
    """
    local = Path(saved.base).is_absolute()
    base = Path(saved.base).name if local else saved.base
    begins = (licence for name, licence in BASE_LICENCES.items() if base.lower().startswith(name))
    config = _config(saved.folder.absolute())
    log = next(
        (path for part in (saved.folder, *saved.folder.parents[:2]) if (path := part / LOG_FILE).is_file()), None
    )
    steps = None if log is None else max((int(row["step"]) for row in read_log(log) if "step" in row), default=None)
    read = [_source(name, config) for name in config.data] if config else []
    lengths = _lengths(saved.folder, config, [text for _, texts in read for text in texts]) if config else []
    flops, tokens = _flops(saved, config, steps, lengths) if config and steps and lengths else (None, None)
    return Facts(
        base,
        base_on_hub=not local and base.count("/") == 1,
        base_licence=next(begins, None),
        license=license,
        config=config,
        sources=tuple(source for source, _ in read),
        rows=_rows(saved.folder / "README.md"),
        steps=steps,
        flops=flops,
        tokens=tokens,
        scores=None if results is None else _scores(Path(results), saved.folder),
    )


def _config(folder: Path) -> TrainConfig | None:
    """The options of the run that left a model; None where its train.yaml is not there, or is no such file.

    What lies beside the model is the run's only where it is as `lacos-st train` puts it: a run's folder, with `model`.
    """
    folders = (folder, folder.parent) if folder.name == MODEL_FOLDER else (folder,)
    file = next((path for part in folders if (path := part / CONFIG_FILE).is_file()), None)
    if file is None:
        return None
    try:
        return TrainConfig.from_yaml(file).resolved()
    except UserError as error:
        logger.warning(f"{file} is left out of the model card, which says nothing of the training: {error}")
        return None


def _source(name: str, config: TrainConfig) -> tuple[Source, list[str]]:
    """A source, and sentences of its first rows."""
    path = Path(name).expanduser()
    is_path = path.exists() or path.is_absolute() or bool(path.suffix) or name.startswith((".", "~"))
    shown = path.name if is_path else name
    word = max((word for word in LICENCES if word in shown.lower()), key=len, default=None)
    licence = None if word is None else f"{LICENCES[word]} (by its name)"
    if not path.exists():
        return Source(shown, None, licence), []
    folder = path if path.is_dir() else path.parent
    if beside := next((folder / file for file in LICENCE_FILES if (folder / file).is_file()), None):
        lines = beside.read_text(encoding="utf-8", errors="replace").split("\n")
        licence = next((line.strip()[:100] for line in lines if line.strip()), licence)
    try:
        rows = (load_nli if config.method == "sbert" else load_pairs)(
            (name,), seed=config.seed, on_bad_row=config.on_bad_row
        )
    except UserError:
        return Source(shown, None, licence), []
    first = rows[:SAMPLED_ROWS]
    return Source(shown, len(rows), licence), [text for c in first.values() for text in c if isinstance(text, str)]


def _lengths(folder: Path, config: TrainConfig, texts: Sequence[str]) -> list[int]:
    """Tokens that the run read of each sentence."""
    from transformers import AutoTokenizer

    return tokens_read(config, AutoTokenizer.from_pretrained(str(folder)), texts) if texts else []


def _flops(
    saved: SavedModel, config: TrainConfig, steps: int, lengths: Sequence[int]
) -> tuple[float | None, float | None]:
    mean = max(1.0, sum(lengths) / len(lengths))
    columns = 2 + config.hard_negatives
    tokens = columns * mean * config.batch_size * config.gradient_accumulation * steps
    job = Job(
        method=config.method,
        batch_size=config.batch_size,
        columns=columns,
        length=mean,
        rank=config.lora_rank or 1,
        targets=config.lora_targets,
        frozen_blocks=config.frozen_blocks or 0,
        mini_batch=config.mini_batch_size,
    )
    return bill_of(shape_of(saved.base_config), job, tokens=tokens).flops.paper, tokens


def _rows(card: Path) -> int | None:
    """What the stock card says of the rows that were trained on."""
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    found = re.search(r"^- dataset_size:(\d+)$", text, re.M)
    return int(found[1]) if found else None


def _scores(path: Path, folder: Path) -> dict[str, Any]:
    file = path / RESULTS_FILE if path.is_dir() else path
    try:
        models = {entry["name"]: entry for entry in json.loads(file.read_text(encoding="utf-8"))["models"]}
        for entry in models.values():
            for task in entry["tasks"]:
                float(task["max"]), float(task["spearman"]["cosine"]), int(task["pairs"])
                str(task["task"]), str(task["languages"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"--results {file} is no results.json of lacos-st evaluate ({error!r:.200})") from error
    same = [entry for name, entry in models.items() if Path(name).expanduser().resolve() == folder.resolve()]
    same = same or [entry for name, entry in models.items() if Path(name).name in (folder.name, folder.parent.name)]
    if len(same) != 1:
        raise UserError(
            f"--results {file} has no row that is surely of {folder} (it has {', '.join(models) or 'none'}): evaluate "
            "the model by this path"
        )
    return dict(same[0])
