"""What a name, a prompt and the lists beside them may be."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence, Set

from openvocab.errors import VocabularyError

MAX_NAME_LENGTH = 200
FREQUENCIES = ("r", "c", "f", None)
SPLITS = ("base", "novel", None)
_SHOWN = 80


def clean_name(name: str) -> str:
    """Turn a data set's class name into words: no "(...)", "_" as a blank, single blanks.

    GLIP's rule (all between the first "(" and the last ")" goes), but blanks at the ends go too, and a name that would
    vanish keeps its letters: "bow_(weapon)" -> "bow", "(unnamed)" -> "unnamed".
    """
    spaced = name.replace("_", " ")
    words = " ".join(re.sub(r"\(.*\)", "", spaced).split())
    return words or " ".join(re.sub(r"[()]", "", spaced).split()) or name.strip()


def is_list(value: object) -> bool:
    """True for what has an order and is no text: lists, tuples, arrays, other vocabularies, generators."""
    return hasattr(value, "__iter__") and not isinstance(value, (str, bytes, Mapping, Set))


def check_text(text: object, what: str) -> str:
    """Return `text` NFC-normalised, with single blanks (tabs and line ends count as blanks).

    Args:
        text: the candidate.
        what: opens the error message, such as "name 3".

    Raises:
        VocabularyError: for what is no string, is blank, holds control characters or is over-long.
    """
    if not isinstance(text, str):
        raise VocabularyError(f"{what} is {text!r:.{_SHOWN}}, a {type(text).__name__}; it must be a string")
    text = re.sub(r"[^\S\x1c-\x1f]+", " ", unicodedata.normalize("NFC", text)).strip(" ")
    kinds = {unicodedata.category(c) for c in text}
    if kinds & {"Cc", "Cs"}:
        raise VocabularyError(f"{what} ({text!r:.{_SHOWN}}) holds control characters; remove them")
    if all(kind[0] in "ZC" for kind in kinds):
        raise VocabularyError(f"{what} is blank; remove it or give it a text")
    if len(text) > MAX_NAME_LENGTH:
        raise VocabularyError(f"{what} has {len(text)} characters, the limit is {MAX_NAME_LENGTH}: '{text[:40]}...'")
    return text


def check_names(names: object, *, case_sensitive: bool) -> tuple[str, ...]:
    """Return checked names.

    Raises:
        VocabularyError: for a string or a set instead of a list, no names, a bad one, or one that is there twice.
    """
    if isinstance(names, (str, bytes)):
        raise VocabularyError(f"{names!r:.{_SHOWN}} is a string, not a list of names; use Vocabulary.from_caption for 'cat. dog.'")
    if not is_list(names):
        kind = type(names).__name__
        why = " has no order" if isinstance(names, Set) else " is no list"
        raise VocabularyError(f"names must be a list of strings; a {kind}{why}")
    checked = tuple(check_text(n, f"name {i}") for i, n in enumerate(names))
    if not checked:
        raise VocabularyError("a vocabulary needs at least one name")
    seen: dict[str, str] = {}
    for name in checked:
        key = name if case_sensitive else name.casefold()
        if key in seen:
            other = "" if seen[key] == name else f" (as '{seen[key]}')"
            raise VocabularyError(f"the name '{name}' is there twice{other}; remove one")
        seen[key] = name
    return checked


def filled(value: Sequence | None, default: Sequence, what: str) -> tuple:
    """Return `value` as a tuple with an entry a name, or `default` where it is None.

    Raises:
        VocabularyError: for a string, or another number of entries.
    """
    if value is None:
        return tuple(default)
    value = tuple(value) if is_list(value) else value
    if not isinstance(value, tuple) or len(value) != len(default):
        wrong = f"{len(default)} names, got {value!r:.{_SHOWN}}"
        raise VocabularyError(f"{what} must be a list with one entry a name: {wrong}")
    return value


def check_aliases(groups: tuple) -> tuple[tuple[str, ...], ...]:
    """Return a tuple of checked spellings for each name.

    Raises:
        VocabularyError: for a string where a list of aliases must stand, or a bad alias.
    """
    for i, group in enumerate(groups):
        if not is_list(group):
            raise VocabularyError(f"the aliases of name {i} are {group!r:.{_SHOWN}}; they must be a list of strings")
    return tuple(tuple(check_text(a, f"an alias of name {i}") for a in group) for i, group in enumerate(groups))


def check_contexts(contexts: tuple) -> tuple[tuple[str, str], ...]:
    """Return (prefix, suffix) for each name; blanks at their ends are kept, they join words.

    Raises:
        VocabularyError: for anything else.
    """
    result = []
    for i, pair in enumerate(contexts):
        pair = tuple(pair) if is_list(pair) else pair
        if not isinstance(pair, tuple) or len(pair) != 2 or not all(isinstance(p, str) for p in pair):
            raise VocabularyError(f"the context of name {i} is {pair!r:.{_SHOWN}}; it must be a pair (prefix, suffix)")
        for part in pair:
            if part.strip():
                check_text(part, f"the context of name {i}")
        result.append(tuple(unicodedata.normalize("NFC", part) for part in pair))
    return tuple(result)


def check_templates(templates: Sequence[str] | None) -> tuple[str, ...]:
    """Return the templates, ("{}",) for None.

    Raises:
        VocabularyError: for none at all, or one that does not hold "{}" once.
    """
    if templates is None:
        return ("{}",)
    if not is_list(templates):
        raise VocabularyError(f"templates must be a list, got {templates!r:.{_SHOWN}}; see openvocab.prompting.templates")
    checked = tuple(templates)
    for template in checked or [""]:
        if not isinstance(template, str) or template.count("{}") != 1:
            raise VocabularyError(f"template {template!r:.{_SHOWN}} must hold '{{}}' once")
    return checked


def check_marks(values: tuple, allowed: tuple, what: str) -> tuple:
    """Return `values`.

    Raises:
        VocabularyError: if one of them is not `allowed`.
    """
    for value in values:
        if value not in allowed:
            raise VocabularyError(f"{what} {value!r:.{_SHOWN}} is not one of {allowed}")
    return values
