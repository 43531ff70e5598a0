"""A detector small enough for a test, with random weights, and pictures for it; the same in every process."""

from __future__ import annotations

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead
from detectron2.structures import BitMasks, Boxes, Instances
from torch import Tensor

from openvocab.testing import tiny_picture
from regionclip.modeling import (
    ModifiedResNet,
    OfflineProposals,
    RegionCLIP,
    RegionCLIPOutputLayers,
    RegionCLIPROIHeads,
    RegionFeatures,
    RegionPostProcessor,
    build_offline_rpn,
)

DIM, SIDE, NAMES = 16, 2, ("cat", "dog", "zebra")
CHANNELS = 256  # after layer4 of width 8


def vectors(count: int = len(NAMES), dim: int = DIM, seed: int = 0) -> Tensor:
    """Text embeddings of any length but 1, as files have them: (count, dim)."""
    return 3 * torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def pooler(size: int = 2 * SIDE, stride: int = 16) -> ROIPooler:
    return ROIPooler(output_size=size, scales=(1 / stride,), sampling_ratio=2, pooler_type="ROIAlignV2")


def tiny_backbone(seed: int = 0, **changes: object) -> ModifiedResNet:
    torch.manual_seed(seed)
    return ModifiedResNet(**{"blocks": (1, 1, 1, 1), "width": 8, "embed_dim": DIM, "side": SIDE, **changes})


def tiny_rpn(kind: str = "c4", seed: int = 5, **changes: object) -> OfflineProposals:
    torch.manual_seed(seed)
    sizes = {"stem_channels": 8, "width_per_group": 4, "res2_channels": 8, "fpn_channels": 8, "post_nms_topk": 12}
    return build_offline_rpn(kind=kind, **{**sizes, **changes})


def tiny_predictor(**changes: object) -> RegionCLIPOutputLayers:
    options = {"input_dim": DIM, "postprocessor": RegionPostProcessor(max_detections=20), "embeddings": vectors()}
    return RegionCLIPOutputLayers(**{**options, "temperature": 0.1, **changes})


def tiny_heads(mask: bool = False, **changes: object) -> RegionCLIPROIHeads:
    parts = {
        "region_features": RegionFeatures(pooler=pooler()),
        "box_predictor": tiny_predictor(),
        "mask_head": MaskRCNNConvUpsampleHead(ShapeSpec(channels=CHANNELS), num_classes=1, conv_dims=[4]) if mask else None,
        "proposal_matcher": Matcher([0.5], [0, 1]),
        "batch_size_per_image": 16,
    }
    return RegionCLIPROIHeads(**{**parts, **changes})


def build_tiny(seed: int = 0, *, mask: bool = False, rpn: OfflineProposals | None | str = "c4", **changes: object) -> RegionCLIP:
    """Return the model; `changes` replace arguments of `RegionCLIP`, `rpn` is a kind, a module or None."""
    backbone = tiny_backbone(seed)
    rpn = tiny_rpn(rpn) if isinstance(rpn, str) else rpn
    torch.manual_seed(seed)
    return RegionCLIP(**{"backbone": backbone, "roi_heads": tiny_heads(mask), "offline_rpn": rpn, **changes})


def detect(model: RegionCLIP, *inputs: dict) -> list[Instances]:
    """Detections in each picture."""
    with torch.no_grad():
        return [x["instances"] for x in model.eval()(list(inputs))]


def assert_same(a: Instances, b: Instances, atol: float = 1e-4) -> None:
    """Check that two lists of detections are one."""
    assert a.image_size == b.image_size and len(a) == len(b) and torch.equal(a.pred_classes, b.pred_classes)
    assert torch.allclose(a.scores, b.scores, atol=atol)
    assert torch.allclose(a.pred_boxes.tensor, b.pred_boxes.tensor, atol=0.01)


def some_boxes(count: int, seed: int = 0, size: tuple[int, int] = (64, 96)) -> Boxes:
    """Boxes of at least 8 pixels inside a picture of (height, width)."""
    generator = torch.Generator().manual_seed(seed)
    limits = torch.tensor([size[1], size[0]])
    corner = torch.rand(count, 2, generator=generator) * (limits - 24)
    return Boxes(torch.cat([corner, corner + 8 + torch.rand(count, 2, generator=generator) * 16], dim=1))


def proposals(count: int, seed: int = 0, size: tuple[int, int] = (64, 96), low: float = 0.5) -> Instances:
    """Proposals with logits from `low` to `low` + 4, best first."""
    logits = torch.linspace(low + 4, low, count)
    return Instances(size, proposal_boxes=some_boxes(count, seed, size), objectness_logits=logits)


def sample(seed: int = 0, *, boxes: int = 2, size: tuple[int, int] = (64, 96), mask: bool = False, **more: object) -> dict:
    """An input dict with a random picture, and boxes of classes 0, 1, 2, 0 ...; masks fill their boxes."""
    truth = Instances(size, gt_boxes=some_boxes(boxes, seed, size), gt_classes=torch.arange(boxes) % len(NAMES))
    if mask:
        whole = torch.zeros(boxes, *size, dtype=torch.bool)
        for row, box in zip(whole, truth.gt_boxes.tensor.round().int().tolist(), strict=True):
            row[box[1] : box[3], box[0] : box[2]] = True
        truth.gt_masks = BitMasks(whole)
    return {"image": tiny_picture(*size, seed), "instances": truth, "file_name": f"{seed}.png", **more}
