"""Graded sentence pairs: STS12-16, STS-B, SICK-R and per-language-pair STS, from a folder or from mteb by name.

The seven English sets carry the group `"sts"` (their mean is STS-Avg), everything cross-lingual or not English the
group `"xsts"` (its mean over the language pairs is xSTS-Avg). Each year of STS12-16 is one task: one correlation over
all of its rows concatenated, as MTEB computes it, not the mean over its sub-sets.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from lacos_st.errors import UserError
from lacos_st.graded import Rows, kind_of, read_rows, stem_of

logger = logging.getLogger(__name__)

Group = Literal["sts", "xsts"]

ENGLISH = "en-en"
TEST = "test"  # the split whose scores are told, where mteb has several
UNKNOWN_LANGUAGES = "?"  # a file whose name says nothing about its languages
_STS_RANGE = (0.0, 5.0)
_SICK_RANGE = (1.0, 5.0)
_TRACK = re.compile(r"track\d+([ab]?)\.([a-z]{2,3}-[a-z]{2,3})")
_OF_LAYOUT = re.compile(
    r"en/(STS1[2-6]|STSb\.(dev|test|train)|SICK)\.tsv|sts17/track\d+[ab]?\.\w+-\w+\.tsv"
    r"|stsb_multi_mt/(dev|test|train)\.\w+\.tsv"
)
_IN_FOLDER = re.compile(r"[^/]+")
SHOWN = 5  # files that a warning names
_LANGUAGES_IN_STEM = re.compile(r"\.([a-z]{2,3})(?:-([a-z]{2,3}))?$")


@dataclass(frozen=True)
class StsTask:
    """Graded pairs of one set and one language pair.

    Attributes:
        name: as in results and on the command line, for example "STSBenchmark" or "STS17.es-en".
        group: "sts" counts towards STS-Avg, "xsts" towards xSTS-Avg (but for pairs of English with English).
        languages: of sentences1 and sentences2, "es-en"; "?" if not known.
        sentences1: N first sentences.
        sentences2: N second sentences.
        scores: N gold similarities on the set's own scale.
        score_range: lowest and highest value of that scale.
    """

    name: str
    group: Group
    languages: str
    sentences1: tuple[str, ...]
    sentences2: tuple[str, ...]
    scores: tuple[float, ...]
    score_range: tuple[float, float]

    def __post_init__(self) -> None:
        low, high = self.score_range
        if not len(self.sentences1) == len(self.sentences2) == len(self.scores):
            raise UserError(
                f"task {self.name}: {len(self.sentences1)} and {len(self.sentences2)} sentences with "
                f"{len(self.scores)} scores: expected as many of each"
            )
        if len(set(self.scores)) < 2:
            raise UserError(
                f"task {self.name}: {len(self.scores)} pairs with {len(set(self.scores))} different scores: a rank "
                "correlation needs at least two different ones"
            )
        for row, score in enumerate(self.scores):
            if not low <= score <= high:  # false for NaN as well
                raise UserError(f"task {self.name}, pair {row + 1}: score {score} is not between {low} and {high}")

    @property
    def unit_scores(self) -> list[float]:
        """Scores mapped to 0..1, (score - low) / (high - low): what evaluators get; no correlation changes by it."""
        low, high = self.score_range
        return [(score - low) / (high - low) for score in self.scores]


def load_tasks(folder: str | Path, *, names: Sequence[str] | None = None) -> list[StsTask]:
    """Load graded pairs from a folder.

    The known layout has `en/STS12.tsv` ... `en/STS16.tsv` and `en/STSb.{dev,test}.tsv` (subset, score, s1, s2),
    `en/SICK.tsv` (split, score, s1, s2, ...), `sts17/track*.tsv` and `stsb_multi_mt/{dev,test}.LANG.tsv` (score, s1,
    s2), in the folder itself or in its sub-folder `sts`. Any other folder: each `*.tsv` (no quoting) and `*.csv`
    (quoted), also `.gz`, of columns score, s1, s2 is a task named after the file, its languages read from a name such
    as `name.en-fr.tsv`, its scale the range of its scores. A warning names such files that are not read: beside those
    of the known layout, and in sub-folders.

    Args:
        folder: where the files lie.
        names: tasks to load, in this order. Of the known layout: "STS12".."STS16", "STSBenchmark",
            "STSBenchmark-dev", "SICK-R" (all rows), "STS17" (its default pairs) or "STS17.es-en",
            "STS17.es-en-4b" (another domain), "STSb-multi.fr", "STSb-multi.en-fr", "STSb-multi-dev.en-fr" (rows are
            aligned, so any two languages make a cross-lingual pair). None: the seven English sets and STS17 without
            4b; in another folder, every file.

    Raises:
        UserError: the folder is missing or has no task, a name is unknown, or a file is empty or has a malformed row
            (the message has file and line).
    """
    root = Path(folder)
    known, layout = _tasks_in(root)
    defaults = [name for name in known if not layout or _is_default(name)]
    if names is None and not defaults:
        raise _nothing_in(root)
    wanted: list[str] = []
    for name in defaults if names is None else names:
        whole_set = [each for each in defaults if each.startswith(f"{name}.")] if layout else []
        wanted += [name] if name in known or not whole_set else whole_set
    for name in wanted:
        if name not in known:
            raise UserError(f"unknown task {name!r} in {root}: choose from {_summary(known)}")
    return [known[name]() for name in dict.fromkeys(wanted)]


def load_sentences(place: str | Path) -> set[str]:
    """Every sentence of the graded pairs in a folder, those of sets that `load_tasks` reads by name only included.

    Args:
        place: a folder, or one file of graded pairs.

    Raises:
        UserError: as `load_tasks`, of a file as `load_task_file`.
    """
    if Path(place).is_file():
        task = load_task_file(place, option="exclude_sts")
        return {*task.sentences1, *task.sentences2}
    known, _ = _tasks_in(Path(place))
    tasks = [load() for name, load in known.items() if not _is_aligned_pair(name)]
    return {text for task in tasks for text in (*task.sentences1, *task.sentences2)}


def load_task_file(path: str | Path, *, option: str = "eval_sts") -> StsTask:
    """The task in one file of graded pairs, read as `load_tasks` reads those of any folder but the known layout.

    Args:
        path: of a .tsv or .csv file.
        option: that named it, for the message.

    Raises:
        UserError: There is no such file, or it cannot be used.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"{option} {file} is no file: name a .tsv or .csv of columns score, sentence 1, sentence 2")
    if kind_of(file) is None:
        raise UserError(f"{option} {file} ends in neither .tsv nor .csv: name a file of score, sentence 1, sentence 2")
    return _plain_file(file)()


