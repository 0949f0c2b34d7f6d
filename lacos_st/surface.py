"""From a meaning to a sentence: agreement, articles, negation and the passive in six languages."""

from __future__ import annotations

import random
from dataclasses import dataclass

from lacos_st.lexicon import ADJECTIVES, BEINGS, KINDS, NOUNS, NUMBERS, PLACES, TIMES, VERBS, Concept, Word


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """Who does what to what, where and when. The values are concept names of the lexicon; "" leaves a slot out.

    Attributes:
        agent: A being.
        verb: A verb.
        patient: A being or a thing, as the verb asks.
        number: How many things, 1 to 4; 1 for beings.
        adjective: Of the patient, things only.
        place: Where.
        time: When.
        negated: The sentence denies it.
    """

    agent: str
    verb: str
    patient: str
    number: int = 1
    adjective: str = ""
    place: str = ""
    time: str = ""
    negated: bool = False


@dataclass(frozen=True)
class _Phrase:
    text: str
    feminine: bool = False
    plural: bool = False


def sentence(meaning: Meaning, *, language: str, rng: random.Random) -> str:
    """Say `meaning` in `language`: synonyms, active or passive, and the place of the time phrase are drawn from `rng`.

    Two calls give different words and order, never another meaning.

    Raises:
        KeyError: `language` or a concept is not in the lexicon.
    """

    def pick(concept: Concept) -> Word:
        return rng.choice(concept.words[language])

    agent = _definite(pick(BEINGS.get(meaning.agent) or KINDS[meaning.agent]), language)
    noun = pick(NOUNS[meaning.patient])
    if "being" in VERBS[meaning.verb].traits:
        patient, is_indefinite = _definite(noun, language), False
    else:
        adjective = pick(ADJECTIVES[meaning.adjective]) if meaning.adjective else None
        patient, is_indefinite = _counted(noun, adjective, meaning.number, language), meaning.number == 1
    verb = pick(VERBS[meaning.verb])
    passive = rng.random() < 0.35  # often enough that word order is no key to who does what
    if passive:
        core = _passive(agent, patient, verb, meaning, language)
    else:
        core = _active(agent, patient, verb, meaning, language, is_indefinite=is_indefinite)
    parts = [core]
    if meaning.place:
        parts.append(pick(PLACES[meaning.place]).forms[0])
    if meaning.time:
        time = pick(TIMES[meaning.time]).forms[0]
        if rng.random() < 0.5:
            parts.append(time)
        else:
            parts[0] = f"{time}, {parts[0]}"
    text = " ".join(parts)
    return text[0].upper() + text[1:] + "."


def _definite(noun: Word, language: str) -> _Phrase:
    text, feminine = noun.forms[0], noun.gender == "f"
    match language:
        case "en":
            text = f"the {text}"
        case "fr":
            text = f"l'{text}" if _starts_with_vowel(text) else f"{'la' if feminine else 'le'} {text}"
        case "es":
            text = f"{'la' if feminine else 'el'} {text}"
        case "pt":
            text = f"{'a' if feminine else 'o'} {text}"
        case "id":
            text = f"{text} itu"
        case _:
            text = f"{text} đó"
    return _Phrase(text, feminine)


def _counted(noun: Word, adjective: Word | None, number: int, language: str) -> _Phrase:
    feminine, plural = noun.gender == "f", number > 1
    count = NUMBERS[language][number - 1][feminine]
    name = _plural(noun, language) if plural else noun.forms[0]
    quality = _agree(adjective, language, feminine=feminine, plural=plural) if adjective else ""
    words = f"{quality} {name}" if language == "en" else f"{name} {quality}"
    if language == "en" and number == 1 and words.strip()[0] in "aeiou":
        count = "an"
    return _Phrase(f"{count} {words.strip()}", feminine, plural)


def _plural(noun: Word, language: str) -> str:
    text = noun.forms[0]
    if noun.plural or language in ("id", "vi"):
        return noun.plural or text
    if language == "en":
        return text + ("es" if text.endswith(("s", "x", "ch", "sh")) else "s")
    if language == "fr":
        return text if text.endswith(("s", "x", "z")) else text + ("x" if text.endswith("eau") else "s")
    return text + ("s" if text[-1] in "aeiouãé" else "es")


def _agree(adjective: Word, language: str, *, feminine: bool, plural: bool) -> str:
    """The form of an adjective or participle; three forms are masculine, feminine and plural."""
    forms = adjective.forms
    masculine = forms[0]
    if language not in ("fr", "es", "pt"):
        return masculine
    if len(forms) == 3 and plural and (not feminine or forms[1] == masculine):
        return forms[2]
    if not feminine:
        text = masculine
    elif len(forms) > 1:
        text = forms[1]
    elif language == "fr":
        text = masculine if masculine.endswith("e") else masculine + "e"
    else:
        text = masculine[:-1] + "a" if masculine.endswith("o") else masculine
    if not plural or text.endswith("s"):
        return text
    return text + ("s" if language == "fr" or text[-1] in "aeiou" else "es")


def _active(
    agent: _Phrase, patient: _Phrase, verb: Word, meaning: Meaning, language: str, *, is_indefinite: bool
) -> str:
    form, target = verb.forms[0], patient.text
    if language == "en":
        form = f"does not {form}" if meaning.negated else _third_person(form)
    elif language == "fr":
        if meaning.negated:
            form = f"{'n' + chr(39) if _starts_with_vowel(form) else 'ne '}{form} pas"
            if is_indefinite:  # "pas de", not "pas un"
                bare = target.split(" ", 1)[1]
                target = f"d'{bare}" if _starts_with_vowel(bare) else f"de {bare}"
    elif meaning.negated:
        form = f"{_NOT[language]} {form}"
    if language == "es" and "being" in VERBS[meaning.verb].traits:  # the personal a
        target = "al " + target.removeprefix("el ") if target.startswith("el ") else f"a {target}"
    return f"{agent.text} {form} {target}"


_NOT = {"es": "no", "pt": "não", "id": "tidak", "vi": "không"}


def _passive(agent: _Phrase, patient: _Phrase, verb: Word, meaning: Meaning, language: str) -> str:
    negated, plural = meaning.negated, patient.plural
    if language == "id":
        return f"{patient.text} {'tidak ' if negated else ''}{verb.forms[1]} oleh {agent.text}"
    if language == "vi":
        passive = VERBS[meaning.verb].traits[2]
        return f"{patient.text} {'không ' if negated else ''}{passive} {agent.text} {verb.forms[0]}"
    if language == "en":
        return f"{patient.text} {'are' if plural else 'is'} {'not ' if negated else ''}{verb.forms[1]} by {agent.text}"
    participle = _agree(Word(verb.forms[1:]), language, feminine=patient.feminine, plural=plural)
    if language == "fr":
        be = ("ne sont pas" if plural else "n'est pas") if negated else ("sont" if plural else "est")
        return f"{patient.text} {be} {participle} par {agent.text}"
    be = ("son" if plural else "es") if language == "es" else ("são" if plural else "é")
    by = f"por {agent.text}" if language == "es" else f"pel{agent.text}"  # por + o, a = pelo, pela
    return f"{patient.text} {_NOT[language] + ' ' if negated else ''}{be} {participle} {by}"


def _third_person(verb: str) -> str:
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ies"
    return verb + ("es" if verb.endswith(("s", "x", "ch", "sh", "o")) else "s")


def _starts_with_vowel(text: str) -> bool:
    return text[0] in "aeiouéèêâîh"  # every h of the French table is mute
