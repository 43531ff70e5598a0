"""The bridge on real weights and one real photo."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from openvocab.bridge import Bridge, imagenet_names
from openvocab.errors import ConfigError, PromptError
from openvocab.media import to_rgb
from openvocab.text import HashedTextEncoder


@pytest.fixture(scope="module")
def bridge() -> Bridge:
    return Bridge()


@pytest.fixture(scope="module")
def hashed() -> Bridge:
    """The same with a text encoder that takes no time."""
    return Bridge(text_encoder=HashedTextEncoder(dim=24))


@pytest.fixture(scope="module")
def cat() -> torch.Tensor:
    import skimage

    pixels = to_rgb(Path(skimage.__file__).parent / "data" / "chelsea.png")
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def test_a_cat_is_a_cat(bridge: Bridge, cat: torch.Tensor) -> None:
    names = ["car", "cat", "pizza", "airplane"]
    similarity = bridge.encode_image([cat]) @ bridge.encode(names).t()
    assert names[int(similarity.argmax())] == "cat"


def test_vectors_have_length_one(bridge: Bridge, cat: torch.Tensor) -> None:
    vectors = torch.cat([bridge.encode_image([cat, cat[:, :50, :70]]), bridge.encode(["dog"])])
    assert vectors.shape == (3, bridge.dim)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(3), atol=1e-5)


def test_negatives_take_part_and_are_left_out(bridge: Bridge, cat: torch.Tensor) -> None:
    boxes = torch.tensor([[0.0, 0.0, 450.0, 300.0], [10.0, 10.0, 60.0, 60.0]])
    alone = bridge.score_regions(cat, boxes, ["car"])
    against = bridge.score_regions(cat, boxes, ["car"], negatives=["cat", "dog"])
    assert torch.equal(alone, torch.ones(2, 1)) and against.shape == (2, 1) and against[0, 0] < 0.2
    both = bridge.score_regions(cat, boxes, ["cat", "car"])
    assert torch.allclose(both.sum(1), torch.ones(2))


def test_crops_are_square_and_stay_inside(bridge: Bridge) -> None:
    image = torch.zeros(3, 40, 100)
    image[:, :, 50:] = 200
    crop = bridge.crop(image, torch.tensor([[60.0, 0.0, 80.0, 40.0]]))
    assert crop.shape == (1, 3, 224, 224)
    assert crop[..., 4:].min() > 199  # widened from 20 to 40 pixels, which ends at x = 50
    assert torch.isfinite(bridge.crop(image, torch.tensor([[90.0, 30.0, 100.0, 40.0]]), context=2.0)).all()


def test_it_never_trains(bridge: Bridge) -> None:
    bridge.train()
    assert not bridge.training and not any(p.requires_grad for p in bridge.parameters())


def test_bad_input(bridge: Bridge, cat: torch.Tensor) -> None:
    assert bridge.score_regions(cat, torch.zeros(0, 4), ["cat"]).shape == (0, 1)
    for names in ([], "cat"):
        with pytest.raises(PromptError):
            bridge.score_regions(cat, torch.zeros(1, 4), names)
    with pytest.raises(ConfigError, match="topk"):
        Bridge(topk=0)
    with pytest.raises(ConfigError, match="template='a photo'"):
        Bridge(template="a photo")


@pytest.mark.parametrize("kind", ["hashed", pytest.param("bridge", marks=pytest.mark.slow)])
def test_names_stand_in_the_template(kind: str, request: pytest.FixtureRequest) -> None:
    """Classes and words alike: a sentence given bare to the plain bridge is the templated bridge's name, centre apart."""
    bridge: Bridge = request.getfixturevalue(kind)
    plain = Bridge(template="{}", text_encoder=bridge.text_encoder)
    assert plain.identity != bridge.identity
    raw = bridge.text_encoder.encode(["a dog"]) - bridge.text_encoder.encode([f"a {n}" for n in imagenet_names()]).mean(0)
    assert torch.allclose(bridge.encode(["dog"]), torch.nn.functional.normalize(raw, dim=-1), atol=1e-5)
    assert not torch.allclose(plain.encode(["dog"]), bridge.encode(["dog"]), atol=1e-2)


def test_a_thousand_names() -> None:
    names = imagenet_names()
    assert len(names) == 1000 and names[281] == "tabby cat"
