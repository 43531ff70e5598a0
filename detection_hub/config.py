"""Keys that Detection Hub adds to detectron2's yaml configs, and the way from them to constructor arguments."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone, build_backbone

from openvocab.data import get_vocabulary
from openvocab.errors import ConfigError
from openvocab.modeling.swin import add_swin_config, build_swin_backbone
from openvocab.modeling.timm_backbone import add_timm_config, build_timm_backbone
from openvocab.text import build_text_encoder

from .context import DatasetContext
from .data import Hub, LossDriven
from .data.dataset import read_dataset
from .modeling.decoder import build_decoder
from .modeling.embeddings import TEMPLATES, CategoryEmbeddings
from .modeling.hub import HubAdapter
from .modeling.losses import SetCriterion
from .modeling.matcher import HungarianMatcher


def add_detection_hub_config(cfg: CfgNode) -> None:
    """Add `MODEL.DETECTION_HUB`, `MODEL.SWIN`, `MODEL.TIMM` and `DATALOADER.HUB` to a `CfgNode`, in place; Sparse R-CNN's values.

    Set `MODEL.META_ARCHITECTURE` to "DetectionHub", and `MODEL.BACKBONE.NAME` to detectron2's "build_resnet_fpn_backbone",
    "build_detection_hub_swin_fpn_backbone" or "build_detection_hub_timm_fpn_backbone".
    """
    add_swin_config(cfg)
    add_timm_config(cfg)
    node = cfg.MODEL.DETECTION_HUB = CfgNode()
    node.DECODER = "DynamicHead"
    node.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    node.NUM_QUERIES = 300
    node.INITIAL_BOXES = "image"
    node.NUM_STAGES = 6
    node.DIM = 256
    node.NUM_HEADS = 8
    node.FFN_DIM = 2048
    node.DYNAMIC_DIM = 64
    node.POOLED_SIZE = 7
    node.NUM_CLS = 1
    node.NUM_REG = 3
    node.DROPOUT = 0.0
    node.NUM_CLASSES = 0  # a classifier of so many fixed names, with ARM "none"
    node.SCALE_CLAMP = 4.135166556742356
    node.ARM = "full"  # "naive", "masked", "id", "lang"; "none": plain Sparse R-CNN
    node.TEXT_ENCODER = "bert"
    node.TEXT_SOURCE = "minilm"  # of "bert"
    node.REFERENCE = "coco"  # names that always count for the mean vector; "": none
    node.TEMPLATES = list(TEMPLATES)
    node.SEMANTIC_LIMIT = 0.3
    node.VECTOR_DROPOUT = 0.1
    node.FLAG_DROPOUT = 0.1
    node.DATASETS = []  # names of registered data sets, or dicts of the fields of `HubDataset` or of `DatasetContext`
    node.CLS_WEIGHT = 2.0
    node.L1_WEIGHT = 5.0
    node.GIOU_WEIGHT = 2.0
    node.FOCAL_ALPHA = 0.25
    node.FOCAL_GAMMA = 2.0
    node.DETECTIONS_PER_IMAGE = 0  # 0: as many as queries
    node = cfg.DATALOADER.HUB = CfgNode()  # see `build_hub_loader`
    node.GROUPING = "per_gpu"  # "mixed", "per_step"
    node.ALPHA = 0.5
    node.SHARE = 1.0
    node.LOSS_DRIVEN = CfgNode({"ENABLED": False, "POWER": 1.0, "LIMIT": 3.0, "SMOOTHING": 0.7})


def _fpn(cfg: CfgNode, bottom_up: Backbone) -> FPN:
    """detectron2's FPN on all maps of a backbone, and nothing above them."""
    return FPN(
        bottom_up=bottom_up,
        in_features=list(bottom_up.output_shape()),
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


@BACKBONE_REGISTRY.register()
def build_detection_hub_swin_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Swin with an FPN, p2-p5; set `MODEL.SWIN.OUT_INDICES` to [0, 1, 2, 3]."""
    return _fpn(cfg, build_swin_backbone(cfg, input_shape))


@BACKBONE_REGISTRY.register()
def build_detection_hub_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """A timm network with an FPN, p2-p5; set `MODEL.TIMM.OUT_INDICES` to [1, 2, 3, 4]."""
    return _fpn(cfg, build_timm_backbone(cfg, input_shape))


def dynamic_head_from_config(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
    """Return the arguments of `DynamicHead` that a yaml config stands for."""
    node = cfg.MODEL.DETECTION_HUB
    return {
        "strides": [input_shape[f].stride for f in node.IN_FEATURES],
        "num_stages": node.NUM_STAGES,
        "dim": node.DIM,
        "num_heads": node.NUM_HEADS,
        "ffn_dim": node.FFN_DIM,
        "dynamic_dim": node.DYNAMIC_DIM,
        "pooled_size": node.POOLED_SIZE,
        "num_cls": node.NUM_CLS,
        "num_reg": node.NUM_REG,
        "dropout": node.DROPOUT,
        "num_classes": node.NUM_CLASSES or None,
        "scale_clamp": node.SCALE_CLAMP,
    }


def _hub(node: CfgNode) -> HubAdapter | None:
    if node.ARM == "none":
        return None
    if node.NUM_CLASSES:
        raise ConfigError(f"NUM_CLASSES={node.NUM_CLASSES} is for ARM 'none'; a hub takes its names from the data sets")
    options = {"source": node.TEXT_SOURCE, "frozen": True} if node.TEXT_ENCODER == "bert" else {}
    embeddings = CategoryEmbeddings(
        text_encoder=build_text_encoder(node.TEXT_ENCODER, **options),
        reference=node.REFERENCE or None,
        templates=list(node.TEMPLATES) or None,
    )
    return HubAdapter(
        embeddings=embeddings,
        dim=node.DIM,
        num_stages=node.NUM_STAGES,
        num_heads=node.NUM_HEADS,
        arm=node.ARM,
        datasets=[_dataset(d) for d in node.DATASETS],
        semantic_limit=node.SEMANTIC_LIMIT,
        vector_dropout=node.VECTOR_DROPOUT,
        flag_dropout=node.FLAG_DROPOUT,
    )


def _dataset(value: str | dict) -> DatasetContext:
    if isinstance(value, str):
        return DatasetContext.create(value, get_vocabulary(value))
    return DatasetContext.from_dict(dict(value)) if "vocabulary" in value else read_dataset(value).context()


def hub_from_config(cfg: CfgNode) -> Hub:
    """Return the hub in `MODEL.DETECTION_HUB.DATASETS`, for `build_hub_loader` and `hub_test`.

    Its entries are fields of `HubDataset`; sizes that they leave out are those of `INPUT`.

    Raises:
        ConfigError: for an entry without splits, which only the model can use; else as `Hub`.
    """
    sizes = {"min_sizes": cfg.INPUT.MIN_SIZE_TRAIN, "max_size": cfg.INPUT.MAX_SIZE_TRAIN, "test_size": cfg.INPUT.MIN_SIZE_TEST}
    rows = cfg.MODEL.DETECTION_HUB.DATASETS
    for value in rows:
        if isinstance(value, str) or "vocabulary" in value:
            raise ConfigError(f"MODEL.DETECTION_HUB.DATASETS: {value!r:.60} has no splits; write {{name: .., train: .., test: ..}}")
    return Hub([{**sizes, **value} for value in rows])


def hub_loader_from_config(cfg: CfgNode) -> dict:
    """Return the arguments of `build_hub_loader` that a yaml config stands for; crop and flip are those of `INPUT`."""
    node, driven = cfg.DATALOADER.HUB, cfg.DATALOADER.HUB.LOSS_DRIVEN
    driver = LossDriven(power=driven.POWER, limit=driven.LIMIT, smoothing=driven.SMOOTHING) if driven.ENABLED else None
    crop, flip = cfg.INPUT.CROP, cfg.INPUT.RANDOM_FLIP
    augmentations: list[T.Augmentation] = [T.RandomCrop(crop.TYPE, crop.SIZE)] if crop.ENABLED else []
    if flip != "none":
        augmentations.append(T.RandomFlip(horizontal=flip == "horizontal", vertical=flip == "vertical"))
    return {
        "datasets": hub_from_config(cfg),
        "total_batch_size": cfg.SOLVER.IMS_PER_BATCH,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
        "seed": max(cfg.SEED, 0),
        "grouping": node.GROUPING,
        "alpha": node.ALPHA,
        "share": node.SHARE,
        "augmentations": augmentations,
        "aspect_ratio_grouping": cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        "image_format": cfg.INPUT.FORMAT,
        "loss_driven": driver,
    }


def detection_hub_from_config(cfg: CfgNode) -> dict:
    """Return the arguments of `DetectionHub` that a yaml config stands for."""
    node, backbone = cfg.MODEL.DETECTION_HUB, build_backbone(cfg)
    focal = {"alpha": node.FOCAL_ALPHA, "gamma": node.FOCAL_GAMMA}
    matcher = HungarianMatcher(cls=node.CLS_WEIGHT, l1=node.L1_WEIGHT, giou=node.GIOU_WEIGHT, **focal)
    return {
        "backbone": backbone,
        "decoder": build_decoder(cfg, backbone.output_shape()),
        "hub": _hub(node),
        "criterion": SetCriterion(
            matcher=matcher, cls_weight=node.CLS_WEIGHT, giou_weight=node.GIOU_WEIGHT, l1_weight=node.L1_WEIGHT, **focal
        ),
        "in_features": node.IN_FEATURES,
        "num_queries": node.NUM_QUERIES,
        "initial_boxes": node.INITIAL_BOXES,
        "max_detections": node.DETECTIONS_PER_IMAGE or None,
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
        "input_format": cfg.INPUT.FORMAT,
    }
