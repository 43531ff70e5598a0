"""Keys that GLIPv2 adds to detectron2's yaml configs, and the way from them to constructor arguments."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, build_backbone
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform

from openvocab.modeling import ATSSMatcher, DyHeadBlock, add_swin_config, add_timm_config
from openvocab.modeling.fpn import build_fpn_p6p7
from openvocab.modeling.swin import build_swin_backbone
from openvocab.text import TextEncoder, build_text_encoder

from .modeling.contrast import RegionWordContrast
from .modeling.execution import Execution
from .modeling.fusion import BiAttention, VisionLanguageFusion
from .modeling.head import GLIPv2Block, GLIPv2Head, RegionWordAlignment
from .modeling.language import LanguageLayer
from .modeling.losses import GroundingCriterion
from .modeling.mask_branch import MaskBranch, MaskPooler
from .modeling.mask_head import GLIPv2MaskHead
from .modeling.mlm import MaskedLanguageHead, MaskedLanguageModelling, WordMasker
from .modeling.postprocess import GroundingPostProcessor
from .modeling.prompts import Chunking


def add_glipv2_config(cfg: CfgNode) -> None:
    """Add `MODEL.GLIPV2`, `MODEL.SWIN` and `MODEL.TIMM` to a detectron2 `CfgNode`, in place. The values are GLIP-T's.

    Set `MODEL.META_ARCHITECTURE` to "GLIPv2" and `MODEL.BACKBONE.NAME` to "build_glipv2_swin_fpn_backbone" or
    "build_timm_fpn_backbone".
    """
    add_swin_config(cfg)
    add_timm_config(cfg)
    node = cfg.MODEL.GLIPV2 = CfgNode()
    node.NUM_BLOCKS = 6
    node.FUSION = True  # False: GLIP-A
    node.OFFICIAL = True  # published arithmetic (padding takes part, the released kernel's offsets, inclusive pixels)
    node.DEFORMABLE = True
    node.ATTENTION_DIM = 2048
    node.ATTENTION_HEADS = 8
    node.ANCHOR_SCALE = 8.0  # anchor side = this x stride
    node.TEXT_ENCODER = "bert"
    node.TEXT_SOURCE = ""  # "minilm", a folder, or "" for random weights of BERT-base
    node.TEXT_FROZEN = False
    node.LANGUAGE_HEADS = 12
    node.LANGUAGE_FFN = 3072
    node.VOCABULARY = []  # names to detect when a picture brings none
    node.ATSS_TOPK = 9
    node.BOX_WEIGHT = 2.0
    node.SCORE_THRESH_TEST = 0.05
    node.PRE_NMS_TOPK_TEST = 1000
    node.NMS_THRESH_TEST = 0.6
    node.DETECTIONS_PER_IMAGE = 100
    node.AGGREGATE = "mean"  # of a phrase's tokens; "max" or "power" (geometric mean)
    node.PROMPT_NAMES = 0  # most names of a prompt, 40 in the official protocol for LVIS; 0: as many as its tokens allow
    node.PRECISION = "float32"  # or "bfloat16", outside training
    node.CHANNELS_LAST = False
    node.COMPILE = False  # torch.compile the head
    # the mask head, built where MODEL.MASK_ON is true
    node.MASK_LAYERS = 4  # convolutions of its trunk
    node.MASK_HOURGLASS = False  # hourglasses in place of convolutions
    node.MASK_FUSED = True  # pool from the fused maps; False: from the pyramid
    node.MASK_WORD_DIM = 768  # of class embeddings, where the head serves in a stock R-CNN
    node.FROZEN_DETECTOR = False  # train the mask head alone
    # pretraining's losses
    node.CONTRAST = False  # regions against the words of all pictures of a batch
    node.CONTRAST_PROPAGATE = "names"  # or "words": what of other pictures is right too
    node.MLM = False  # hidden words of sentences
    # heads of GLIPv2Tasks
    node.VQA_ANSWERS = ""  # a json list of answers (python -m openvocab.data.answers); "": no questions
    node.VQA_NUM_ANSWERS = 3129
    node.CAPTIONS = False


@BACKBONE_REGISTRY.register()
def build_glipv2_swin_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Swin with detectron2's FPN: P3-P5 from its last three stages, P6 and P7 on top of P5."""
    return build_fpn_p6p7(cfg, build_swin_backbone(cfg, input_shape))


