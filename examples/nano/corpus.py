"""The pretraining text: documents from a folder of public data, without any sentence of an evaluation set.

A *document* is a list of segments (sentences or paragraphs) that belong together: the captions of one picture, a
premise and its hypothesis, an English sentence and its translation, the sentences of one paragraph. Segments are joined
by ``</s>`` (paragraph sentences by a space), so a decoder and an encoder both see a sentence beside its paraphrase or
its translation: the translation language modelling of XLM (Lample and Conneau 2019, section 3.3).
"""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lacos_st.overlap import normalise

logger = logging.getLogger(__name__)

Segments = list[str]

# XNLI's languages beside English: those that BLOOM was trained on, and the modest share of others.
XNLI_BLOOM = ("ar", "es", "fr", "hi", "sw", "ur", "vi", "zh", "eu")
XNLI_OTHER = ("bg", "de", "el", "ru", "th", "tr")
NTREX_BLOOM = (
    "arb ben cat eus fra guj hin ibo ind kan kin mal mar nep nso pan por por-BR spa swa tam tel urd vie wol xho yor "
    "zho-CN zho-TW zul"
).split()
NTREX_OTHER = ("deu", "tur", "ita", "rus", "nld", "pol")
TATOEBA_BLOOM = "ara ben cat cmn eus fra hin ind mal mar por spa swh tam tel urd vie".split()
TATOEBA_OTHER = ("deu", "tur", "ita", "rus", "nld", "pol", "glg")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？।])\s*")


@dataclass(frozen=True)
class Source:
    """One file's documents: which share of them is kept, and how they are labelled in the counts.

    Attributes:
        name: label of the source in the counts, e.g. ``"xnli"``.
        language: BCP-47-like code of the language, ``"en+fr"`` for a document in two languages.
        documents: the documents in file order.
        keep: share of the documents that is kept, 0 < keep <= 1.
    """

    name: str
    language: str
    documents: Iterable[Segments]
    keep: float = 1.0


@dataclass
class Counts:
    """What the filter and the sampling left: documents, characters per source and language, sentences removed."""

    removed: int = 0
    documents: int = 0
    characters: dict[tuple[str, str], int] = field(default_factory=dict)


def rows(path: Path) -> Iterator[list[str]]:
    """The tab-separated rows of a file; nothing where the file is absent (a folder may hold part of the data)."""
    if not path.exists():
        logger.warning("no %s: this source is left out", path)
        return
    with path.open(encoding="utf-8", newline="\n") as lines:
        for line in lines:
            yield line.rstrip("\n").split("\t")


def evaluation_sentences(data: Path) -> set[str]:
    """Normalised sentences of every STS set: ``sts/en`` (STS-B train too), ``sts17``, ``stsb_multi_mt`` dev and test.

    Raises:
        FileNotFoundError: where ``data/sts`` is absent, because then nothing could be filtered.
    """
    if not (data / "sts").is_dir():
        raise FileNotFoundError(f"{data / 'sts'} does not exist: point LACOS_DATA or --data at the data folder")
    files = [*data.glob("sts/en/*.tsv"), *data.glob("sts/sts17/*.tsv")]
    files += [path for path in data.glob("sts/stsb_multi_mt/*.tsv") if not path.name.startswith("train.")]
    found = set()
    for path in files:
        is_english_set = path.parent.name == "en"  # there a subset or split column comes before the score
        for row in rows(path):
            found.update(normalise(text) for text in (row[2:4] if is_english_set else row[1:3]))
    return found - {""}


def detokenise(text: str) -> str:
    """Plain text of a sentence written as tokens: ``"do n't go ."`` becomes ``"don't go."``."""
    text = re.sub(r" ([.,!?;:%)\]])", r"\1", text)
    text = re.sub(r" (n't|'s|'re|'ve|'ll|'d|'m)\b", r"\1", text)
    text = re.sub(r"([(\[]) ", r"\1", text)
    return text.replace("`` ", '"').replace(" ''", '"').replace("-LRB-", "(").replace("-RRB-", ")")


def sources(data: Path) -> list[Source]:
    """Every source with the share that is kept: about 40 % English, sentence-like text above paragraphs and manuals."""
    nli, para = data / "nli", data / "para"
    captions = para / "multi30k_captions.train.tsv"
    found = [
        Source("captions", "en", (row[:5] for row in rows(captions)), 0.5),
        Source("captions", "de", (row[5:10] for row in rows(captions)), 0.12),
        Source("snli", "en", ([row[1], row[2]] for row in rows(nli / "snli_sample18k.tsv")), 0.7),
        Source("asset", "en", (row[:4] for part in ("valid", "test") for row in rows(para / f"asset.{part}.tsv")), 0.7),
    ]
    for part in ("dev", "test"):
        tokenised = nli / f"snli_tok.{part}.tsv"
        found.append(Source("snli", "en", ([detokenise(t) for t in row[1:3]] for row in rows(tokenised)), 0.7))
    for part in ("train", "test"):
        pairs = para / f"mrpc.{part}.tsv"
        found.append(Source("mrpc", "en", ([detokenise(t) for t in row[1:3]] for row in rows(pairs)), 0.5))
    for language, keep in (("en", 0.5), ("es", 0.3), ("fr", 0.3), ("zh", 0.3), ("de", 0.1)):
        pairs = para / f"pawsx_dev.{language}.tsv"
        found.append(Source("pawsx", language, ([detokenise(t) for t in row[1:3]] for row in rows(pairs)), keep))
    for part in ("train", "val", "test_lay"):
        found.append(Source("indonli", "id", (row[1:3] for row in rows(nli / f"indonli.{part}.tsv")), 0.5))
    return found + _xnli(nli / "xnli") + _parallel(data / "parallel") + _text(data / "text")