def load_mteb_task(name: str) -> list[StsTask]:
    """Load an STS task of mteb by name, one `StsTask` per subset: "STS12", "STS17", or one subset, "STS17.en-ar".

    Of a task with a test split only that one is taken: rows of a dev split are no figure of merit.

    Raises:
        UserError: mteb is not installed, it has no such STS task or subset, or its data can't be fetched.
    """
    mteb = import_mteb()
    try:
        task, wanted = mteb.get_task(name), None
    except KeyError as error:
        base, _, wanted = name.rpartition(".")
        try:
            task = mteb.get_task(base)
        except KeyError:
            raise UserError(f"unknown mteb task {name!r}: {error.args[0]}") from error
    if not isinstance(task, mteb.abstasks.sts.AbsTaskSTS):
        raise UserError(f"mteb task {name!r} is not a set of graded pairs (STS): run it with --mteb {name}")
    if wanted and wanted not in task.hf_subsets:
        raise UserError(f"mteb task {base!r} has no subset {wanted!r}: choose from {', '.join(task.hf_subsets)}")
    load_mteb_data(task)
    return [
        _from_mteb(task, subset, split)
        for subset in ([wanted] if wanted else task.hf_subsets)
        for split in ([TEST] if TEST in task.eval_splits else task.eval_splits)
    ]


def import_mteb() -> Any:
    """Return the mteb package, or raise a UserError that names the extra to install."""
    try:
        import mteb
        import mteb.abstasks.sts
    except ImportError as error:
        raise UserError("mteb is not installed: pip install 'lacos_st[mteb]'") from error
    return mteb


