"""What a predictor says of a picture: answers and captions, with the boxes of their words."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from openvocab.detections import Detections
from openvocab.errors import PromptError, WeightsError
from openvocab.linked_text import LinkedText
from openvocab.media import ImageLike, to_rgb
from openvocab.prompting import Caption, phrases_of_answer, phrases_of_caption

if TYPE_CHECKING:
    from torch import nn

TRAINED_BY = {"vqa": "shapes_tasks", "caption": "shapes_tasks", "masks": "shapes_masks"}
"""For each task the quick config that trains weights for it."""
DOING = {"vqa": "answer questions", "caption": "write captions", "masks": "give masks"}


class Speaker:
    """Answers and captions of a predictor whose model has heads for them (`glipv2.tasks.GLIPv2Tasks`)."""

    model: nn.Module
    _input: Callable[[np.ndarray], dict]
    batch: Callable[..., list[Detections]]

    def answer(self, image: ImageLike, question: str, *, links: bool = True) -> LinkedText:
        """Answer a question about one picture.

        Args:
            image: a path, a PIL picture, or (H, W, 3) uint8 RGB.
            question: a sentence.
            links: also find boxes for the noun phrases of question and answer, by the same detector.

        Raises:
            WeightsError: if the weights were not trained for it; says for what they were, and how to train such.
            InputError, PromptError: for a picture or a question that cannot be used.
        """
        if not isinstance(question, str) or not question.strip():
            raise PromptError(f"the question is {question!r:.60}; it must be a text that is not blank")
        question = " ".join(question.split())
        pixels, output = self._say(image, "vqa", question=question)
        phrases = phrases_of_answer(question, output["answer"]) if links else None
        found = self._link(pixels, f"{question} {output['answer']}", phrases)
        return LinkedText(output["answer"], output["score"], found, question, tuple(output["candidates"]))

    def caption(self, image: ImageLike, *, links: bool = True) -> LinkedText:
        """Write a sentence about one picture; arguments and errors as `answer`."""
        pixels, output = self._say(image, "caption")
        phrases = phrases_of_caption(output["caption"]) if links else None
        return LinkedText(output["caption"], output["score"], self._link(pixels, output["caption"], phrases))

    @torch.no_grad()
    def _say(self, image: ImageLike, task: str, **more: Any) -> tuple[np.ndarray, dict]:
        check_trained(self.model, task)
        pixels = to_rgb(image)
        (output,) = self.model([{**self._input(pixels), "task": task, **more}])
        return pixels, output

    def _link(self, pixels: np.ndarray, text: str, phrases: Caption | None) -> Detections:
        if phrases is not None:
            return self.batch([pixels], phrases)[0]
        return Detections(np.zeros((0, 4)), np.zeros(0), [], pixels.shape[:2], image=pixels, caption=text)


def trained_tasks(model: nn.Module) -> tuple[str, ...]:
    """Say what a model's weights were trained for, masks included (loaded weights bring all that a mask branch needs)."""
    trained = tuple(getattr(model, "trained_tasks", ("detection",)))
    detector = getattr(model, "detector", model)
    parts = getattr(detector, "mask_branch", None), getattr(getattr(detector, "roi_heads", None), "mask_on", None)
    return (*trained, "masks") if trained and any(parts) else trained


def check_trained(model: nn.Module, task: str) -> None:
    """Make sure that a model's weights were trained for a task, a key of `DOING`.

    Raises:
        WeightsError: if not; it says for what they were, and how to train some.
    """
    trained = trained_tasks(model)
    if task in trained:
        return
    known, config = ", ".join(trained) or "nothing", TRAINED_BY[task]
    raise WeightsError(
        f"these weights cannot {DOING[task]}: they were trained for {known}. Train some with: python tools/train_net.py "
        f"--config-file configs/glipv2/quick/{config}.py; then give its config as the model, and its "
        f"output/quick_{config}/model_final.pth as the weights"
    )
