"""Stand-ins for weight files of RegionCLIP and CLIP: names and shapes of the architecture itself, random values."""

from __future__ import annotations

from functools import lru_cache

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_backbone, build_proposal_generator
from torch import Tensor, nn

from regionclip.convert import ClipResNet

BOX = "roi_heads.box_predictor."
CLASSES = f"{BOX}class_embeddings"
TINY = ClipResNet((1, 2, 1, 1), 8, 16, 7)
State = dict[str, Tensor]


def filled(shapes: dict[str, tuple[int, ...]]) -> State:
    """Tensors of full size, each a random number of its own that takes the memory of one; the background is zero."""
    generator = torch.Generator().manual_seed(0)
    values = {k: torch.rand((), generator=generator) + 0.1 for k in shapes}
    return {k: (v * 0 if "cls_bg_score" in k else v).expand(shapes[k]) for k, v in values.items()}


def prefixed(prefix: str, shapes: dict) -> dict:
    return {prefix + k: v for k, v in shapes.items()}


def rpn_config(kind: str) -> CfgNode:
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 8
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 4
    if kind != "c4":
        cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
        cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
        cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.RPN.PRE_NMS_TOPK_TEST = 8, 1000
        cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
        cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32], [64], [128], [256], [512]]
    if kind == "lsj":
        cfg.MODEL.BACKBONE.FREEZE_AT = 0
        cfg.MODEL.RESNETS.NORM = cfg.MODEL.FPN.NORM = "BN"  # the names of SyncBN
        cfg.MODEL.RPN.CONV_DIMS = [-1, -1]
    return cfg


@lru_cache
def rpn_model(kind: str) -> nn.ModuleDict:
    torch.manual_seed(3)
    cfg = rpn_config(kind)
    backbone = build_backbone(cfg)
    model = nn.ModuleDict({"backbone": backbone, "proposal_generator": build_proposal_generator(cfg, backbone.output_shape())})
    for name, value in model.state_dict().items():
        if ".norm." in name and value.is_floating_point():
            value.uniform_(0.5, 1.5)
    return model.eval()


def rpn_file(kind: str) -> State:
    """A whole Mask R-CNN: an RPN, and heads that are not wanted."""
    heads = {"roi_heads.box_predictor.cls_score.weight": torch.rand(3, 4), "roi_heads.res5.0.conv1.weight": torch.rand(2, 2)}
    return {**rpn_model(kind).state_dict(), **heads}


def official(*, rpn: str | None = "c4", mask: bool = False, text: bool = False) -> State:
    """A small checkpoint of every part."""
    shapes = prefixed("backbone.", TINY.shapes())
    shapes |= {f"{BOX}cls_score.weight": (3, 16), f"{BOX}cls_bg_score.weight": (1, 16), f"{BOX}test_cls_score.weight": (5, 16)}
    shapes |= {f"{BOX}bbox_pred.weight": (4, 16), f"{BOX}bbox_pred.bias": (4,)}
    if mask:
        shapes |= prefixed("roi_heads.mask_head.", {"deconv.weight": (256, 6, 2, 2), "deconv.bias": (6,)})
        shapes |= prefixed("roi_heads.mask_head.", {"predictor.weight": (1, 6, 1, 1), "predictor.bias": (1,)})
    if text:
        shapes |= prefixed("lang_encoder.", text_keys()) | prefixed("teacher_backbone.", TINY.shapes())
    result = filled(shapes)
    if rpn is not None:
        result |= {f"offline_{k}": v for k, v in rpn_model(rpn).state_dict().items()}
    return result


def text_keys(layers: int = 2, width: int = 8) -> dict[str, tuple[int, ...]]:
    block = {
        "attn.in_proj_weight": (3 * width, width),
        "attn.in_proj_bias": (3 * width,),
        "attn.out_proj.weight": (width, width),
        "mlp.c_fc.weight": (4 * width, width),
        "mlp.c_fc.bias": (4 * width,),
        "mlp.c_proj.weight": (width, 4 * width),
    }
    block |= {f"{k}.{s}": (width,) for k in ("ln_1", "ln_2") for s in ("weight", "bias")}
    block |= {"attn.out_proj.bias": (width,), "mlp.c_proj.bias": (width,)}
    result = {f"transformer.resblocks.{i}.{k}": v for i in range(layers) for k, v in block.items()}
    result |= {"token_embedding.weight": (96, width), "positional_embedding": (77, width), "text_projection": (width, 16)}
    return result | {"ln_final.weight": (width,), "ln_final.bias": (width,)}


def clip_file(shapes: dict[str, tuple[int, ...]], text: dict[str, tuple[int, ...]], counted: bool = True) -> State:
    """CLIP's names: BatchNorm's step counters, and the numbers of OpenAI's archives."""
    result = filled(prefixed("visual.", shapes) | text)
    if counted:
        result |= {
            f"visual.{k.removesuffix('running_var')}num_batches_tracked": torch.tensor(7)
            for k in shapes
            if k.endswith("running_var")
        }
    numbers = ("logit_scale", "input_resolution", "context_length", "vocab_size")
    return {**result, **{k: torch.tensor(4.6) for k in numbers}}
