"""Keys that RegionCLIP adds to detectron2's yaml configs, and the way from them to constructor arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone, build_roi_heads
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead

from openvocab.errors import ConfigError
from openvocab.text import TextEmbeddings, build_text_encoder, load_text_embeddings
from openvocab.vocabulary import Vocabulary

from .convert import VARIANTS
from .modeling.attention_pool import AttentionPool2d
from .modeling.box_predictor import RegionCLIPOutputLayers
from .modeling.clip_resnet import EXPANSION, clip_stage
from .modeling.offline_rpn import OfflineProposals, build_offline_rpn, offline_rpn_from_cfg
from .modeling.postprocess import RegionPostProcessor
from .modeling.region_features import RegionFeatures
from .modeling.soft_nms import SoftNMS

LAYERS = ("backbone", "own", "none")


def add_regionclip_config(cfg: CfgNode) -> None:
    """Add `MODEL.REGIONCLIP` to a detectron2 `CfgNode`, in place. The values are those of RN50 and COCO transfer.

    Set `MODEL.META_ARCHITECTURE` to "RegionCLIP", `MODEL.BACKBONE.NAME` to "build_regionclip_resnet_backbone",
    `MODEL.ROI_HEADS.NAME` to "RegionCLIPROIHeads", `INPUT.FORMAT` to "RGB", and `MODEL.PIXEL_MEAN` and `PIXEL_STD` to CLIP's
    (`regionclip.modeling.CLIP_MEAN`, in 0-255). With `REGION_LAYERS: own` the ROI heads also stand in a `GeneralizedRCNN`
    behind any backbone; with `none` the backbone, or "build_regionclip_resnet_fpn_backbone", stands before any stock head.
    Sampling, pooler, mask head, `SCORE_THRESH_TEST`, `NMS_THRESH_TEST` and `DETECTIONS_PER_IMAGE` are detectron2's own keys.
    """
    node = cfg.MODEL.REGIONCLIP = CfgNode()
    node.DEPTH = "RN50"  # "RN101", "RN50x4" (pooler 18), ...
    node.BLOCKS, node.WIDTH, node.EMBED_DIM, node.ATTNPOOL_SIDE = [], 0, 0, 0  # instead of the variant's, for small models
    node.REGION_LAYERS = "backbone"  # whose layer4 and attention pool regions run through: "backbone", "own"; "none": no regions
    node.CHUNK_SIZE = 50  # regions at a time in evaluation
    node.REGION_DTYPE = "float32"  # "bfloat16": layer4 of regions in evaluation
    node.TEMPERATURE = 0.01
    node.NO_BOX_DELTA = False  # True in zero-shot inference
    node.FOCAL_GAMMA = 0.5  # below 0: none (LVIS)
    node.BACKGROUND_WEIGHT = 0.2  # 0.8 for LVIS; below 0: none
    node.SCORE_FUSION = "none"  # "sqrt_logit" (official MULTIPLY_RPN_SCORE) or "sqrt_sigmoid"
    node.REPORT = "fused"  # "class": official VIS
    node.SOFT_NMS = ""  # "gaussian", "linear", "hard"; "": NMS
    node.SOFT_NMS_SIGMA, node.SOFT_NMS_PRUNE = 0.5, 0.001
    node.REGIONS = "rpn"  # "gt": boxes of the ground truth
    node.OFFLINE_RPN = "c4"  # "fpn", "fpn_lsj"; a path: the detectron2 yaml of another RPN; "": inputs bring "proposals"
    node.OFFLINE_RPN_NMS_THRESH, node.OFFLINE_RPN_POST_NMS_TOPK = 0.7, 1000
    node.TEXT_EMBEDDINGS = ""  # a file (K, D): classes of training
    node.TEST_TEXT_EMBEDDINGS = ""  # a file (K', D): other classes in evaluation
    node.TEXT_ENCODER = ""  # "clip": names are embedded as they come
    node.TEXT_ENCODER_OPTIONS = CfgNode(new_allowed=True)  # such as {model: RN50, pretrained: FILE}
    node.TEXT_RECIPE = "regionclip"
    node.VOCABULARY = []  # names to begin with: of TEXT_EMBEDDINGS' rows if the file does not know them, or looked up there


def _dims(node: CfgNode) -> tuple[int, int]:
    """(width after the stem, width D of the common space)."""
    variant = VARIANTS.get(node.DEPTH)
    if variant is None:
        raise ConfigError(f"MODEL.REGIONCLIP.DEPTH='{node.DEPTH}' is not one of {', '.join(VARIANTS)}")
    return node.WIDTH or variant.width, node.EMBED_DIM or variant.embed_dim


def _own_layers(node: CfgNode, in_channels: int) -> dict:
    """CLIP's last stage and attention pool for the ROI heads themselves, behind a map of `in_channels`."""
    (width, embed_dim), variant = _dims(node), VARIANTS[node.DEPTH]
    channels = width * 8 * EXPANSION
    return {
        "res5": clip_stage(in_channels=in_channels, channels=width * 8, blocks=(node.BLOCKS or variant.blocks)[3]),
        "attnpool": AttentionPool2d(
            side=node.ATTNPOOL_SIDE or variant.side, channels=channels, heads=channels // 64 or 1, out_channels=embed_dim
        ),
    }


