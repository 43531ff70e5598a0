"""Known ways to make one vector out of a name: how it is spelled, which frames are put around it, how they are averaged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from openvocab.errors import TextEncoderError, nearest
from openvocab.prompting.templates import templates  # not of the package, which imports this one
from openvocab.vocabulary import Vocabulary

from .base import TextEncoder
from .cache import encode_vocabulary


def regionclip_spelling(name: str) -> str:
    """Spell a class name as RegionCLIP's prompts do: "bow_(weapon)" -> "bow weapon", "salt+pepper, ground" -> "salt pepper ground".

    Unlike the usual prompt (`clean_name`), what stands in brackets is kept.
    """
    for old, new in (("_", " "), ("(", ""), (")", ""), (",", ""), ("+", " ")):
        name = name.replace(old, new)
    return " ".join(name.split())


@dataclass(frozen=True)
class Recipe:
    """How names become vectors.

    Attributes:
        frames: a name of `openvocab.prompting.templates`; None keeps the vocabulary's own.
        mode: of `encode_vocabulary`.
        spelling: name -> prompt; None keeps the vocabulary's prompts.
    """

    frames: str | None
    mode: str
    spelling: Callable[[str], str] | None = None

    def apply(self, vocabulary: Vocabulary) -> Vocabulary:
        """Return the vocabulary with this recipe's prompts and templates.

        Raises:
            MissingDependencyError: for CLIP's frames without open_clip.
        """
        prompts = vocabulary.prompts if self.spelling is None else tuple(map(self._spelled, vocabulary.names))
        frames = vocabulary.templates if self.frames is None else templates(self.frames)
        return replace(vocabulary, prompts=prompts, templates=frames)

    def _spelled(self, name: str) -> str:
        return self.spelling(name) or name


RECIPES = {
    # the mean of 81 raw sentence vectors, not normalised: microsoft/RegionCLIP's *_emb.pth files
    "regionclip": Recipe("clip81", "mean_unnormalized", regionclip_spelling),
    # each of 80 vectors normalised, their mean normalised again: OpenAI's ImageNet notebook
    "openai": Recipe("clip80", "normalized_mean"),
    # "a NAME": the bridge's
    "article": Recipe("article", "normalized_mean"),
    # the vocabulary's own prompts and templates
    "own": Recipe(None, "normalized_mean"),
}


def embed_names(encoder: TextEncoder, vocabulary: Vocabulary, recipe: str = "regionclip") -> tuple[Tensor, Vocabulary]:
    """Embed every name by a recipe.

    Args:
        encoder: of sentences, D wide.
        vocabulary: K names.
        recipe: "regionclip", "openai", "article" or "own".

    Returns:
        (K, D) float32 on the encoder's device, two axes for one name too; and the vocabulary as it was embedded, with the
        recipe's prompts and templates.

    Raises:
        TextEncoderError: for an unknown recipe.
        PromptError: for a name that is too long for the encoder (the official code cuts it off silently).
    """
    if recipe not in RECIPES:
        raise TextEncoderError(f"there is no recipe '{recipe}'.{nearest(recipe, RECIPES)} Known: {', '.join(RECIPES)}")
    used = RECIPES[recipe].apply(vocabulary)
    return encode_vocabulary(encoder, used, mode=RECIPES[recipe].mode), used