def _blocks(node: CfgNode, channels: int, lang_dim: int) -> list[GLIPv2Block]:
    def fusion() -> VisionLanguageFusion:
        attention = BiAttention(
            visual_dim=channels, lang_dim=lang_dim, embed_dim=node.ATTENTION_DIM, num_heads=node.ATTENTION_HEADS
        )
        return VisionLanguageFusion(
            attention=attention, visual_dim=channels, lang_dim=lang_dim, init_scale=1 / node.NUM_BLOCKS
        )

    def language() -> LanguageLayer:
        return LanguageLayer(dim=lang_dim, num_heads=node.LANGUAGE_HEADS, ffn_dim=node.LANGUAGE_FFN)

    reading = "official" if node.OFFICIAL else "resized"
    return [
        GLIPv2Block(
            dynamic=DyHeadBlock(channels=channels, offset_reading=reading, deformable=node.DEFORMABLE),
            fusion=fusion() if node.FUSION else None,
            language=language() if node.FUSION else None,
        )
        for _ in range(node.NUM_BLOCKS)
    ]


def _mask_branch(cfg: CfgNode, channels: int, lang_dim: int, strides: list[int]) -> MaskBranch | None:
    if not cfg.MODEL.MASK_ON:
        return None
    node, cfg = cfg.MODEL.GLIPV2, cfg.clone()
    cfg.defrost()
    cfg.MODEL.GLIPV2.MASK_WORD_DIM = lang_dim
    return MaskBranch(
        pooler=MaskPooler(strides=strides, official=node.OFFICIAL),
        head=GLIPv2MaskHead(cfg, ShapeSpec(channels=channels)),
        fused=node.MASK_FUSED,
    )


def _contrast(cfg: CfgNode, channels: int, lang_dim: int) -> RegionWordContrast:
    return RegionWordContrast(visual_dim=channels, lang_dim=lang_dim, propagate=cfg.MODEL.GLIPV2.CONTRAST_PROPAGATE)


def _masked_words(text_encoder: TextEncoder) -> MaskedLanguageModelling:
    table = text_encoder.word_embeddings
    words = 0 if table is None else len(table)
    return MaskedLanguageModelling(
        head=MaskedLanguageHead(dim=text_encoder.dim, vocab_size=words, tied=True), masker=WordMasker()
    )


def glipv2_from_config(cfg: CfgNode) -> dict:
    """Return the arguments of `GLIPv2` that a yaml config stands for."""
    node, backbone = cfg.MODEL.GLIPV2, build_backbone(cfg)
    strides = [s.stride for s in backbone.output_shape().values()]
    text = {"source": node.TEXT_SOURCE} if node.TEXT_SOURCE else {"source": None, "config": {}}
    options = {"frozen": node.TEXT_FROZEN, **text} if node.TEXT_ENCODER == "bert" else {}
    text_encoder = build_text_encoder(node.TEXT_ENCODER, **options)
    coder = Box2BoxTransform((10.0, 10.0, 5.0, 5.0))
    offset, channels = float(node.OFFICIAL), cfg.MODEL.FPN.OUT_CHANNELS
    return {
        "backbone": backbone,
        "text_encoder": text_encoder,
        "head": GLIPv2Head(
            blocks=_blocks(node, channels, text_encoder.dim),
            alignment=RegionWordAlignment(channels=channels, lang_dim=text_encoder.dim),
            channels=channels,
            num_levels=len(strides),
            fused_words=node.FUSION,
        ),
        "anchor_generator": DefaultAnchorGenerator(
            sizes=[[node.ANCHOR_SCALE * s] for s in strides], aspect_ratios=[1.0], strides=strides, offset=0.5
        ),
        "criterion": GroundingCriterion(
            matcher=ATSSMatcher(topk=node.ATSS_TOPK, pixel_offset=offset),
            box2box_transform=coder,
            box_weight=node.BOX_WEIGHT,
            pixel_offset=offset,
        ),
        "postprocessor": GroundingPostProcessor(
            box2box_transform=coder,
            score_threshold=node.SCORE_THRESH_TEST,
            pre_nms_topk=node.PRE_NMS_TOPK_TEST,
            nms_threshold=node.NMS_THRESH_TEST,
            max_detections=node.DETECTIONS_PER_IMAGE,
            aggregate=node.AGGREGATE,
            inclusive_boxes=node.OFFICIAL,
        ),
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
        "input_format": cfg.INPUT.FORMAT,
        "ignore_padding": not node.OFFICIAL,
        "mask_branch": _mask_branch(cfg, channels, text_encoder.dim, strides),
        "frozen_detector": node.FROZEN_DETECTOR,
        "contrast": _contrast(cfg, channels, text_encoder.dim) if node.CONTRAST else None,
        "mlm": _masked_words(text_encoder) if node.MLM else None,
        "chunking": Chunking(max_names=node.PROMPT_NAMES or None),
        "execution": Execution(precision=node.PRECISION, channels_last=node.CHANNELS_LAST, compile=node.COMPILE),
        "vocabulary": list(node.VOCABULARY) or None,
    }
