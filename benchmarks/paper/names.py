"""What the paper used, by its name; how a base or a source is called in a row, and how it is told from another one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from lacos_st.embedded import resolve

BLOOM = tuple(f"bigscience/bloom-{size}" for size in ("560m", "1b1", "1b7", "3b", "7b1"))
MBERT = "bert-base-multilingual-cased"
RANKS = {"bigscience/bloom-7b1": 1}
"""The best ranks that the paper names are 4 at 560m, which is the preset's for every size, and 1 at 7b1."""
UNSEEN = ("de", "it", "ja", "nl", "pl", "ru", "tr")
"""Languages of STS17 and of the multilingual STS-B that BLOOM was not trained on (Le Scao et al. 2022, table 1)."""

ENGLISH_NLI = ("stanfordnlp/snli", "nyu-mll/multi_nli")
ENGLISH_NLI_HELD_OUT = ("stanfordnlp/snli@test", "nyu-mll/multi_nli@validation_matched")
"""The paper says "test sets"; the labels of MultiNLI's are not public."""
XNLI_LANGUAGES = ("ar", "bg", "de", "el", "en", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh")
MULTILINGUAL_NLI = tuple(f"facebook/xnli:{language}" for language in XNLI_LANGUAGES)
MULTILINGUAL_NLI_HELD_OUT = tuple(f"{source}@validation" for source in MULTILINGUAL_NLI)

END_BYTES = 2**20


def label(name: str) -> str:
    """A base or a source without its folders, its owner or a model file's ending: no path of a machine is in a row.

    What is called "model", as a run and a package call theirs, goes by the folder that it lies in.

    >>> label("bigscience/bloom-560m"), label("models/smol.Q4_1.gguf"), label("nyu-mll/multi_nli@validation_matched")
    ('bloom-560m', 'smol.Q4_1', 'multi_nli@validation_matched')
    >>> label("runs/mine/model")
    'mine'
    """
    path = Path(name)
    return (path.parent if path.name == "model" and path.parent.name else path).name.removesuffix(".gguf")


def fingerprint(names: Iterable[str]) -> str:
    """A hash of files, folders and hub names: of names, sizes, and the first and last MiB of each file.

    Args:
        names: of bases, sources or folders, in an order that matters.
    """
    return hashlib.sha256("".join(map(_one, names)).encode()).hexdigest()[:16]


@cache
def _one(name: str) -> str:
    place = Path(resolve(name)).expanduser()
    if not place.exists():
        return f"hub {name}\n"
    files = sorted(path for path in place.rglob("*") if path.is_file()) if place.is_dir() else [place]
    return "".join(f"{file.relative_to(place)} {_ends(file)}\n" for file in files)


def _ends(file: Path) -> str:
    size = file.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with file.open("rb") as opened:
        digest.update(opened.read(END_BYTES))
        opened.seek(max(0, size - END_BYTES))
        digest.update(opened.read())
    return digest.hexdigest()