def _predictor(cfg: CfgNode) -> RegionCLIPOutputLayers:
    node, heads = cfg.MODEL.REGIONCLIP, cfg.MODEL.ROI_HEADS
    soft = None
    if node.SOFT_NMS:
        soft = SoftNMS(
            method=node.SOFT_NMS, sigma=node.SOFT_NMS_SIGMA, threshold=heads.NMS_THRESH_TEST, prune=node.SOFT_NMS_PRUNE
        )
    predictor = RegionCLIPOutputLayers(
        input_dim=_dims(node)[1],
        postprocessor=RegionPostProcessor(
            score_fusion=node.SCORE_FUSION,
            score_threshold=heads.SCORE_THRESH_TEST,
            nms_threshold=heads.NMS_THRESH_TEST,
            soft_nms=soft,
            max_detections=cfg.TEST.DETECTIONS_PER_IMAGE,
            report=node.REPORT,
        ),
        embeddings=load_text_embeddings(node.TEXT_EMBEDDINGS).vectors if node.TEXT_EMBEDDINGS else None,
        temperature=node.TEMPERATURE,
        box2box_transform=Box2BoxTransform(cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS),
        regress_boxes=not node.NO_BOX_DELTA,
        focal_gamma=node.FOCAL_GAMMA if node.FOCAL_GAMMA >= 0 else None,
        background_weight=node.BACKGROUND_WEIGHT if node.BACKGROUND_WEIGHT >= 0 else None,
        smooth_l1_beta=cfg.MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA,
    )
    if node.TEST_TEXT_EMBEDDINGS:
        predictor.set_test_embeddings(load_text_embeddings(node.TEST_TEXT_EMBEDDINGS).vectors)
    return predictor


