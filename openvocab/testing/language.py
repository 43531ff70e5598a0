"""Captions whose phrases are linked to shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .relations import relations_of
from .scenes import Scene, SceneObject

if TYPE_CHECKING:
    from openvocab.prompting import Caption

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True)
class Phrase:
    """Characters [start, end) of a text, and the objects they name (positions in the scene's objects)."""

    start: int
    end: int
    objects: tuple[int, ...]


@dataclass(frozen=True)
class GroundedText:
    """A text and its phrases.

    Attributes:
        text: the sentence.
        phrases: in the order of the text; a noun with its adjectives, without article and number.
    """

    text: str
    phrases: tuple[Phrase, ...]

    @property
    def spans(self) -> list[list[list[int]]]:
        """The "phrases" of a data set's dict: for each phrase its list of [start, end)."""
        return [[[p.start, p.end]] for p in self.phrases]

    @property
    def caption(self) -> Caption:
        """As the models take it."""
        from openvocab.prompting import Caption

        return Caption(self.text, tuple(((p.start, p.end),) for p in self.phrases))


class TextBuilder:
    """Collects a text and where its phrases stand."""

    def __init__(self) -> None:
        self.text = ""
        self.phrases: list[Phrase] = []

    def add(self, words: str) -> None:
        """Append words that name nothing."""
        self.text += words

    def phrase(self, words: str, objects: Sequence[int]) -> None:
        """Append words that name objects."""
        self.phrases.append(Phrase(len(self.text), len(self.text) + len(words), tuple(objects)))
        self.text += words


def plural(noun: str) -> str:
    """Return "circles", "boxes", "crosses"."""
    return noun + ("es" if noun.endswith(("s", "x")) else "s")


def article(words: str) -> str:
    """Return "a" or "an"."""
    return "an" if words[0] in "aeiou" else "a"


def describe(thing: SceneObject, *, sized: bool = False) -> str:
    """Return "red circle", or "large red circle"."""
    return f"{thing.size} {thing.color} {thing.shape}" if sized else f"{thing.color} {thing.shape}"


def _groups(objects: Sequence[SceneObject]) -> list[list[int]]:
    """Positions of the objects, those of one color and shape together."""
    groups: dict[tuple[str, str], list[int]] = {}
    for i, thing in enumerate(objects):
        groups.setdefault((thing.color, thing.shape), []).append(i)
    return list(groups.values())


def _name_group(text: TextBuilder, objects: Sequence[SceneObject], group: Sequence[int], sized: bool) -> None:
    """Append "a red circle" or "two red circles"; the size only where all of the group have it."""
    sized = sized and len({objects[i].size for i in group}) == 1
    words = describe(objects[group[0]], sized=sized)
    if len(group) == 1:
        text.add(f"{article(words)} ")
        text.phrase(words, group)
        return
    text.add(f"{NUMBERS[len(group)] if len(group) < len(NUMBERS) else len(group)} ")
    text.phrase(plural(words), group)


def _list_caption(rng: np.random.Generator, scene: Scene) -> TextBuilder:
    """Name every object: "a red circle, two blue squares and an orange ring"."""
    text = TextBuilder()
    groups = [_groups(scene.objects)[i] for i in rng.permutation(len(_groups(scene.objects)))]
    text.add(("", "a picture of ", "there is " if len(groups[0]) == 1 else "there are ")[rng.integers(3)])
    for place, group in enumerate(groups):
        if place:
            text.add(" and " if place == len(groups) - 1 else ", ")
        _name_group(text, scene.objects, group, sized=rng.random() < 0.5)
    return text


def _relation_caption(rng: np.random.Generator, scene: Scene) -> TextBuilder | None:
    """Name two objects of which there is one each: "a red circle left of a blue square"."""
    single = {group[0] for group in _groups(scene.objects) if len(group) == 1}
    found = [r for r in relations_of(scene.objects) if r[0] in single and r[2] in single]
    if not found:
        return None
    i, words, j = found[rng.integers(len(found))]
    text = TextBuilder()
    _name_group(text, scene.objects, [i], sized=rng.random() < 0.3)
    text.add(str(rng.choice([f" {words} ", f" is {words} ", f" that lies {words} "])))
    _name_group(text, scene.objects, [j], sized=rng.random() < 0.3)
    return text


def caption_of(scene: Scene, number: int = 0) -> GroundedText:
    """Return caption `number` of a scene; any number gives one, the same at every call.

    A phrase is linked to every object that its words fit. Captions with an even number name all objects; those with an
    odd one say how two objects lie to each other, where there are two that can be told apart by color and shape.
    """
    rng = scene.generator("caption", number)
    text = _relation_caption(rng, scene) if number % 2 else None
    if text is None and not scene.objects:
        text = TextBuilder()
        text.add("nothing")
    text = text or _list_caption(rng, scene)
    if rng.random() < 0.4 or not scene.objects:
        text.add(f" on a {scene.background} background")
    return GroundedText(text.text, tuple(text.phrases))