def parts_of(task: Any) -> list[Any]:
    """An mteb task itself, or those that it is the mean of (CQADupstackRetrieval)."""
    return list(task.metadata.tasks) if task.is_aggregate else [task]


def load_mteb_data(task: Any) -> None:
    """Fetch the data of an mteb task, or of all its parts, through mteb; a UserError where the hub can't be reached."""
    for part in parts_of(task):
        name = part.metadata.name
        try:
            part.load_data()
        except (OSError, ValueError) as error:  # ConnectionError and DatasetNotFoundError are OSErrors
            raise UserError(
                f"data of mteb task {name!r} could not be fetched ({type(error).__name__}: {error}): check the "
                'network; or fetch it where there is one (python -c "import mteb; '
                f'mteb.get_task({name!r}).load_data()"), bring the folder that HF_HOME names, and set '
                "HF_HUB_OFFLINE=1; or evaluate on a folder of graded pairs with --data"
            ) from error


def _from_mteb(task: Any, subset: str, split: str) -> StsTask:
    dataset = task.dataset
    rows = dataset[split] if subset not in dataset and subset == "default" else dataset[subset][split]
    first, second = task.column_names
    whole = "-".join(task.metadata.languages)
    english = whole == "eng" or subset in ("en", ENGLISH)
    pair = whole if subset == "default" else subset if "-" in subset else f"{subset}-{subset}"
    try:
        scores = tuple(float(score) for score in rows["score"])
    except (TypeError, ValueError) as error:
        raise UserError(f"mteb task {task.metadata.name!r} has a score that is no number: {error}") from error
    names = [task.metadata.name] + [subset] * (subset != "default") + [split] * (len(task.eval_splits) > 1)
    return StsTask(
        name=".".join(names),
        group="sts" if english and subset in ("default", "en") else "xsts",  # STS17's en-en is one of its pairs
        languages=ENGLISH if english else pair,
        sentences1=tuple(rows[first]),
        sentences2=tuple(rows[second]),
        scores=scores,
        score_range=(float(task.min_score), float(task.max_score)),
    )


def _tasks_in(root: Path) -> tuple[dict[str, Callable[[], StsTask]], bool]:
    """Loaders of all the tasks in a folder, and whether it has the known layout; UserError where there are none."""
    if root.is_file():
        raise UserError(f"{root} is a file: name its folder ({root.parent}), and the task by the file's name")
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; give one with graded pairs (score, sentence 1, sentence 2)")
    layout = next((place for place in (root, root / "sts") if (place / "en").is_dir()), None)
    known = _known_layout(layout) if layout else _plain_files(root)
    _tell_others(layout or root, layout=layout is not None)
    if not known:
        raise _nothing_in(root)
    return known, layout is not None


def _nothing_in(root: Path) -> UserError:
    return UserError(f"{root}: no graded pairs; expected *.tsv or *.csv files of columns score, s1, s2")


def _is_aligned_pair(name: str) -> bool:
    """Whether a task takes its two sides from the files of two languages."""
    return name.startswith("STSb-multi") and "-" in name.rpartition(".")[2]


def _known_layout(root: Path) -> dict[str, Callable[[], StsTask]]:
    """Return a loader for each task whose files are there, the default tasks first, in the order of reports."""
    known: dict[str, Callable[[], StsTask]] = {}
    english = {f"STS{year}": f"STS{year}.tsv" for year in range(12, 17)}
    english |= {"STSBenchmark": "STSb.test.tsv", "SICK-R": "SICK.tsv", "STSBenchmark-dev": "STSb.dev.tsv"}
    for name, file in english.items():
        if (root / "en" / file).is_file():
            scale = _SICK_RANGE if name == "SICK-R" else _STS_RANGE
            known[name] = partial(_load_file, root / "en" / file, name, "sts", ENGLISH, scale, first_column=1)
    for path in sorted((root / "sts17").glob("track*.tsv")):
        if match := _TRACK.fullmatch(path.stem):
            name = f"STS17.{match[2]}" + ("-4b" if match[1] == "b" else "")
            known[name] = partial(_load_file, path, name, "xsts", match[2], _STS_RANGE)
    for split, prefix in (("test", "STSb-multi"), ("dev", "STSb-multi-dev")):
        paths = {path.stem.split(".")[1]: path for path in sorted((root / "stsb_multi_mt").glob(f"{split}.*.tsv"))}
        for one in paths:
            for two in paths:
                name = f"{prefix}.{one}" if one == two else f"{prefix}.{one}-{two}"
                known[name] = partial(_load_aligned, paths[one], paths[two], name, f"{one}-{two}")
    return known


