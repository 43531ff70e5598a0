"""Noun phrases of an English caption, by rule.

A word is a determiner, a function word, a verb, or content; a phrase is a run of determiners and content. The lists stand
in `english`; what they don't know is content, except participles and what cannot agree with "a", which their neighbours
decide. Made for picture captions ("a man in a red shirt holding two umbrellas"), not for English at large. On captions
nobody tuned it for, about 7 of 8 phrases are right and 7 of 8 are found (measured in the tests).

Known limits: an unknown finite verb is often taken for a noun ("the boy yodels" is one phrase), a noun that is also a verb
may be cut off ("a hot dog stands"), pronouns are never phrases, "a cup of tea" is two phrases but "a group of people" one,
and other languages give nonsense. spaCy may do better and can be asked instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from openvocab.errors import MissingDependencyError, PromptError

from . import english
from .caption import Caption, Span

_WORD = re.compile(r"[^\W_]+(?:[-'’][^\W_]+)*|\S")
SPACY_MODEL = "en_core_web_sm"


@dataclass
class _Word:
    text: str
    start: int
    end: int
    kind: str = ""  # "determiner", "stop" or "content"

    @property
    def is_punctuation(self) -> bool:
        return not self.text[0].isalnum()


def noun_phrases(text: str, *, backend: str = "rules") -> Caption:
    """Return the caption with its noun phrases as phrases, in order.

    Args:
        text: an English sentence.
        backend: "rules", or "spacy" (with the model en_core_web_sm installed).

    Raises:
        PromptError: for an empty text, one without a noun phrase, or an unknown backend.
        MissingDependencyError: for "spacy" without spaCy or its model.
    """
    if not isinstance(text, str) or not text.strip():
        raise PromptError(f"the caption is {text!r:.60}; it must be a text that is not blank")
    if backend not in ("rules", "spacy"):
        raise PromptError(f"backend='{backend}' is neither 'rules' nor 'spacy'")
    spans = _by_rules(text) if backend == "rules" else _by_spacy(text)
    if not spans:
        raise PromptError(f"no noun phrase was found in '{text[:80]}'; name what to look for, as in 'cat. dog.'")
    return Caption(text, tuple((span,) for span in spans))


def _by_rules(text: str) -> list[Span]:
    words = [_Word(m.group().casefold().replace("’", "'"), *m.span()) for m in _WORD.finditer(text)]
    _set_kinds(words)
    runs = [_trimmed(run) for run in _runs(words)]
    return [(run[0].start, run[-1].end) for run in runs if _names_a_thing(run)]


def _set_kinds(words: list[_Word]) -> None:
    """Two passes: first what a word is by itself, then what its neighbours make of it."""
    for word in words:
        word.kind = _kind_alone(word)
    for i, word in enumerate(words):
        if _refers_back(words, i):
            word.kind = "stop"
        elif word.kind == "open":
            word.kind = _kind_among(words, i)
        elif word.kind == "content" and (_agrees_as_verb(words, i) or _is_infinitive(words, i)):
            word.kind = "stop"
    for i, word in enumerate(words):
        if word.kind == "stop" and _joins(words, i):
            word.kind = "content"


def _kind_alone(word: _Word) -> str:
    text = word.text
    if word.is_punctuation or text in english.FUNCTION:
        return "stop"
    if text in english.DETERMINERS:
        return "determiner"
    if text in english.ING_NOUNS or text in english.ED_NOUNS or text in english.LY_CONTENT:
        return "content"
    if len(text) > 4 and text.endswith("ly"):
        return "stop"
    in_doubt = text in _RULES or (len(text) > 4 and text.endswith(("ing", "ed")))
    return "open" if in_doubt else "content"


def _kind_among(words: list[_Word], i: int) -> str:
    """Kind of a verb, participle or place word between its neighbours; those to the left are settled."""
    before = words[i - 1].kind if i else "stop"
    after = words[i + 1] if i + 1 < len(words) else None
    after_is_content = after is not None and after.kind in ("content", "open") and not after.is_punctuation
    rule = _RULES.get(words[i].text) or (_ing if words[i].text.endswith("ing") else _ed)
    return "content" if rule(words, i, before, after_is_content) else "stop"


def _refers_back(words: list[_Word], i: int) -> bool:
    """True for "that" after a noun ("a chair that ...") and for "each other"."""
    before = words[i - 1] if i else None
    if words[i].text == "that":
        return before is not None and before.kind == "content"
    if words[i].text == "other":
        return before is not None and before.text == "each"
    return False


def _agrees_as_verb(words: list[_Word], i: int) -> bool:
    """True for "dives" in "a goalkeeper dives for ...": what follows "a" and a noun is no plural noun."""
    text = words[i].text
    after = words[i + 1] if i + 1 < len(words) else None
    if not text.endswith("s") or text.endswith(("ss", "us", "is", "'s", "series")) or not _subject(words, i):
        return False
    if after is not None and after.kind == "content" and after.text not in english.ADJECTIVES:
        return False  # "a kitchen utensils drawer"
    k = i - 1
    while k >= 0 and words[k].kind == "content" and words[k].text != "of":
        k -= 1
    nouns = [w for w in words[k + 1 : i] if w.text not in english.ADJECTIVES]
    return bool(nouns) and k >= 0 and words[k].text in english.SINGULAR


def _is_infinitive(words: list[_Word], i: int) -> bool:
    """True for "fetch" in "to fetch a stick"."""
    after = words[i + 1] if i + 1 < len(words) else None
    return bool(i) and words[i - 1].text == "to" and after is not None and after.kind == "determiner"


def _subject(words: list[_Word], i: int) -> str:
    """The noun right before word i, or an empty string."""
    return words[i - 1].text if i and words[i - 1].kind == "content" else ""


def _is_plural(noun: str) -> bool:
    return noun in english.PLURALS or (noun.endswith("s") and not noun.endswith(("ss", "us", "is")))


def _opens_phrase(words: list[_Word], i: int) -> bool:
    """True if only determiners and adjectives stand between word i and the start of its phrase, and at least one does."""
    k = i - 1
    while k >= 0 and words[k].kind == "content" and words[k].text in english.ADJECTIVES:
        k -= 1
    return k >= 0 and (words[k].kind == "determiner" or k < i - 1)


def _verb(words: list[_Word], i: int, before: str, after_is_content: bool) -> bool:
    return before == "determiner"


def _noun_verb(words: list[_Word], i: int, before: str, after_is_content: bool) -> bool:
    if before == "determiner" or not i:
        return True
    after = words[i + 1] if i + 1 < len(words) else None
    acts = after is not None and (after.kind == "determiner" or after.text in ("together", "at", "with", "to"))
    return not (_is_plural(_subject(words, i)) or words[i - 1].text == "to" or acts)


def _noun_verb_s(words: list[_Word], i: int, before: str, after_is_content: bool) -> bool:
    if i and words[i - 1].text in english.RELATIVE:
        return False
    subject = _subject(words, i)
    return not subject or _is_plural(subject) or subject in english.ADJECTIVES


def _place(words: list[_Word], i: int, before: str, after_is_content: bool) -> bool:
    return after_is_content and _opens_phrase(words, i)


def _ing(words: list[_Word], i: int, before: str, after_is_content: bool) -> bool:
    if words[i].text in english.ING_ADJECTIVES and after_is_content and words[i + 1].text in english.ING_HEADS:
        return True
    counted = bool(i) and words[i - 1].text in english.NUMBERS  # "two grazing"
    return (before == "determiner" and not counted) or (after_is_content and _opens_phrase(words, i))


def _ed(words: list[_Word], i: int, before: str, after_is_content: bool) -> bool:
    if i and words[i - 1].text in english.BE:
        return False
    return after_is_content or (before == "determiner" and i + 1 < len(words) and words[i + 1].is_punctuation)


_Rule = Callable[[list[_Word], int, str, bool], bool]
_RULES: dict[str, _Rule] = {
    **dict.fromkeys(english.PLACES, _place),
    **dict.fromkeys(english.NOUN_VERBS_S, _noun_verb_s),
    **dict.fromkeys(english.NOUN_VERBS, _noun_verb),
    **dict.fromkeys(english.VERBS, _verb),
}


def _joins(words: list[_Word], i: int) -> bool:
    """True for "and" or a comma between adjectives, and for "of" after a quantity: they don't end a phrase."""
    if not 0 < i < len(words) - 1:
        return False
    left, right = words[i - 1], words[i + 1]
    if words[i].text in english.INTENSIFIERS:
        return left.kind == "determiner" and right.kind == "content"
    if words[i].text == "of":
        return left.text in english.QUANTITIES and left.kind == "content" and right.kind in ("content", "determiner")
    if words[i].text == "and":
        following = words[i + 2].kind if i + 2 < len(words) else "stop"
        return left.text in english.COLORS and right.text in english.COLORS and following == "content"
    return words[i].text == "," and left.text in english.ADJECTIVES and _opens_phrase(words, i) and right.kind == "content"


