"""Build our model from the recorded tensors of microsoft/GLIP (shared by the parity tests)."""

from __future__ import annotations

import torch
from detectron2.modeling import FPN
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.modeling.box_regression import Box2BoxTransform

from glipv2.convert import from_official
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
from openvocab.io import load_into
from openvocab.modeling.atss import ATSSMatcher
from openvocab.modeling.dyhead import DyHeadBlock
from openvocab.modeling.swin import SwinTransformer
from openvocab.testing.golden import golden_path
from openvocab.text import BertTextEncoder, TokenBatch

CHANNELS, LANG, BLOCKS = 32, 64, 2
BERT_FIELDS = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")


def load(case: str) -> dict:
    """Return one case of golden_tiny.pt, its state dict completed from the fused one, in float32."""
    everything = torch.load(golden_path("glip/golden_tiny.pt"), weights_only=True)
    golden = dict(everything[case])
    shared = {} if case == "glip_fused" else {
        k: v for k, v in everything["glip_fused"]["state_dict"].items() if not k.startswith("rpn.")
    }
    state = {**shared, **golden["state_dict"]}
    golden["state_dict"] = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    return golden


def build(golden: dict, fused: bool) -> tuple[GLIPv2, object, object]:
    """Return the model in the official mode with the recorded weights, the conversion's and the load's report."""
    coder = Box2BoxTransform((10.0, 10.0, 5.0, 5.0), scale_clamp=4.135166556742356)

    def block() -> GLIPv2Block:
        attention = BiAttention(visual_dim=CHANNELS, lang_dim=LANG, embed_dim=128, num_heads=8, dropout=0.0)
        return GLIPv2Block(
            dynamic=DyHeadBlock(channels=CHANNELS, offset_reading="official"),
            fusion=VisionLanguageFusion(attention=attention, visual_dim=CHANNELS, lang_dim=LANG) if fused else None,
            language=LanguageLayer(dim=LANG, num_heads=4, ffn_dim=128, dropout=0.0) if fused else None,
        )

    swin = SwinTransformer(
        embed_dim=24, depths=(2, 2, 2, 2), num_heads=(2, 4, 4, 8), window_size=7, drop_path_rate=0.0, out_indices=(1, 2, 3)
    )
    bert = {k: golden["config"]["bert"][k] for k in BERT_FIELDS}
    text = BertTextEncoder(
        source=None,
        config={**bert, "max_position_embeddings": 256, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
        vocab_file=str(golden_path("glip/tiny_vocab.txt")),
        frozen=False,
    )
    model = GLIPv2(
        backbone=FPN(swin, ["p1", "p2", "p3"], CHANNELS, top_block=LastLevelP6P7(CHANNELS, CHANNELS, in_feature="p5")),
        text_encoder=text,
        head=GLIPv2Head(
            blocks=[block() for _ in range(BLOCKS)],
            alignment=RegionWordAlignment(channels=CHANNELS, lang_dim=LANG),
            channels=CHANNELS,
            fused_words=fused,
        ),
        anchor_generator=DefaultAnchorGenerator(
            sizes=[[64], [128], [256], [512], [1024]], aspect_ratios=[1.0], strides=[8, 16, 32, 64, 128], offset=0.5
        ),
        criterion=GroundingCriterion(matcher=ATSSMatcher(pixel_offset=1.0), box2box_transform=coder, pixel_offset=1.0),
        postprocessor=GroundingPostProcessor(box2box_transform=coder),
        pixel_mean=[0.0, 0.0, 0.0],
        pixel_std=[1.0, 1.0, 1.0],
        input_format="BGR",
        ignore_padding=False,
    )
    tensors, report = from_official(golden["state_dict"])
    return model.eval(), report, load_into(model, tensors)


def tokens(ids: torch.Tensor, mask: torch.Tensor) -> TokenBatch:
    """Recorded ids with the padding columns dropped."""
    width = int(mask.sum(1).max())
    return TokenBatch(ids[:, :width], mask[:, :width].bool(), torch.zeros(len(ids), width, 2, dtype=torch.long))
