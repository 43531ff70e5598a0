"""Tiny models have the interfaces of the real ones."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import Backbone

from openvocab.errors import ConfigError
from openvocab.testing.tiny import TINY_BERT, TinyBackbone, tiny_clip, tiny_picture
from openvocab.text import BertTextEncoder, CLIPTextEncoder


@pytest.mark.parametrize(("first", "last", "top_down"), [(3, 5, True), (2, 6, True), (3, 7, False), (4, 4, True)])
def test_backbone_gives_what_it_promises(first: int, last: int, top_down: bool) -> None:
    model = TinyBackbone(channels=8, first=first, last=last, top_down=top_down)
    assert isinstance(model, Backbone) and model.size_divisibility == 2**last
    output = model(torch.randn(2, 3, 256, 128))
    shapes = model.output_shape()
    assert list(output) == list(shapes) == [f"p{n}" for n in range(first, last + 1)]
    for name, spec in shapes.items():
        assert output[name].shape == (2, spec.channels, 256 // spec.stride, 128 // spec.stride)
    sum(o.sum() for o in output.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_backbone_takes_odd_sizes_and_one_picture_at_a_time() -> None:
    model = TinyBackbone().eval()
    pictures = torch.randn(2, 3, 37, 91)
    together = model(pictures)
    for i in range(2):
        alone = model(pictures[i : i + 1])
        assert all(torch.allclose(together[k][i], alone[k][0], atol=1e-5) for k in together)
    assert together["p3"].shape[-2:] == (5, 12)


@pytest.mark.parametrize("options", [{"channels": 6}, {"first": 5, "last": 3}, {"first": 0}, {"channels": 0}, {"groups": 5}])
def test_backbone_refuses_what_makes_no_pyramid(options: dict) -> None:
    with pytest.raises(ConfigError, match="TinyBackbone"):
        TinyBackbone(**options)


def test_tiny_clip_builds_in_open_clip() -> None:
    encoder = CLIPTextEncoder(model=tiny_clip())
    assert tiny_clip() == tiny_clip()
    vectors = encoder.encode(["a red circle", "a blue square"])
    assert vectors.shape == (2, 32) and torch.allclose(vectors.norm(dim=1), torch.ones(2), atol=1e-5)


def test_tiny_bert_builds() -> None:
    encoder = BertTextEncoder(source=None, config=TINY_BERT)
    features = encoder(encoder.tokenize(["a red circle left of the blue square"]))
    assert features.hidden.shape[-1] == 32 and torch.isfinite(features.hidden).all()


def test_tiny_picture_is_the_same_every_time() -> None:
    assert torch.equal(tiny_picture(5, 7), tiny_picture(5, 7)) and tiny_picture(5, 7).shape == (3, 5, 7)
    assert not torch.equal(tiny_picture(5, 7), tiny_picture(5, 7, seed=1))
