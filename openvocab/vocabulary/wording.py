"""Other words for a data set's names in captions: templates of one's own, and GLIP's engineered prompts for ODinW."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from openvocab.errors import VocabularyError, nearest

from .checks import check_contexts, check_text
from .vocabulary import Vocabulary

Wording = str | Mapping[str, str] | Vocabulary
_TEMPLATE = re.compile(r"(?P<prefix>[^{}]*)\{(?P<words>[^{}]*)\}(?P<suffix>[^{}]*)")


def reworded(vocabulary: Vocabulary, wording: Wording) -> Vocabulary:
    """Return a vocabulary of the same names, asked for in other words.

    A template holds the phrase in braces: "there is a {package} on the porch" (ODinW's prefix, name and suffix, as
    microsoft/GLIP has them); with "{}" the phrase stays what it was. Only the phrase is looked for; words around it are context.

    Args:
        vocabulary: K names.
        wording: a template for all names; name -> template, other names staying as they are; or a vocabulary of K names in the
            same order, whose words are taken.

    Raises:
        VocabularyError: for a text that is no template, a name that is not there, or another number of names.
    """
    if isinstance(wording, Vocabulary):
        if len(wording) != len(vocabulary):
            raise VocabularyError(f"a wording of {len(wording)} names cannot be that of {len(vocabulary)}")
        return replace(vocabulary, prompts=wording.prompts, contexts=wording.contexts)
    templates = dict.fromkeys(vocabulary.names, wording) if isinstance(wording, str) else wording
    prompts, contexts = list(vocabulary.prompts), list(vocabulary.contexts)
    for name, template in templates.items():
        if name not in vocabulary:
            hint = nearest(name, vocabulary.names)
            raise VocabularyError(f"there is a wording for '{name}', which is not a name of the data set.{hint}")
        place = vocabulary.index(name)
        prefix, words, suffix = _parts(template)
        contexts[place] = (prefix, suffix)
        if words:
            prompts[place] = check_text(words, f"the phrase in the template '{template}'")
    return replace(vocabulary, prompts=tuple(prompts), contexts=check_contexts(contexts))


def _parts(template: str) -> tuple[str, str, str]:
    match = _TEMPLATE.fullmatch(template) if isinstance(template, str) else None
    if match is None:
        raise VocabularyError(
            f"{template!r:.80} is no template: it needs the phrase in braces once, as in 'there is a {{package}} on the porch'"
        )
    return match["prefix"], match["words"], match["suffix"]
