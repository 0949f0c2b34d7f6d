"""Synthetic text for the offline demo: NLI rows and graded pairs that a small grammar writes in six languages.

Nothing here was collected: the sentences are simple, unnatural in places, and no figure measured on them says anything
about real text. They serve to run the whole path (train, evaluate, compare) with nothing but the package.

The score of a graded pair follows from its meanings, not from its words. Over the slots s that either meaning fills,

    score = 5 · p · Σ w_s·m_s / Σ w_s

with the weights of `WEIGHTS`; m_s is 1 for the same concept, 0.5 for two different nouns of one kind (car and bicycle)
or a noun and its kind (car and vehicle), else 0; p is 0.5 where one meaning is denied and the other is not, else 1.
Synonyms, passive and order leave it at 5; exchanging agent and patient changes two slots but no word.

Every core (verb, agent, patient) belongs to training or to evaluation by a hash of its concepts, so no evaluation
sentence, nor a paraphrase, translation or exchange of it, stands in the training rows.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from lacos_st.errors import UserError
from lacos_st.lexicon import ADJECTIVES, BEINGS, KINDS, LANGUAGES, NOUNS, PLACES, THINGS, TIMES, VERBS
from lacos_st.surface import Meaning, sentence

__all__ = ["LANGUAGES", "WEIGHTS", "GradedRow", "NliRow", "graded_rows", "nli_rows", "score", "write"]

WEIGHTS = {"agent": 1.0, "verb": 1.0, "patient": 1.0, "number": 0.5, "adjective": 0.5, "place": 0.5, "time": 0.5}
_Row = TypeVar("_Row", "NliRow", "GradedRow")
LABELS = ("entailment", "neutral", "contradiction")
_TRIES_PER_ROW = 2000  # draws of the wrong part or of a known row are thrown away; this many: nothing new is left


class NliRow(NamedTuple):
    """One NLI row; `label` is "entailment", "neutral" or "contradiction"."""

    label: str
    premise: str
    hypothesis: str


class GradedRow(NamedTuple):
    """One graded pair; `score` runs from 0 (nothing in common) to 5 (the same meaning)."""

    score: float
    sentence1: str
    sentence2: str


def nli_rows(n: int, *, languages: Sequence[str] = LANGUAGES, seed: int = 0) -> list[NliRow]:
    """Write `n` different NLI rows of the training part; languages and labels take turns.

    Entailment: said otherwise (synonyms, passive, order), with details left out, a noun by its kind, or both.
    Neutral: a detail that the premise does not give, agent and patient exchanged, or another act of the same agent.
    Contradiction, of the same event: denied, the opposite verb, or another place, time or colour.

    Raises:
        UserError: An unknown language, `n` below zero, or more rows than the grammar has.
    """
    _check(n, languages)
    rng = random.Random(f"nli {seed} {' '.join(languages)}")
    rows: dict[NliRow, None] = {}
    for place in range(n):
        language, label = languages[place % len(languages)], LABELS[place // len(languages) % 3]

        def draw(language: str = language, label: str = label) -> NliRow | None:
            premise = _draw(rng)
            hypothesis = _HYPOTHESES[label](premise, rng)
            if hypothesis is None or _is_evaluation(premise) or _is_evaluation(hypothesis):
                return None
            texts = [sentence(meaning, language=language, rng=rng) for meaning in (premise, hypothesis)]
            return NliRow(label, *texts) if texts[0] != texts[1] else None

        rows[_new(draw, rows)] = None
    return list(rows)


def graded_rows(n: int, *, language1: str = "en", language2: str = "en", seed: int = 0) -> list[GradedRow]:
    """Write `n` different graded pairs of the evaluation part, one sentence in each language.

    A fifth each: the same meaning; details changed or left out; one core slot changed; agent and patient exchanged or
    the sentence denied (many words in common, another meaning); unrelated.

    Raises:
        UserError: As `nli_rows`.
    """
    _check(n, (language1, language2))
    rng = random.Random(f"graded {seed} {language1} {language2}")
    rows: dict[GradedRow, None] = {}
    for place in range(n):
        change = _CHANGES[place % len(_CHANGES)]

        def draw(change: Callable[[Meaning, random.Random], Meaning | None] = change) -> GradedRow | None:
            first = _draw(rng)
            second = change(first, rng)
            if second is None or not (_is_evaluation(first) and _is_evaluation(second)):
                return None
            text1 = sentence(first, language=language1, rng=rng)
            text2 = sentence(second, language=language2, rng=rng)
            return GradedRow(round(score(first, second), 2), text1, text2) if text1 != text2 else None

        rows[_new(draw, rows)] = None
    return list(rows)


def score(first: Meaning, second: Meaning) -> float:
    """Similarity of two meanings, 0 to 5, by the formula of the module's docstring; symmetric."""
    total = shared = 0.0
    for slot, weight in WEIGHTS.items():
        one, other = _value(first, slot), _value(second, slot)
        if one or other:
            total += weight
            shared += weight * (1.0 if one == other else 0.5 if _kind(one) & _kind(other) else 0.0)
    polarity = 0.5 if first.negated != second.negated else 1.0
    return 5.0 * polarity * shared / total


