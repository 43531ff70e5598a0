"""Noun phrases of an English caption, by rule.

The chunker knows function words and a few hundred common verbs by their form; all else counts as a noun or adjective. It is meant for
photo captions ("a man in a red shirt holding two umbrellas"), not for English at large: it takes some verbs for nouns, and it does not
attach relative clauses. spaCy does better and can be asked instead.
"""

from __future__ import annotations

import re

from openvocab.errors import PromptError, missing

from .caption import Caption

_DETERMINERS = set("a an the this that these those some any each every another several many few two three four five six seven "
                   "eight nine ten one both all no his her its their my your our".split())  # fmt: skip
_STOP = set("in on at by of with without from to into onto over under above below behind beside between near next front and or but "
            "while as than for through across around along against inside outside during before after off out up down is are was "
            "were be been being has have had do does did can could will would may might must should there here it he she they we "
            "you i him them us who which what where when how that's very too also just not so together away back about like "
            "toward towards upon among amid atop underneath top left right side middle".split())  # fmt: skip
_VERBS = set("sit sits sat stand stands stood hold holds held ride rides rode wear wears wore walk walks run runs ran eat eats ate "
             "play plays look looks lie lies lay fly flies flew carry carries drive drives jump jumps swim swims read reads use "
             "uses show shows hang hangs cut cuts cover covers fill fills park parks surround surrounds get gets make makes take "
             "takes go goes come comes throw throws catch catches hit hits pull pulls push pushes talk talks watch watches wait "
             "waits sleep sleeps smile smiles pose poses lead leads face faces lean leans rest rests sits sits try tries "
             "covered filled parked surrounded seated placed dressed made topped decorated mounted tied attached stacked "
             "gathered loaded displayed".split())  # fmt: skip
_ING_NOUNS = set("building ceiling clothing painting wedding string ring king wing swing evening morning railing lighting ceiling "
                 "dining living parking surfing skiing traffic-calming sibling awning".split())  # fmt: skip
_ADJECTIVE_ING = set("dining living parking smiling running flying sleeping".split())
_WORD = re.compile(r"[A-Za-z0-9À-ÿ]+(?:[-'’][A-Za-z0-9À-ÿ]+)*|[^\sA-Za-z0-9]")


def _kind(word: str, previous: str | None) -> str:
    low = word.casefold()
    if not low[0].isalnum():
        return "stop"
    if low in _DETERMINERS:
        return "determiner"
    if low in _STOP or (low in _VERBS and previous != "determiner"):
        return "stop"
    if low.endswith("ing") and low not in _ING_NOUNS and len(low) > 4:
        return "content" if previous == "determiner" or low in _ADJECTIVE_ING and previous == "content" else "stop"
    if low.endswith("ly") and len(low) > 4 and low not in ("family", "butterfly", "belly", "jelly", "lily"):
        return "stop"
    return "content"


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
        raise PromptError("the caption is empty")
    if backend not in ("rules", "spacy"):
        raise PromptError(f"backend='{backend}' is neither 'rules' nor 'spacy'")
    spans = _by_rules(text) if backend == "rules" else _by_spacy(text)
    if not spans:
        raise PromptError(f"no noun phrase was found in '{text[:80]}'; name what to look for, as in 'cat. dog.'")
    return Caption(text, tuple((span,) for span in spans))


def _by_rules(text: str) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    start = end = None
    has_content, previous = False, None
    for match in [*_WORD.finditer(text), None]:
        kind = "stop" if match is None else _kind(match.group(), previous)
        if start is not None and (kind == "stop" or (kind == "determiner" and has_content)):
            if has_content:
                spans.append((start, end))
            start, has_content = None, False
        if kind != "stop":
            start = match.start() if start is None else start
            end, has_content = match.end(), has_content or kind == "content"
        previous = kind
    return spans


def _by_spacy(text: str) -> list[tuple[int, int]]:
    try:
        import spacy

        pipeline = spacy.load("en_core_web_sm")
    except (ImportError, OSError) as error:
        raise missing("spacy with en_core_web_sm", "dev") from error
    return [(c.start_char, c.end_char) for c in pipeline(text).noun_chunks if c.root.pos_ != "PRON"]
