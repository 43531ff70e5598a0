"""Questions with one right answer each; yes and no come equally often, whatever kind of question is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from .language import article, describe, plural
from .relations import OPPOSITE, holds_at_all, relations_of
from .scenes import Scene, SceneObject
from .shapes import COLORS, SHAPES, SIZES

# the answer vocabulary, in the order of the classes of an answer classifier
ANSWERS: tuple[str, ...] = ("yes", "no", *(str(n) for n in range(11)), *COLORS, *SHAPES, *SIZES)


@dataclass(frozen=True)
class Question:
    """A question about a scene.

    Attributes:
        text: the question, with its question mark.
        answer: one of `ANSWERS`.
        kind: one of `KINDS`.
        objects: positions of the objects that the answer rests on.
    """

    text: str
    answer: str
    kind: str
    objects: tuple[int, ...]

    @property
    def answer_type(self) -> str:
        """VQA's "yes/no", "number" or "other"."""
        return "yes/no" if self.answer in ("yes", "no") else "number" if self.answer.isdigit() else "other"


def _key(thing: SceneObject, fields: Sequence[str]) -> tuple[str, ...]:
    return tuple(getattr(thing, f) for f in fields)


def _alone(objects: Sequence[SceneObject], fields: Sequence[str]) -> list[int]:
    """Positions of the objects whose words for `fields` no other object has."""
    keys = [_key(o, fields) for o in objects]
    return [i for i, key in enumerate(keys) if keys.count(key) == 1]


def _pick(rng: np.random.Generator, values: Sequence) -> object:
    return values[rng.integers(len(values))]


def _ask_color(rng: np.random.Generator, scene: Scene) -> Question | None:
    fields = [("shape",), ("size", "shape")][rng.integers(2)]
    found = _alone(scene.objects, fields)
    if not found:
        return None
    i = int(_pick(rng, found))
    name = " ".join(_key(scene.objects[i], fields))
    return Question(f"what color is the {name}?", scene.objects[i].color, "color", (i,))


def _ask_shape(rng: np.random.Generator, scene: Scene) -> Question | None:
    fields = [("color",), ("size", "color")][rng.integers(2)]
    found = _alone(scene.objects, fields)
    if not found:
        return None
    i = int(_pick(rng, found))
    name = " ".join(_key(scene.objects[i], fields))
    return Question(f"what shape is the {name} thing?", scene.objects[i].shape, "shape", (i,))


def _ask_size(rng: np.random.Generator, scene: Scene) -> Question | None:
    found = _alone(scene.objects, ("color", "shape"))
    if not found:
        return None
    i = int(_pick(rng, found))
    return Question(f"what size is the {describe(scene.objects[i])}?", scene.objects[i].size, "size", (i,))


def _look_name(fields: tuple[str, ...], words: tuple[str, ...], many: bool = False) -> str:
    """Return "red circle(s)", "circle(s)" or "red thing(s)"."""
    noun = words[-1] if fields[-1] == "shape" else "thing"
    noun = plural(noun) if many else noun
    return noun if fields == ("shape",) else f"{words[0]} {noun}"


def _present_and_absent(scene: Scene, fields: tuple[str, ...]) -> tuple[list, list]:
    """Words for `fields` that objects of the scene have, and those that its world could have painted but did not."""
    place = {"color": 0, "shape": 1}
    world = sorted({tuple(pair[place[f]] for f in fields) for pair in scene.pairs})
    present = [_key(o, fields) for o in scene.objects]
    return present, [words for words in world if words not in set(present)]


def _hard(rng: np.random.Generator, absent: list, present: list) -> tuple[str, ...]:
    """Draw an absent look, mostly one that shares a word with something in the picture."""
    seen = {word for words in present for word in words}
    near = [words for words in absent if seen & set(words)]
    return _pick(rng, near if near and rng.random() < 0.7 else absent)


_LEVELS = (("color", "shape"), ("shape",), ("color",))