def write(
    folder: str | Path,
    *,
    nli_rows: int = 3000,
    graded_rows: int = 500,
    languages: Sequence[str] = LANGUAGES,
    seed: int = 0,
) -> list[Path]:
    """Write the demo's data: UTF-8, tab-separated, no header, no quoting, LF.

    `nli/train.<language>.tsv` (label, premise, hypothesis) for each language; `sts/grammar.<l>-<l>.tsv` (score,
    sentence1, sentence2) for each language with itself, `sts/grammar.en-<l>.tsv` for English with each other one.
    `load_pairs` and `load_nli` read the folder `nli`; `load_tasks` reads the folder `sts`.

    Args:
        folder: Made where it is missing; files of these names are replaced.
        nli_rows: Rows of each NLI file.
        graded_rows: Rows of each graded file.
        languages: Which of `LANGUAGES`.
        seed: Same seed, same files, byte for byte.

    Returns:
        The files.

    Raises:
        UserError: An unknown language, or more rows than the grammar has.
    """
    files: dict[Path, Sequence[NliRow | GradedRow]] = {}
    for language in languages:
        files[Path(folder, "nli", f"train.{language}.tsv")] = _write_nli(nli_rows, languages=[language], seed=seed)
        for first in dict.fromkeys([language, "en"]):
            rows = _write_graded(graded_rows, language1=first, language2=language, seed=seed)
            files[Path(folder, "sts", f"grammar.{first}-{language}.tsv")] = rows
    for path, lines in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        text = "".join("\t".join(map(str, row)) + "\n" for row in lines)
        path.write_text(text, encoding="utf-8", newline="\n")
    return list(files)


_write_nli, _write_graded = nli_rows, graded_rows  # `write` has arguments of these names


def _check(n: int, languages: Sequence[str]) -> None:
    unknown = [language for language in languages if language not in LANGUAGES]
    if unknown or not languages:
        raise UserError(f"languages {', '.join(unknown) or '(none)'}: the grammar writes {', '.join(LANGUAGES)}")
    if n < 0:
        raise UserError(f"{n} rows asked for: expected zero or more")


def _new(draw: Callable[[], _Row | None], rows: dict[_Row, None]) -> _Row:
    for _ in range(_TRIES_PER_ROW):
        row = draw()
        if row is not None and row not in rows:
            return row
    raise UserError(f"the grammar found no new row after {len(rows)}: ask for fewer")


def _is_evaluation(meaning: Meaning) -> bool:
    """A quarter of the cores; the same for agent and patient exchanged."""
    core = " ".join((meaning.verb, *sorted((meaning.agent, meaning.patient))))
    return hashlib.sha256(core.encode()).digest()[0] % 4 == 0


def _value(meaning: Meaning, slot: str) -> str | int:
    """What fills a slot, "" if nothing does; "a book" says nothing of number, "two books" does."""
    value: str | int = getattr(meaning, slot)
    return "" if value == 1 else value


def _kind(name: str | int) -> frozenset[str]:
    """The kinds that a noun counts as: its own and, of a kind, itself; empty for what is no noun."""
    if not isinstance(name, str) or name not in NOUNS:
        return frozenset()
    return frozenset([name if name in KINDS else NOUNS[name].traits[0]])


def _draw(rng: random.Random) -> Meaning:
    verb = rng.choice(list(VERBS))
    takes_things = VERBS[verb].traits[1] == "thing"
    agents = [name for name in BEINGS if not takes_things or BEINGS[name].traits[0] == "person"]
    agent = rng.choice(agents)
    patient = rng.choice([name for name in (THINGS if takes_things else BEINGS) if name != agent])
    return Meaning(
        agent=agent,
        verb=verb,
        patient=patient,
        number=rng.choice((1, 1, 1, 2, 3, 4)) if takes_things else 1,
        adjective=rng.choice(list(ADJECTIVES)) if takes_things and rng.random() < 0.6 else "",
        place=rng.choice(list(PLACES)) if rng.random() < 0.6 else "",
        time=rng.choice(list(TIMES)) if rng.random() < 0.5 else "",
    )