def roi_heads_from_config(cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict:
    """Return the arguments of `RegionCLIPROIHeads` that a yaml config stands for."""
    node, heads, box = cfg.MODEL.REGIONCLIP, cfg.MODEL.ROI_HEADS, cfg.MODEL.ROI_BOX_HEAD
    if node.REGION_LAYERS not in LAYERS[:2]:
        raise ConfigError(f"MODEL.REGIONCLIP.REGION_LAYERS='{node.REGION_LAYERS}' must be 'backbone' or 'own' for these ROI heads")
    shapes = [input_shape[name] for name in heads.IN_FEATURES]
    features = RegionFeatures(
        pooler=ROIPooler(
            output_size=box.POOLER_RESOLUTION,
            scales=[1 / s.stride for s in shapes],
            sampling_ratio=box.POOLER_SAMPLING_RATIO,
            pooler_type=box.POOLER_TYPE,
        ),
        in_features=heads.IN_FEATURES,
        chunk_size=node.CHUNK_SIZE,
        dtype=node.REGION_DTYPE,
        **(_own_layers(node, shapes[0].channels) if node.REGION_LAYERS == "own" else {}),
    )
    channels, mask = _dims(node)[0] * 8 * EXPANSION, cfg.MODEL.ROI_MASK_HEAD
    mask_head = MaskRCNNConvUpsampleHead(
        ShapeSpec(channels=channels), num_classes=1, conv_dims=[mask.CONV_DIM] * (mask.NUM_CONV + 1), conv_norm=mask.NORM
    )
    return {
        "region_features": features,
        "box_predictor": _predictor(cfg),
        "mask_head": mask_head if cfg.MODEL.MASK_ON else None,
        "batch_size_per_image": heads.BATCH_SIZE_PER_IMAGE,
        "positive_fraction": heads.POSITIVE_FRACTION,
        "proposal_matcher": Matcher(heads.IOU_THRESHOLDS, heads.IOU_LABELS, allow_low_quality_matches=False),
        "proposal_append_gt": heads.PROPOSAL_APPEND_GT,
    }


def _offline_rpn(cfg: CfgNode) -> OfflineProposals | None:
    node = cfg.MODEL.REGIONCLIP
    if not node.OFFLINE_RPN or node.REGIONS == "gt":
        return None
    if node.OFFLINE_RPN.endswith((".yaml", ".yml")):
        other = get_cfg()
        other.merge_from_file(node.OFFLINE_RPN)
        other.MODEL.RPN.NMS_THRESH, other.MODEL.RPN.POST_NMS_TOPK_TEST = node.OFFLINE_RPN_NMS_THRESH, node.OFFLINE_RPN_POST_NMS_TOPK
        return offline_rpn_from_cfg(other, image_format=cfg.INPUT.FORMAT)
    return build_offline_rpn(
        kind=node.OFFLINE_RPN,
        nms_thresh=node.OFFLINE_RPN_NMS_THRESH,
        post_nms_topk=node.OFFLINE_RPN_POST_NMS_TOPK,
        image_format=cfg.INPUT.FORMAT,
    )


def _named(path: str, names: Sequence[str] = ()) -> TextEmbeddings | None:
    """Read text embeddings that know their names, or are told them; None if there is no file or they stay nameless."""
    if not path:
        return None
    found = load_text_embeddings(path)
    if found.vocabulary is None and names:
        found = load_text_embeddings(path, vocabulary=Vocabulary.from_names(names))
    return found if found.vocabulary is not None else None


def _names(node: CfgNode) -> dict:
    """Names to begin with and their vectors, as far as files or `VOCABULARY` tell them."""
    table, tested = _named(node.TEXT_EMBEDDINGS, node.VOCABULARY), _named(node.TEST_TEXT_EMBEDDINGS)
    return {
        "text_embeddings": table,
        "vocabulary": list(node.VOCABULARY) or (table and table.vocabulary),
        "test_vocabulary": tested and tested.vocabulary,
    }


def regionclip_from_config(cfg: CfgNode) -> dict:
    """Return the arguments of `RegionCLIP` that a yaml config stands for."""
    node, backbone = cfg.MODEL.REGIONCLIP, build_backbone(cfg)
    encoder = build_text_encoder(node.TEXT_ENCODER, **node.TEXT_ENCODER_OPTIONS) if node.TEXT_ENCODER else None
    return {
        "backbone": backbone,
        "roi_heads": build_roi_heads(cfg, backbone.output_shape()),
        "offline_rpn": _offline_rpn(cfg),
        "regions": node.REGIONS,
        "text_encoder": encoder,
        "recipe": node.TEXT_RECIPE,
        **_names(node),
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
        "input_format": cfg.INPUT.FORMAT,
    }
