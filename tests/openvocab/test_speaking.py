"""Answers and captions as values of the predictor: their links, drawing, json; and what weights cannot do."""

from __future__ import annotations

import json

import numpy as np
import pytest
from detectron2.data import transforms as T

from openvocab import Predictor
from openvocab.errors import PromptError, WeightsError
from openvocab.linked_text import LinkedText
from openvocab.speaking import phrases_of_answer
from tests.openvocab.colours import ColourDetector, paint

RED, BLUE = (20, 30, 70, 90), (100, 10, 140, 60)


class Talker(ColourDetector):
    """A detector of coloured rectangles that says fixed things."""

    def __init__(self, tasks: tuple[str, ...] = ("detection", "vqa", "caption"), says: str = "red") -> None:
        super().__init__()
        self.trained_tasks, self.says, self.asked = tasks, says, []

    def forward(self, inputs: list[dict]) -> list[dict]:
        task = inputs[0].get("task")
        if task == "vqa":
            self.asked.append(inputs[0]["question"])
            return [{"answer": self.says, "score": 0.75, "candidates": [(self.says, 0.75), ("no", 0.25)]}]
        if task == "caption":
            return [{"caption": "a red box beside a blue box", "score": 0.5}]
        return super().forward(inputs)


def make(**options: object) -> Predictor:
    return Predictor(model=Talker(**options), augmentations=[T.ResizeShortestEdge(96, 160)])


@pytest.fixture
def picture() -> np.ndarray:
    return paint((120, 160), red=RED, blue=BLUE)


def check_links(said: LinkedText, picture: np.ndarray) -> None:
    """Each link's spans cut its words out of the text, and its box is where that color was painted."""
    assert said.links
    for link in said.links:
        assert " ".join(said.whole[s:e] for s, e in link.spans) == link.text
        assert np.abs(np.array(link.box) - (RED if "red" in link.text else BLUE)).max() < 3 and 0 < link.score <= 1
    drawn = np.asarray(said.draw())
    assert drawn.shape[0] > picture.shape[0] and drawn.shape[1] == picture.shape[1]
    assert (drawn[:120] != picture).any() and (drawn[120:] < 100).any(), "boxes above, ink below"
    json.dumps(said.to_dict())


def test_a_caption_with_its_boxes(picture: np.ndarray) -> None:
    said = make().caption(picture)
    assert said.text == said.whole == "a red box beside a blue box" and said.score == 0.5 and said.question is None
    assert {link.text for link in said.links} == {"a red box", "a blue box"}
    check_links(said, picture)
    assert said.to_dict()["links"][0]["box"] == list(said.links[0].box)
    assert make().caption(picture, links=False).links == ()


def test_an_answer_with_its_boxes(picture: np.ndarray) -> None:
    predictor = make()
    said = predictor.answer(picture, "what color is  the red box?")
    assert said.text == "red" and said.candidates == (("red", 0.75), ("no", 0.25))
    assert said.whole == "what color is the red box? red" and predictor.model.asked == ["what color is the red box?"]
    assert {link.text for link in said.links} >= {"the red box", "red"}
    check_links(said, picture)
    assert said.to_dict()["question"] == "what color is the red box?"
    assert make().answer(picture, "why?", links=False).draw().size[0] == 160


@pytest.mark.parametrize(
    ("question", "answer", "names"),
    [
        ("is there a red star?", "yes", ("a red star",)),
        ("how many are there?", "2", None),
        ("what is it?", "a dog", ("a dog",)),
    ],
)
def test_only_what_can_name_a_thing_is_looked_for(question: str, answer: str, names: tuple | None) -> None:
    found = phrases_of_answer(question, answer)
    assert (None if found is None else found.names) == names


def test_weights_that_were_not_trained_for_it(picture: np.ndarray) -> None:
    with pytest.raises(WeightsError, match="cannot answer questions: they were trained for detection, caption.*shapes_tasks.py"):
        make(tasks=("detection", "caption")).answer(picture, "why?")
    with pytest.raises(WeightsError, match="cannot write captions: they were trained for nothing"):
        make(tasks=()).caption(picture)
    plain = Predictor(model=ColourDetector(), augmentations=[])
    with pytest.raises(WeightsError, match="cannot write captions: they were trained for detection"):
        plain.caption(picture)
    with pytest.raises(PromptError, match="not blank"):
        make().answer(picture, " ")


def test_a_real_model_from_pixels_to_a_drawn_answer(picture: np.ndarray) -> None:
    """`GLIPv2Tasks` with random weights, marked as trained: every part fits the next."""
    from tests.glipv2.tasks.conftest import build_tasks

    model = build_tasks()
    predictor = Predictor(model=model, augmentations=[T.ResizeShortestEdge(64, 96)], score_threshold=0.0)
    with pytest.raises(WeightsError, match="trained for nothing"):
        predictor.answer(picture, "what color is the circle?")
    for counter in (model.samples_seen, *(head.samples_seen for head in model.heads.values())):
        counter += 1
    answer, caption = predictor.answer(picture, "what color is the circle?"), predictor.caption(picture)
    assert answer.text in ("yes", "no", "2", "red") and answer.links and caption.text
    for said in (answer, caption):
        assert said.detections.size == (120, 160) and said.draw().size[0] == 160
        assert all(0 <= x1 <= x2 <= 160 and 0 <= y1 <= y2 <= 120 for _, _, (x1, y1, x2, y2), _ in said.links)
