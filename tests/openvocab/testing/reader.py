"""A second opinion on scenes and sentences: looks at pixels and parses text; shares no code with the generator."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

PALETTE = {
    "red": (214, 38, 40), "green": (36, 150, 58), "blue": (40, 72, 214), "yellow": (240, 216, 40),
    "orange": (246, 136, 16), "purple": (130, 44, 172), "pink": (250, 152, 196), "cyan": (48, 202, 216),
    "brown": (108, 64, 30), "white": (244, 244, 244),
}  # fmt: skip
SHAPE = "circle|square|triangle|star|cross|ring|diamond|hexagon|heart|crescent"
COLOR = "|".join(PALETTE)
SIZE = "small|medium|large"
SIDE = "left of|right of|above|below"
NOUN = rf"(?:(?P<size>{SIZE}) )?(?:(?P<color>{COLOR}) )?(?P<shape>{SHAPE}|thing)(?:e?s)?"
WORDS = {w: n for n, w in enumerate("zero one two three four five six seven eight nine ten".split())}


@dataclass(frozen=True)
class Seen:
    """An object as the pixels show it: x and y are the middle of the pixels it covers or would cover."""

    color: str
    shape: str
    size: str
    x: float
    y: float


def look(scene: object) -> list[Seen]:
    """Read colors, sizes and places off the picture."""
    result = []
    for thing in scene.objects:
        rgb = np.median(scene.image[thing.visible], axis=0)
        color = min(PALETTE, key=lambda c: np.abs(rgb - PALETTE[c]).sum())
        rows, columns = np.nonzero(thing.full)
        x, y = (columns.min() + columns.max() + 1) / 2, (rows.min() + rows.max() + 1) / 2
        extent = max(np.ptp(columns), np.ptp(rows)) + 1
        share = extent / min(scene.image.shape[:2])
        size = "small" if share < 0.206 else "medium" if share < 0.315 else "large"
        result.append(Seen(color, thing.shape, size, x, y))
    return result


def fits(words: str, seen: list[Seen]) -> list[int]:
    """Which objects a noun phrase fits ("large red circles", "circle", "red thing")."""
    match = re.fullmatch(NOUN, words)
    assert match, words
    wanted = {k: v for k, v in match.groupdict().items() if v and v != "thing"}
    return [i for i, o in enumerate(seen) if all(getattr(o, k) == v for k, v in wanted.items())]


def on_side(a: Seen, words: str, b: Seen) -> bool:
    """The weakest reading: the centre is on that side at all."""
    return {"left of": a.x < b.x, "right of": a.x > b.x, "above": a.y < b.y, "below": a.y > b.y}[words]


def clearly(a: Seen, words: str, b: Seen) -> bool:
    """The strongest reading: farther along that direction than across it, too."""
    across, along = abs(a.x - b.x), abs(a.y - b.y)
    if words in ("left of", "right of"):
        across, along = along, across
    return on_side(a, words, b) and along > across


def meant(text: str, seen: list[Seen], reading: object) -> list[int]:
    """Which objects "the red circle left of the blue square" can mean under a reading of the relation."""
    match = re.fullmatch(rf"the (.+?)(?: ({SIDE}) the (.+))?", text)
    assert match, text
    noun, words, landmark = match.groups()
    found = fits(noun, seen)
    if words is None:
        return found
    places = fits(landmark, seen)
    return [i for i in found if any(reading(seen[i], words, seen[j]) for j in places if j != i)]


def answer(question: str, seen: list[Seen]) -> str:
    """Answer a question; fails where it has no answer or more than one."""
    if match := re.fullmatch(r"is there an? (.+)\?", question):
        return "yes" if fits(match[1], seen) else "no"
    if match := re.fullmatch(r"how many (.+) are there\?", question):
        return str(len(fits(match[1], seen)))
    if match := re.fullmatch(rf"is the (.+?) ({SIDE}) the (.+)\?", question):
        (i,), (j,) = fits(match[1], seen), fits(match[3], seen)
        weak, strong = on_side(seen[i], match[2], seen[j]), clearly(seen[i], match[2], seen[j])
        assert weak == strong, "the answer depends on the reading"
        return "yes" if strong else "no"
    if match := re.fullmatch(rf"what (color|shape) is the thing ({SIDE}) the (.+)\?", question):
        (j,) = fits(match[3], seen)
        (i,) = [k for k in range(len(seen)) if k != j and on_side(seen[k], match[2], seen[j])]
        return getattr(seen[i], match[1])
    match = re.fullmatch(r"what (color|shape|size) is the (.+)\?", question)
    assert match, question
    (i,) = fits(match[2], seen)
    return getattr(seen[i], match[1])


def number_of(text_before: str) -> int | None:
    """The number word or article that stands before a phrase, as a number."""
    words = text_before.split()
    return 1 if not words or words[-1] in ("a", "an", "the") else WORDS.get(words[-1])