def _xnli(folder: Path) -> list[Source]:
    """Premise and hypothesis in one language, and the same sentence in English and another language."""
    found = []
    for part in ("dev", "test"):
        english = list(rows(folder / f"{part}.en.tsv"))
        found.append(Source("xnli", "en", (row[1:3] for row in english), 0.5))
        for language in XNLI_BLOOM + XNLI_OTHER:
            if part == "dev" and language == "eu":  # Basque has a test part only
                continue
            keep = 0.5 if language in XNLI_BLOOM else 0.08
            other = list(rows(folder / f"{part}.{language}.tsv"))
            found.append(Source("xnli", language, (row[1:3] for row in other), keep))
            if len(other) == len(english):
                pairs = ([e[k], o[k]] for e, o in zip(english, other, strict=True) for k in (1, 2))
                found.append(Source("xnli", f"en+{language}", pairs, keep * 0.6))
    return found


def _parallel(folder: Path) -> list[Source]:
    """English and another language side by side: captions, news, everyday sentences."""
    found = []
    captions = folder / "multi30k.en-de-fr-cs.train.tsv"
    for column, language, keep in ((2, "fr", 0.5), (1, "de", 0.15)):
        pairs = ([row[0], row[column]] for row in rows(captions))
        found.append(Source("multi30k", f"en+{language}", pairs, keep))
    english = [row[0] for row in rows(folder / "ntrex/eng.txt")]
    for language in (*NTREX_BLOOM, *NTREX_OTHER):
        other = [row[0] for row in rows(folder / f"ntrex/{language}.txt")]
        keep = 0.12 if language in NTREX_BLOOM else 0.06
        pairs = ([e, o] for e, o in zip(english, other, strict=False))
        found.append(Source("ntrex", f"en+{language}", pairs, keep))
    for language in (*TATOEBA_BLOOM, *TATOEBA_OTHER):
        stem = f"tatoeba/tatoeba.{language}-eng"
        both = zip(rows(folder / f"{stem}.eng"), rows(folder / f"{stem}.{language}"), strict=False)
        keep = 1.0 if language in TATOEBA_BLOOM else 0.5
        found.append(Source("tatoeba", f"en+{language}", ([e[0], o[0]] for e, o in both), keep))
    return found


def _text(folder: Path) -> list[Source]:
    """Encyclopaedia paragraphs (split into sentences, so that each is compared) and a little of the office manual."""
    shares = dict(en=0.3, es=0.2, zh=0.15, vi=0.2, ar=0.3, hi=0.3, sw=0.6, te=0.2, id=0.8, bn=0.5, de=0.05, tr=0.3)
    found = []
    for language, keep in shares.items():
        paragraphs = (_sentences(" ".join(row)) for row in rows(folder / f"wiki_paragraphs/{language}.txt"))
        found.append(Source("wiki", language, paragraphs, keep))
    manual = folder / "libreoffice_help"
    for language in ("ca", "es", "eu", "fr", "id", "pt-br", "vi", "zh-cn", "hi"):
        found.append(Source("manual", f"en+{language}", rows(manual / f"{language}.tsv"), 0.025))
    return found


def _sentences(paragraph: str) -> Segments:
    # A newline in front marks a running sentence: it is joined to the one before by a space, not by </s>.
    first, *rest = SENTENCE_END.split(paragraph)
    return [first, *("\n" + sentence for sentence in rest)]


def documents(data: Path, *, scale: float = 1.0, seed: int = 0) -> tuple[list[Segments], Counts]:
    """The sampled documents in random order, without evaluation sentences and without documents seen before.

    Args:
        data: the data folder (``sts``, ``nli``, ``para``, ``parallel``, ``text``).
        scale: multiplies every source's share; where the product passes 1 the source is taken whole.
        seed: of the sample and of the order.

    Returns:
        The documents, each a non-empty list of segments, and the counts.
    """
    held_out = evaluation_sentences(data)
    rng = random.Random(seed)
    counts, kept, seen = Counts(), [], set()
    for source in sources(data):
        for segments in source.documents:
            if rng.random() >= source.keep * scale:
                continue
            clean = [segment for segment in segments if segment.strip() and normalise(segment) not in held_out]
            counts.removed += sum(normalise(segment) in held_out for segment in segments)
            key = "\t".join(clean)
            if not clean or key in seen:
                continue
            seen.add(key)
            kept.append(clean)
            label = (source.name, source.language)
            counts.characters[label] = counts.characters.get(label, 0) + len(key)
    rng.shuffle(kept)
    counts.documents = len(kept)
    return kept, counts


def document_text(segments: Segments, *, separator: str = "</s>") -> str:
    """One string for the tokenizer: segments joined by the separator, running sentences by a space."""
    text = segments[0].strip()
    for segment in segments[1:]:
        text += " " + segment.strip() if segment.startswith("\n") else separator + segment.strip()
    return text
