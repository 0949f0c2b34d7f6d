"""Tatoeba retrieval: how often a sentence's nearest neighbour in the other language is its translation.

    python -m benchmarks.multilingual.retrieval DATA NAME=MODEL... --languages spa ara tur --seen spa ara

Stock `TranslationEvaluator`, accuracy in both directions, for each language with English; a row per model and language
is added to `results/retrieval.jsonl`, and one that is there for the same files is not measured again. `--seen` names
the languages that the model's training pairs held: the others are marked in the table.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import TranslationEvaluator

from benchmarks import rows
from lacos_st.errors import UserError
from lacos_st.models import load_model

NAME = "retrieval"
# XNLI's languages that Tatoeba has; from ces some of NTREX and Multi30k; the last three no training pair of ours is in.
LANGUAGES = "ara bul deu ell spa fra hin rus swh tha tur urd vie cmn ces jpn kor ita pol fin ind heb est gle".split()


def load_pair(data: Path, language: str, limit: int) -> tuple[list[str], list[str]]:
    """The first `limit` sentences in a language and their English translations.

    Raises:
        UserError: the language is not there, or its files have different numbers of lines.
    """
    folder = data / "parallel" / "tatoeba"
    files = [folder / f"tatoeba.{language}-eng.{side}" for side in (language, "eng")]
    if not all(file.is_file() for file in files):
        known = sorted(file.suffix[1:] for file in folder.glob("tatoeba.*-eng.*") if file.suffix != ".eng")
        raise UserError(f"Tatoeba has no language {language!r} in {folder}: choose from {' '.join(known) or '(none)'}")
    first, second = (file.read_text(encoding="utf-8").removesuffix("\n").split("\n") for file in files)
    if len(first) != len(second):
        raise UserError(f"Tatoeba {language}: {len(first)} lines beside {len(second)} English ones: not aligned")
    return first[:limit], second[:limit]


def measure(model: SentenceTransformer, foreign: list[str], english: list[str], *, batch_size: int) -> dict[str, Any]:
    """Accuracy in both directions, in percent: from English to the language, and back."""
    evaluator = TranslationEvaluator(english, foreign, batch_size=batch_size, write_csv=False)
    found = evaluator(model)
    return {
        "from_english": 100 * found["src2trg_accuracy"],
        "to_english": 100 * found["trg2src_accuracy"],
    }


def identity(path: str, texts: Iterable[str]) -> str:
    """Of a model (its files' sizes and times where it is a folder or file) and of the sentences."""
    digest = hashlib.sha256(path.encode())
    place = Path(path)
    for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
        if file.is_file():
            digest.update(f"{file}\t{file.stat().st_size}\t{file.stat().st_mtime_ns}\n".encode())
    for text in texts:
        digest.update(text.encode() + b"\n")
    return digest.hexdigest()[:16]


def table(found: dict[tuple[str, str], dict[str, Any]], models: list[str], seen: set[str]) -> str:
    """Markdown: a line per language, for each model accuracy from and to English; a star where it was not seen."""
    languages = list(dict.fromkeys(language for _, language in found))
    lines = [
        "| language | " + " | ".join(f"{model}: en→x | x→en" for model in models) + " |",
        "| --- |" + " ---: | ---: |" * len(models),
    ]
    for language in languages:
        cells = [f"{found[model, language][key]:.1f}" for model in models for key in ("from_english", "to_english")]
        lines.append(f"| {language}{'' if language in seen else '*'} | " + " | ".join(cells) + " |")
    means = [
        f"{sum(found[model, language][key] for language in languages) / len(languages):.1f}"
        for model in models
        for key in ("from_english", "to_english")
    ]
    return "\n".join([*lines, "| mean | " + " | ".join(means) + " |", "", "\\* not in the training pairs"])


def main() -> None:
    """Measure what has no row yet and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("models", nargs="+", metavar="NAME=MODEL", help="a name for the table, and a folder or base")
    parser.add_argument("--languages", nargs="+", default=LANGUAGES, help="Tatoeba's codes")
    parser.add_argument("--seen", nargs="*", default=[], help="languages that the training pairs held")
    parser.add_argument("--rows", type=int, default=1000, help="sentences of a language, from the first [1000]")
    parser.add_argument("--batch-size", type=int, default=64)
    options = parser.parse_args()
    known = {row["identity"]: row for row in rows.read(NAME)}
    found: dict[tuple[str, str], dict[str, Any]] = {}
    names = []
    try:
        for text in options.models:
            name, _, path = text.partition("=")
            if not path:
                parser.error(f"{text!r}: give NAME=MODEL")
            names.append(name)
            model = None
            for language in options.languages:
                foreign, english = load_pair(options.data, language, options.rows)
                key = identity(path, [*foreign, *english])
                if key not in known:
                    model = model or load_model(path)
                    accuracy = measure(model, foreign, english, batch_size=options.batch_size)
                    known[key] = rows.append(
                        NAME, identity=key, model=name, language=language, sentences=len(foreign), **accuracy
                    )
                    print(f"{name} {language}: {accuracy}", flush=True)
                found[name, language] = known[key]
    except UserError as error:
        parser.error(str(error))
    print(table(found, names, set(options.seen)))


if __name__ == "__main__":
    main()
