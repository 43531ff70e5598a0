"""GLIPv2 with heads for questions and captions in its smallest form: a few convolutions, a BERT of two layers that knows the words
of ShapesWorld, two fused blocks of 64 channels; 1.4 M parameters, all of which train. Ours, for a CPU.
"""

from detectron2.config import LazyCall as L
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform

from glipv2.modeling import (
    BiAttention,
    GLIPv2,
    GLIPv2Block,
    GLIPv2Head,
    GroundingCriterion,
    GroundingPostProcessor,
    LanguageLayer,
    MaskedLanguageHead,
    RegionWordAlignment,
    VisionLanguageFusion,
)
from glipv2.tasks import CaptionHead, GLIPv2Tasks, SearchSettings, VQAHead
from openvocab.modeling.atss import ATSSMatcher
from openvocab.modeling.dyhead import DyHeadBlock
from openvocab.testing.questions import ANSWERS
from openvocab.testing.quick_tasks import shapes_words
from openvocab.testing.tiny import TinyBackbone
from openvocab.text import BertTextEncoder

CHANNELS, LANG, BLOCKS, LEVELS = 64, 128, 2, 3
_words, _num_words = shapes_words()
_box_coder = L(Box2BoxTransform)(weights=(10.0, 10.0, 5.0, 5.0))
_bert = dict(
    vocab_size=_num_words,
    hidden_size=LANG,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=256,
    max_position_embeddings=96,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)

model = L(GLIPv2Tasks)(
    detector=L(GLIPv2)(
        backbone=L(TinyBackbone)(channels=CHANNELS, first=3, last=2 + LEVELS),
        text_encoder=L(BertTextEncoder)(source=None, config=_bert, vocab_file=_words, frozen=False, max_tokens=96),
        head=L(GLIPv2Head)(
            blocks=[
                L(GLIPv2Block)(
                    fusion=L(VisionLanguageFusion)(
                        attention=L(BiAttention)(visual_dim=CHANNELS, lang_dim=LANG, embed_dim=128, num_heads=4, dropout=0.0),
                        visual_dim=CHANNELS,
                        lang_dim=LANG,
                        init_scale=1 / BLOCKS,
                    ),
                    language=L(LanguageLayer)(dim=LANG, num_heads=4, ffn_dim=256, dropout=0.0),
                    dynamic=L(DyHeadBlock)(channels=CHANNELS, deformable=False),
                )
                for _ in range(BLOCKS)
            ],
            alignment=L(RegionWordAlignment)(channels=CHANNELS, lang_dim=LANG),
            channels=CHANNELS,
            num_levels=LEVELS,
        ),
        anchor_generator=L(DefaultAnchorGenerator)(
            sizes=[[1.5 * 2**k] for k in range(3, 3 + LEVELS)],
            aspect_ratios=[1.0],
            strides=[2**k for k in range(3, 3 + LEVELS)],
            offset=0.5,
        ),
        criterion=L(GroundingCriterion)(matcher=L(ATSSMatcher)(topk=9), box2box_transform=_box_coder),
        postprocessor=L(GroundingPostProcessor)(box2box_transform=_box_coder, score_threshold=0.01, max_detections=50),
        pixel_mean=[127.0, 127.0, 127.0],
        pixel_std=[64.0, 64.0, 64.0],
    ),
    heads=[
        L(VQAHead)(answers=list(ANSWERS), lang_dim=LANG, channels=CHANNELS, num_levels=LEVELS, hidden_dim=256, dropout=0.0),
        L(CaptionHead)(
            words=L(MaskedLanguageHead)(dim=LANG, vocab_size=_num_words),
            search=L(SearchSettings)(beams=2, max_length=40),
            label_smoothing=0.0,
        ),
    ],
)
