"""Names for regions, with a stand-in for the bridge that knows colours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from openvocab import Vocabulary
from openvocab.errors import ConfigError, DataError, VocabularyError
from openvocab.prompting import noun_phrases
from openvocab.regions import RegionClassifier
from tests.openvocab.colours import COLOURS, paint

RED, BLUE = (20, 30, 70, 90), (100, 10, 140, 60)


class ColourBridge:
    """A name's similarity to a region: how close its colour is to the region's mean; other names lie in the middle."""

    def score_regions(self, image: Tensor, boxes: Tensor, names: Sequence[str], *, negatives: Sequence[str] = ()) -> Tensor:
        assert image.dtype == torch.uint8 and image.shape[0] == 3
        self.words = [*names, *negatives]
        rows = []
        for x1, y1, x2, y2 in boxes.int().tolist():
            mean = image[:, y1:y2, x1:x2].float().mean((1, 2))
            known = {c: -float((mean - torch.tensor(v)).abs().mean()) / 20 for c, v in COLOURS.items()}
            rows.append([next((known[c] for c in known if c in name), -6.0) for name in self.words])
        return torch.tensor(rows).softmax(1)[:, : len(names)]


@pytest.fixture
def picture() -> np.ndarray:
    return paint((120, 160), red=RED, blue=BLUE)


def make(**options: object) -> RegionClassifier:
    return RegionClassifier(bridge=ColourBridge(), **options)


def test_names_for_boxes(picture: np.ndarray) -> None:
    d = make()(picture, "red box. blue box. green box", boxes=[RED, BLUE])
    named = {name: tuple(box) for name, _, box in d}
    assert named == {"red box": RED, "blue box": BLUE} and (d.scores > 0.5).all() and len(d.vocabulary) == 3
    assert len(make()(picture, "red. blue", boxes=[RED, BLUE], top=2)) == 4


def test_whole_picture(picture: np.ndarray) -> None:
    d = make()(picture, [f"{c} thing" for c in COLOURS] + ["a", "b", "c"])
    assert len(d) == 5 and (d.boxes == [0, 0, 160, 120]).all()
    assert len(make(score_threshold=1.0)(picture, "red. blue")) == 0
    assert len(make()(picture, "red", boxes=np.zeros((0, 4)))) == 0


def test_one_name_alone_is_not_certain(picture: np.ndarray) -> None:
    classifier = make()
    assert classifier(picture, "green", boxes=[RED]).scores[0] < 0.05 < 0.5 < classifier(picture, "red", boxes=[RED]).scores[0]
    assert "dog" in classifier.bridge.words
    classifier(picture, "Dog", boxes=[RED])
    assert [w.casefold() for w in classifier.bridge.words].count("dog") == 1
    assert make(negatives=())(picture, "green", boxes=[RED]).scores[0] == 1


def test_words(picture: np.ndarray) -> None:
    classifier = make()
    with pytest.raises(VocabularyError, match="nothing to choose from"):
        classifier(picture)
    classifier.set_vocabulary(Vocabulary.from_names(["red", "blue"]))
    assert classifier(picture, boxes=[BLUE]).names == ["blue"]
    assert classifier(picture, noun_phrases("a red box by a blue box"), boxes=[RED]).names == ["a red box"]


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([[0, 0, 5]], r"\(N, 4\)"),
        ([[0, 0, np.inf, 5]], "finite"),
        ([[0, 0, 5, 5], [9, 9, 4, 12]], "box 1"),
        ([[500, 0, 600, 5]], "no area inside the picture of 160 x 120"),
    ],
)
def test_boxes_that_cannot_be_used(picture: np.ndarray, boxes: list, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make()(picture, "red", boxes=boxes)


def test_threshold() -> None:
    with pytest.raises(ConfigError, match="score_threshold=-1"):
        make(score_threshold=-1)