def _is_default(name: str) -> bool:
    return not name.startswith("STSb-multi") and not name.endswith(("-dev", "-4b"))


def _plain_files(root: Path) -> dict[str, Callable[[], StsTask]]:
    """A loader for each file of graded pairs that lies in a folder itself, named after it."""
    known: dict[str, Callable[[], StsTask]] = {}
    for path in sorted(path for path in root.iterdir() if kind_of(path) and path.is_file()):
        name = stem_of(path)
        if name in known:
            raise UserError(f"{path} and another file beside it would both be the task {name}: rename one of them")
        known[name] = _plain_file(path)
    return known


def _tell_others(root: Path, *, layout: bool) -> None:
    """Warn of what looks like graded pairs in a folder and is no task: not those of a training split."""
    found = [path.relative_to(root).as_posix() for path in sorted(root.rglob("*")) if kind_of(path) and path.is_file()]
    read = _OF_LAYOUT if layout else _IN_FOLDER
    others = [name for name in found if not read.fullmatch(name)]
    if others:
        shown = ", ".join(others[:SHOWN]) + (", ..." if len(others) > SHOWN else "")
        logger.warning("%s: not read as graded pairs: %s; a folder of their own makes them tasks", root, shown)


def _plain_file(path: Path) -> Callable[[], StsTask]:
    match = _LANGUAGES_IN_STEM.search(stem_of(path))
    languages = f"{match[1]}-{match[2] or match[1]}" if match else UNKNOWN_LANGUAGES
    group: Group = "sts" if languages in (ENGLISH, UNKNOWN_LANGUAGES) else "xsts"
    return partial(_load_file, path, stem_of(path), group, languages, None, first_column=None)


def _load_file(
    path: Path,
    name: str,
    group: Group,
    languages: str,
    scale: tuple[float, float] | None,
    *,
    first_column: int | None = 0,
) -> StsTask:
    rows = read_rows(path, first_column=first_column, scale=scale)
    return _task(path, name, group, languages, scale, rows)


def _load_aligned(path1: Path, path2: Path, name: str, languages: str) -> StsTask:
    """Pair sentence 1 of one language's file with sentence 2 of another's; both files hold the same rows."""
    rows1, rows2 = (read_rows(path, first_column=0, scale=_STS_RANGE) for path in (path1, path2))
    if [row[0] for row in rows1] != [row[0] for row in rows2]:
        raise UserError(f"{path1} and {path2} are not aligned: expected the same scores in the same order")
    rows = [(one[0], one[1], two[2]) for one, two in zip(rows1, rows2, strict=True)]
    group: Group = "sts" if languages == ENGLISH else "xsts"
    return _task(path1, name, group, languages, _STS_RANGE, rows)


def _task(
    path: Path, name: str, group: Group, languages: str, scale: tuple[float, float] | None, rows: Rows
) -> StsTask:
    scores, sentences1, sentences2 = zip(*rows, strict=True)
    try:
        return StsTask(name, group, languages, sentences1, sentences2, scores, scale or (min(scores), max(scores)))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _summary(known: dict[str, Callable[[], StsTask]]) -> str:
    """List the task names; the language pairs of aligned sets by example, they run into the hundreds."""
    plain = [name for name in known if not _is_aligned_pair(name)]
    pairs = len(known) - len(plain)
    return ", ".join(plain) + (f" and {pairs} cross-lingual ones such as STSb-multi.en-fr" if pairs else "")