def _ask_existence(fields: tuple[str, ...], rng: np.random.Generator, scene: Scene) -> Question | None:
    present, absent = _present_and_absent(scene, fields)
    if not present or not absent:
        return None
    yes = bool(rng.integers(2))
    words = _pick(rng, present) if yes else _hard(rng, absent, present)
    name = _look_name(fields, words)
    found = tuple(i for i, key in enumerate(present) if key == words)
    return Question(f"is there {article(name)} {name}?", "yes" if yes else "no", "existence", found)


def _ask_count(rng: np.random.Generator, scene: Scene) -> Question | None:
    fields = _LEVELS[rng.integers(3)]
    present, absent = _present_and_absent(scene, fields)
    if (absent and rng.random() < 0.2) or not present:
        words = _hard(rng, absent, present) if absent else None
    else:
        words = _pick(rng, sorted(set(present)))
    found = tuple(i for i, key in enumerate(present) if key == words)
    if words is None or str(len(found)) not in ANSWERS:
        return None
    return Question(f"how many {_look_name(fields, words, many=True)} are there?", str(len(found)), "count", found)


def _ask_relation(rng: np.random.Generator, scene: Scene) -> Question | None:
    alone = set(_alone(scene.objects, ("color", "shape")))
    found = [r for r in relations_of(scene.objects) if r[0] in alone and r[2] in alone]
    if not found:
        return None
    i, words, j = _pick(rng, found)
    yes = bool(rng.integers(2))
    asked = words if yes else OPPOSITE[words]
    text = f"is the {describe(scene.objects[i])} {asked} the {describe(scene.objects[j])}?"
    return Question(text, "yes" if yes else "no", "relation", (i, j))


def _ask_related(rng: np.random.Generator, scene: Scene) -> Question | None:
    """Ask what lies on one side of an object, where exactly one object does at all."""
    objects, alone = scene.objects, set(_alone(scene.objects, ("color", "shape")))
    found = [
        (i, words, j)
        for i, words, j in relations_of(objects)
        if j in alone and sum(holds_at_all(o, words, objects[j]) for k, o in enumerate(objects) if k != j) == 1
    ]
    if not found:
        return None
    i, words, j = _pick(rng, found)
    asked = str(_pick(rng, ("color", "shape")))
    text = f"what {asked} is the thing {words} the {describe(objects[j])}?"
    return Question(text, getattr(objects[i], asked), "related", (i, j))


_Maker = Callable[[np.random.Generator, Scene], "Question | None"]
_MAKERS: tuple[tuple[str, _Maker], ...] = (
    ("color", _ask_color),
    ("shape", _ask_shape),
    ("size", _ask_size),
    *(("existence", partial(_ask_existence, fields)) for fields in _LEVELS),
    ("count", _ask_count),
    ("relation", _ask_relation),
    ("related", _ask_related),
)
KINDS: tuple[str, ...] = tuple(dict(_MAKERS))
_YES_OR_NO = ("existence", "relation")


def questions_of(scene: Scene, most: int = 6, kinds: Sequence[str] = KINDS) -> list[Question]:
    """Return up to `most` different questions, their kinds taken in turn from a random order.

    A kind that the picture gives no question for is passed over. Of each sort of question with yes or no there is at
    most one: as a picture has more that is absent than present, more of them without a repetition would lean to "no".
    No question asks for a (color, shape) that the scene's world never paints: to a model that is trained without these
    pairs they would always be "no".
    """
    rng = scene.generator("questions")
    makers = [maker for maker in _MAKERS if maker[0] in kinds]
    order = [makers[i] for i in rng.permutation(len(makers))]
    result: dict[str, Question] = {}
    for turn in range(3):
        for kind, make in order:
            if turn and kind in _YES_OR_NO:
                continue
            question = make(rng, scene)
            if question is not None and len(result) < most:
                result.setdefault(question.text, question)
    return list(result.values())
