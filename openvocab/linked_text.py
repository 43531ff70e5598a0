"""Answers and captions as values: a text, and the boxes that its words are linked to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from PIL.Image import Image

    from openvocab.detections import Detections


class Link(NamedTuple):
    """Words of a text and a box for them.

    Attributes:
        text: the words.
        spans: their characters [start, end) in `LinkedText.whole`.
        box: (x1, y1, x2, y2), absolute pixels of the picture.
        score: of the detector, 0..1.
    """

    text: str
    spans: tuple[tuple[int, int], ...]
    box: tuple[float, float, float, float]
    score: float


@dataclass(frozen=True)
class LinkedText:
    """A text that a model wrote about a picture.

    Attributes:
        text: the caption, or the answer.
        score: what the model gives for it, 0..1.
        detections: boxes of the phrases, best first; their caption is `whole`.
        question: what was asked; None for a caption.
        candidates: the best few answers and their scores; () for a caption.
    """

    text: str
    score: float
    detections: Detections
    question: str | None = None
    candidates: tuple[tuple[str, float], ...] = ()

    @property
    def whole(self) -> str:
        """The text that spans count in: the caption, or question and answer with a blank between them."""
        return self.text if self.question is None else f"{self.question} {self.text}"

    @property
    def links(self) -> tuple[Link, ...]:
        """The phrases that have a box, best first."""
        found = self.detections
        return tuple(Link(d.name, found.spans(i), d.box, d.score) for i, d in enumerate(found))

    def to_dict(self) -> dict:
        """Return what json can hold (not the picture)."""
        asked = {} if self.question is None else {"question": self.question}
        best = {"candidates": [list(c) for c in self.candidates]} if self.candidates else {}
        links = [{"text": k.text, "spans": [list(s) for s in k.spans], "box": list(k.box), "score": k.score} for k in self.links]
        size = list(self.detections.size)
        return {"size": size, **asked, "text": self.text, "score": self.score, **best, "whole": self.whole, "links": links}

    def draw(self, **options: Any) -> Image:
        """Return the picture with the links' boxes, and the text below it; for `options` see `openvocab.viz.draw`.

        Raises:
            DataError: if the detections carry no picture.
        """
        from openvocab.viz import with_line

        return with_line(self.detections.draw(**options), self.whole)
