"""Referring expressions: "the red circle left of the blue square" means exactly one thing, by construction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .language import GroundedText, Phrase, TextBuilder, describe
from .relations import holds_at_all, relations_of
from .scenes import Scene, SceneObject


@dataclass(frozen=True)
class Referring(GroundedText):
    """A text that means one object.

    Attributes:
        text: the expression.
        phrases: the target's noun phrase, then the landmark's where there is one; each linked to one object.
        target: the object meant, a position in the scene's objects.
        relation: the words between the noun phrases, or "".
        needs_sentence: other objects fit the target's noun phrase too; only the relation tells them apart.
    """

    target: int = 0
    relation: str = ""
    needs_sentence: bool = False


def _matches(objects: Sequence[SceneObject], like: SceneObject, sized: bool) -> list[int]:
    """Positions of the objects that have the words of `like`."""
    look = (like.color, like.shape, like.size if sized else "")
    return [i for i, o in enumerate(objects) if (o.color, o.shape, o.size if sized else "") == look]


def _related(objects: Sequence[SceneObject]) -> list[tuple[int, str, int]]:
    """(target, words, landmark): the landmark's look is its own, the target has doubles, no double fits the words."""
    found = []
    for i, words, j in relations_of(objects):
        doubles = _matches(objects, objects[i], False)
        if len(doubles) < 2 or j in doubles or len(_matches(objects, objects[j], False)) > 1:
            continue
        if not any(holds_at_all(objects[k], words, objects[j]) for k in doubles if k != i):
            found.append((i, words, j))
    return found


def sentence_needed(objects: Sequence[SceneObject]) -> bool:
    """Say whether some object has doubles and a relation that only it fulfils."""
    return bool(_related(objects))


def _by_relation(objects: Sequence[SceneObject], target: int, words: str, landmark: int) -> Referring:
    text = TextBuilder()
    text.add("the ")
    text.phrase(describe(objects[target]), (target,))
    text.add(f" {words} the ")
    text.phrase(describe(objects[landmark]), (landmark,))
    return Referring(text.text, tuple(text.phrases), target=target, relation=words, needs_sentence=True)


def _by_look(objects: Sequence[SceneObject], target: int) -> Referring | None:
    for sized in (False, True):
        if len(_matches(objects, objects[target], sized)) == 1:
            name = describe(objects[target], sized=sized)
            phrase = Phrase(4, 4 + len(name), (target,))
            return Referring(f"the {name}", (phrase,), target=target)
    return None


def referring_of(scene: Scene, most: int = 3) -> list[Referring]:
    """Return up to `most` expressions for different objects, those that need the sentence first.

    Others name a look that only one object has. The list can be empty.
    """
    rng = scene.generator("referring")
    related = _related(scene.objects)
    order = [related[i] for i in rng.permutation(len(related))]
    result: dict[int, Referring] = {}
    for target, words, landmark in order:
        result.setdefault(target, _by_relation(scene.objects, target, words, landmark))
    for target in rng.permutation(len(scene.objects)):
        plain = None if int(target) in result else _by_look(scene.objects, int(target))
        if plain is not None:
            result[int(target)] = plain
    return list(result.values())[:most]
