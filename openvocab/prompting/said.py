"""Which words of an answer or a caption can be looked for in the picture."""

from __future__ import annotations

from openvocab.errors import PromptError

from .caption import Caption
from .phrases import noun_phrases


def phrases_of_caption(text: str) -> Caption | None:
    """Return the noun phrases of a text; None if it has none."""
    try:
        return noun_phrases(text)
    except PromptError:
        return None


def phrases_of_answer(question: str, answer: str) -> Caption | None:
    """Return question and answer as one text, with the question's noun phrases, and the answer where it can name a thing.

    "yes", "no", numbers and blanks name none. None if there is no phrase at all.
    """
    asked = phrases_of_caption(question)
    phrases = () if asked is None else asked.phrases
    text = f"{question} {answer}"
    if answer.strip() and answer not in ("yes", "no") and not answer.replace(".", "").isdigit():
        phrases = (*phrases, ((len(question) + 1, len(text)),))
    return Caption(text, phrases) if phrases else None