def _runs(words: list[_Word]) -> list[list[_Word]]:
    """Cut at stop words, and before a determiner that follows content (but not one that follows a joining "of")."""
    runs: list[list[_Word]] = [[]]
    for word in words:
        if word.kind == "stop":
            runs.append([])
            continue
        if word.kind == "determiner" and runs[-1] and runs[-1][-1].kind == "content" and runs[-1][-1].text != "of":
            runs.append([])
        runs[-1].append(word)
    return [run for run in runs if run]


def _trimmed(run: list[_Word]) -> list[_Word]:
    """Without adjectives that follow the noun: "a bowl full"."""
    length = len(run)
    while length and run[length - 1].text in english.TRAILING:
        length -= 1
    has_noun = any(w.kind == "content" and w.text not in english.ADJECTIVES for w in run[:length])
    return run[:length] if has_noun else run


def _names_a_thing(run: list[_Word]) -> bool:
    content = [w.text for w in run if w.kind == "content"]
    if not content or content[-1] in english.VIEWS:
        return False
    return run[0].kind == "determiner" or any(text not in english.ADJECTIVES for text in content)


def _by_spacy(text: str) -> list[Span]:
    chunks = _spacy_pipeline()(text).noun_chunks
    return [(chunk.start_char, chunk.end_char) for chunk in chunks if chunk.root.pos_ != "PRON"]


@lru_cache(maxsize=1)
def _spacy_pipeline() -> Callable:
    try:
        import spacy

        return spacy.load(SPACY_MODEL)
    except (ImportError, OSError) as error:
        raise MissingDependencyError(
            f"backend='spacy' needs spaCy and its model; run: pip install spacy && python -m spacy download {SPACY_MODEL}"
        ) from error