def _other(names: Sequence[str], name: str, rng: random.Random) -> str:
    return rng.choice([other for other in names if other != name])


def _with(meaning: Meaning, slot: str, value: str) -> Meaning:
    changes: dict[str, Any] = {slot: value}
    return replace(meaning, **changes)


def _details(meaning: Meaning) -> list[str]:
    return [slot for slot in ("adjective", "place", "time") if getattr(meaning, slot)]


def _generalise(meaning: Meaning, rng: random.Random) -> Meaning:
    """The same event with less said: details left out, a noun by its kind."""
    for slot in _details(meaning):
        if rng.random() < 0.4:
            meaning = _with(meaning, slot, "")
    for slot in ("agent", "patient"):
        kind = NOUNS[getattr(meaning, slot)].traits[0]
        if kind != meaning.agent and rng.random() < 0.25:  # not "the person follows the person"
            meaning = _with(meaning, slot, kind)
    return meaning


def _neutral(meaning: Meaning, rng: random.Random) -> Meaning | None:
    free = [slot for slot in ("place", "time") if not getattr(meaning, slot)]
    if VERBS[meaning.verb].traits[1] == "thing" and not meaning.adjective:
        free.append("adjective")
    choice = rng.choice(("detail", "exchange", "act"))
    if choice == "detail" and free:
        return _with_detail(meaning, rng.choice(free), rng)
    if choice == "exchange":
        return _exchange(meaning, rng)
    same = [name for name, verb in VERBS.items() if verb.traits[1] == VERBS[meaning.verb].traits[1]]
    verb = _other(same, meaning.verb, rng)
    return None if verb == VERBS[meaning.verb].traits[0] else replace(meaning, verb=verb)


def _with_detail(meaning: Meaning, slot: str, rng: random.Random) -> Meaning:
    tables = {"adjective": ADJECTIVES, "place": PLACES, "time": TIMES}
    names = list(tables[slot])
    old = getattr(meaning, slot)
    if slot == "adjective" and old:  # of the same kind: red against blue, clean against dirty
        names = [name for name in names if ADJECTIVES[name].traits == ADJECTIVES[old].traits]
    return _with(meaning, slot, _other(names, old, rng))


def _contradict(meaning: Meaning, rng: random.Random) -> Meaning | None:
    choice = rng.choice(("deny", "oppose", "detail"))
    details = _details(meaning)
    if choice == "detail" and details:
        return _with_detail(meaning, rng.choice(details), rng)
    opposite = VERBS[meaning.verb].traits[0]
    if choice == "oppose" and opposite != "-":
        return replace(meaning, verb=opposite)
    return replace(_generalise(meaning, rng), negated=True)


def _exchange(meaning: Meaning, rng: random.Random) -> Meaning | None:
    """Agent and patient change places; None where the patient is a thing."""
    if VERBS[meaning.verb].traits[1] == "thing":
        return None
    return replace(meaning, agent=meaning.patient, patient=meaning.agent)


def _vary(meaning: Meaning, rng: random.Random) -> Meaning | None:
    """One or two details changed or left out."""
    details = _details(meaning)
    if not details:
        return None
    for slot in rng.sample(details, rng.randint(1, min(2, len(details)))):
        meaning = _with_detail(meaning, slot, rng) if rng.random() < 0.5 else _with(meaning, slot, "")
    return meaning


def _change_core(meaning: Meaning, rng: random.Random) -> Meaning | None:
    """Another agent, act or patient, all else equal."""
    fresh = _draw(rng)
    if VERBS[fresh.verb].traits[1] != VERBS[meaning.verb].traits[1]:
        return None
    slot = rng.choice(("agent", "verb", "patient"))
    changed = _with(meaning, slot, getattr(fresh, slot))
    return None if changed == meaning or changed.agent == changed.patient else changed


def _exchange_or_deny(meaning: Meaning, rng: random.Random) -> Meaning | None:
    return _exchange(meaning, rng) if rng.random() < 0.6 else replace(meaning, negated=True)


_HYPOTHESES: dict[str, Callable[[Meaning, random.Random], Meaning | None]] = {
    "entailment": _generalise,
    "neutral": _neutral,
    "contradiction": _contradict,
}
_CHANGES: tuple[Callable[[Meaning, random.Random], Meaning | None], ...] = (
    lambda meaning, rng: meaning,
    _vary,
    _change_core,
    _exchange_or_deny,
    lambda meaning, rng: _draw(rng),
)
