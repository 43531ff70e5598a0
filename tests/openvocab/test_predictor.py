"""The predictor, with a detector that finds coloured rectangles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from openvocab import Vocabulary, load_predictor
from openvocab.config import ZOO, ZooEntry
from openvocab.errors import ConfigError, InputError, PromptError, VocabularyError, WeightsError
from openvocab.io import save_weights
from openvocab.predictor import Predictor
from tests.openvocab.colours import ColourDetector, paint, write_config

RED, BLUE = (20, 30, 70, 90), (100, 10, 140, 60)


@pytest.fixture
def picture() -> np.ndarray:
    return paint((120, 160), red=RED, blue=BLUE)


def make(side: int = 96, longest: int = 160, score_threshold: float = 0.3, **options: object) -> Predictor:
    resize = T.ResizeShortestEdge(short_edge_length=side, max_size=longest)
    return Predictor(model=ColourDetector(**options), augmentations=[resize], score_threshold=score_threshold)


# ---- words ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["red box. blue box", ["red box", "blue box"], Vocabulary.from_names(["red box", "blue box"])])
def test_forms_of_text(picture: np.ndarray, text: object) -> None:
    d = make()(picture, text)
    assert d.names == ["red box", "blue box"] and d.vocabulary == ("red box", "blue box") and d.size == (120, 160)
    assert np.abs(d.boxes - [RED, BLUE]).max() < 3
    assert np.array_equal(d.image, picture)


def test_order_of_names_does_not_matter(picture: np.ndarray) -> None:
    a, b = make()(picture, "red. green. blue."), make()(picture, "blue. red. green.")
    assert a.names == b.names and np.array_equal(a.boxes, b.boxes)


def test_a_model_that_embeds_each_name_alone_keeps_no_budget(picture: np.ndarray) -> None:
    """Scores over all names must not change because names were cut into several prompts."""
    words = [f"{c} thing {i}" for i in range(20) for c in ("red", "grey")]
    p = make()
    p(picture, words)
    assert len(p.model.calls) > 1, "each prompt of its own"
    p.model.joins_names = False
    assert p._parts(Vocabulary.from_names(words)) == [list(range(40))]


def test_vocabulary_set_before(picture: np.ndarray) -> None:
    p = make()
    with pytest.raises(VocabularyError, match="nothing to look for"):
        p(picture)
    p.set_vocabulary("blue.")
    assert p(picture).names == ["blue"]
    p.set_vocabulary(["red"])
    assert p(picture).names == ["red"] and p(picture, "blue").names == ["blue"] and p(picture).names == ["red"]
    model = ColourDetector(vocabulary=Vocabulary.from_names(["blue"]))
    assert Predictor(model=model, augmentations=[])(picture).names == ["blue"]


@pytest.mark.parametrize("text", ["", " . ;", [], ["red", " "], ["red", "red"], "red. red", 7])
def test_words_that_cannot_be_used(picture: np.ndarray, text: object) -> None:
    with pytest.raises(VocabularyError):
        make()(picture, text)


def test_a_caption_of_600_words(picture: np.ndarray) -> None:
    with pytest.raises((VocabularyError, PromptError), match="limit|takes"):
        make()(picture, "red box " * 300)
    with pytest.raises(PromptError, match="takes 64"):
        make().ground(picture, "a red box and " * 150 + "a blue box")


def test_ground(picture: np.ndarray) -> None:
    sentence = "a red box beside a blue box"
    d = make().ground(picture, sentence)
    assert d.names == ["a red box", "a blue box"] and d.caption == sentence
    assert [sentence[s:e] for i in range(2) for s, e in d.spans(i)] == d.names
    assert np.abs(d.boxes - [RED, BLUE]).max() < 3


def test_one_name_over_the_budget() -> None:
    with pytest.raises(PromptError, match="tokens"):
        make(max_tokens=12).set_vocabulary(["red", "a b c d e f g h i j k l m n"])


@pytest.mark.parametrize("max_tokens", [16, 24, 400])
def test_long_vocabularies_are_asked_in_parts(picture: np.ndarray, max_tokens: int) -> None:
    names = [f"thing {i}" for i in range(40)] + ["blue box"] + [f"other {i}" for i in range(40)] + ["red box"]
    p = make(max_tokens=max_tokens)
    d = p(picture, names)
    assert d.names == ["red box", "blue box"] and d.vocabulary == tuple(names)
    assert [names[c] for c in d.classes] == d.names
    asked = [n for call in p.model.calls for x in call for n in x["vocabulary"].names]
    assert asked == names and (len(p.model.calls) == 1) == (max_tokens == 400)


def test_most_detections_of_a_long_vocabulary(picture: np.ndarray) -> None:
    model = ColourDetector(max_tokens=16)
    p = Predictor(model=model, augmentations=[], max_detections=3)
    d = p(picture, [*(f"red {i}" for i in range(10)), *(f"blue {i}" for i in range(10))])
    assert len(model.calls) > 1 and d.names == ["red 0", "red 1", "red 2"]


# ---- pictures ------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(30, 300), st.integers(30, 300), st.data())
def test_boxes_come_back_in_the_pixels_of_the_picture(height: int, width: int, data: st.DataObject) -> None:
    x1, y1 = data.draw(st.integers(0, width // 2)), data.draw(st.integers(0, height // 2))
    box = (x1, y1, data.draw(st.integers(x1 + 12, width)), data.draw(st.integers(y1 + 12, height)))
    p = make(side=256, longest=4000)
    d = p(paint((height, width), green=box), "green")
    step = max(height, width) / max(p.model.calls[-1][0]["image"].shape[1:])  # a pixel of the network, in the picture's
    assert len(d) == 1 and np.abs(d.boxes[0] - box).max() <= 1 + step


def test_odd_sizes(picture: np.ndarray) -> None:
    d = make(side=400, longest=1333)(paint((37, 911), red=(800, 5, 905, 30)), "red")
    assert np.abs(d.boxes[0] - [800, 5, 905, 30]).max() <= 1
    assert len(make()(picture[:1, :1], "red")) == 0
    with pytest.raises(InputError, match="2000 x 1 pixels is too narrow"):
        make()(np.zeros((1, 2000, 3), np.uint8), "red")


def test_inputs_agree(picture: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(picture).save(tmp_path / "a.png")
    expected = make()(picture, "red. blue")
    for image in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(picture), Image.fromarray(picture).convert("RGBA")):
        assert np.array_equal(make()(image, "red. blue").boxes, expected.boxes)
    assert make(input_format="BGR")(picture, "red. blue").names == ["red", "blue"]
    with pytest.raises(InputError, match="float32"):
        make()(picture.astype(np.float32), "red")


def test_batch_equals_one_by_one(picture: np.ndarray) -> None:
    pictures = [picture, paint((80, 60), red=(5, 5, 50, 50)), paint((50, 90), green=(9, 9, 40, 40))]
    texts = ["red. blue", [*(f"thing {i}" for i in range(20)), "red"], "green"]
    p = make(max_tokens=24)
    for size in (1, 2, 5):
        for got, image, text in zip(p.batch(pictures, texts, batch_size=size), pictures, texts, strict=True):
            alone = p(image, text)
            assert got.names == alone.names and np.array_equal(got.boxes, alone.boxes) and got.size == image.shape[:2]
    assert [len(d) for d in p.batch(pictures, "red. green")] == [1, 1, 1] and p.batch([]) == []
    with pytest.raises(PromptError, match="3 pictures and 2 texts"):
        p.batch(pictures, ["red", "green"])


def test_threshold(picture: np.ndarray) -> None:
    assert make(score_threshold=0.8)(picture, "red. blue").names == ["red"]
    assert len(make(score_threshold=0.95)(picture, "red. blue")) == 0
    with pytest.raises(ConfigError, match="score_threshold=2"):
        make(score_threshold=2)


# ---- loading -------------------------------------------------------------------------------------------------------


def test_load_a_config(picture: np.ndarray, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    p = load_predictor(write_config(tmp_path), device="cpu")
    assert "its model is random" in caplog.text
    assert p(picture, "red. blue").names == ["red", "blue"]
    assert p.model.calls[0][0]["image"].shape == (3, 96, 128) and not p.model.training  # the config's test resize
    p = load_predictor(tmp_path / "colours.py", score_threshold=0.8, overrides=["model.max_tokens=32"])
    assert p.model.text_encoder.max_tokens == 32 and p.score_threshold == 0.8


def test_load_weights(picture: np.ndarray, tmp_path: Path) -> None:
    config, weights = write_config(tmp_path), tmp_path / "w.safetensors"
    save_weights(weights, {"gain": torch.tensor([0.5])}, {"vocabulary": '["blue", "red"]'})
    d = load_predictor(config, weights=weights, score_threshold=0)(picture)
    assert d.names == ["red", "blue"] and d.scores[0] == pytest.approx(0.45)
    config.write_text(config.read_text().replace('init_checkpoint=""', f'init_checkpoint="{weights}"'))
    assert float(load_predictor(config).model.gain) == 0.5


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    save_weights(tmp_path / "other.safetensors", {"backbone.weight": torch.ones(3)})
    save_weights(tmp_path / "text.safetensors", {"gain": torch.ones(1)}, {"text_encoder": "clip:ViT-B-32"})
    (tmp_path / "damaged.safetensors").write_bytes(b"\0" * 100)
    reasons = {
        "other": "another architecture",
        "text": "trained with the text encoder 'clip:ViT-B-32'",
        "damaged": "damaged",
        "absent": "no weight file",
    }
    for name, message in reasons.items():
        with pytest.raises(WeightsError, match=message):
            load_predictor(config, weights=tmp_path / f"{name}.safetensors")


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no model 'defualt'. Did you mean 'default'"):
        load_predictor("defualt")
    with pytest.raises(ConfigError, match="no device 'abacus'"):
        load_predictor(write_config(tmp_path), device="abacus")
    with pytest.raises(ConfigError, match="bridge.*no weight file"):
        load_predictor("bridge", weights="x.pth")


def test_a_config_without_a_test_size(picture: np.ndarray, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = write_config(tmp_path)
    config.write_text(config.read_text().split("dataloader =")[0])
    p = load_predictor(config)
    assert "says no test size" in caplog.text and p(picture, "red").names == ["red"]
    assert min(p.model.calls[0][0]["image"].shape[1:]) == 384


def test_a_zoo_entry(picture: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ZOO, "colours", ZooEntry(config=str(write_config(tmp_path)), vocabulary="voc"))
    assert load_predictor("zoo://colours").vocabulary == Vocabulary.builtin("voc")
    monkeypatch.setitem(ZOO, "colours", ZooEntry(config=str(tmp_path / "colours.py"), weights="not_shipped.safetensors"))
    with pytest.raises(WeightsError, match="not_shipped.safetensors are missing"):
        load_predictor("colours")
