"""A GLIPv2 small enough for a test, with a hashed text encoder and random weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from detectron2.modeling import FPN
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.modeling.box_regression import Box2BoxTransform

from glipv2.modeling import (
    BiAttention,
    GLIPv2,
    GLIPv2Block,
    GLIPv2Head,
    GroundingCriterion,
    GroundingPostProcessor,
    LanguageLayer,
    RegionWordAlignment,
    VisionLanguageFusion,
)
from openvocab.modeling import ATSSMatcher, DyHeadBlock, TimmBackbone
from openvocab.text import HashedTextEncoder

CHANNELS, LANG = 16, 32


def build_tiny(**changes: object) -> GLIPv2:
    """Return the model; `changes` replace arguments of `GLIPv2` (or of the class `kind`), and `deformable` goes to the blocks."""
    torch.manual_seed(0)
    kind = changes.pop("kind", GLIPv2)
    coder = Box2BoxTransform((10.0, 10.0, 5.0, 5.0))
    deformable = changes.pop("deformable", True)

    def block() -> GLIPv2Block:
        attention = BiAttention(visual_dim=CHANNELS, lang_dim=LANG, embed_dim=32, num_heads=4, dropout=0.0)
        return GLIPv2Block(
            dynamic=DyHeadBlock(channels=CHANNELS, num_groups=4, deformable=deformable),
            fusion=VisionLanguageFusion(attention=attention, visual_dim=CHANNELS, lang_dim=LANG, init_scale=0.5),
            language=LanguageLayer(dim=LANG, num_heads=4, ffn_dim=48, dropout=0.0),
        )

    parts = {
        "backbone": FPN(
            TimmBackbone(name="test_efficientnet"),
            ["stage2", "stage3", "stage4"],
            CHANNELS,
            top_block=LastLevelP6P7(CHANNELS, CHANNELS, in_feature="p5"),
        ),
        "text_encoder": HashedTextEncoder(dim=LANG, max_tokens=64),
        "head": GLIPv2Head(
            blocks=[block(), block()], alignment=RegionWordAlignment(channels=CHANNELS, lang_dim=LANG), channels=CHANNELS
        ),
        "anchor_generator": DefaultAnchorGenerator(
            sizes=[[48], [96], [192], [384], [768]], aspect_ratios=[1.0], strides=[8, 16, 32, 64, 128], offset=0.5
        ),
        "criterion": GroundingCriterion(matcher=ATSSMatcher(), box2box_transform=coder),
        "postprocessor": GroundingPostProcessor(box2box_transform=coder, score_threshold=0.001),
        "pixel_mean": [127.0] * 3,
        "pixel_std": [128.0] * 3,
    }
    return kind(**{**parts, **changes})


@pytest.fixture()
def tiny() -> Callable[..., GLIPv2]:
    """A builder of tiny models."""
    return build_tiny


def picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """A random uint8 picture (3, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
