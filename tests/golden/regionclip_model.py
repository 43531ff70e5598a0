"""Build our detector from a recorded scenario of microsoft/RegionCLIP (shared by the parity tests)."""

from __future__ import annotations

from functools import cache

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead
from detectron2.structures import Boxes, Instances
from torch import Tensor

from openvocab.io import load_into
from openvocab.testing.golden import golden_path
from regionclip.convert import from_official
from regionclip.modeling import (
    ModifiedResNet,
    OfflineProposals,
    RegionCLIP,
    RegionCLIPOutputLayers,
    RegionCLIPROIHeads,
    RegionFeatures,
    RegionPostProcessor,
    SoftNMS,
    build_offline_rpn,
)

DETECTION = ["A_zs_gt", "B_zs_rpn_mult", "B2_zs_rpn_mult_vis", "B3_zs_rpn_mult_neglogit"]
DETECTION += ["C_ft_openset_softnms", "C2_ft_openset_hardnms", "D_lvis_mask"]
TRAINING = ["E_train_focal05_bg02", "F_train_ce_bg08"]
OFFLINE, BOX = "offline_backbone", "roi_heads.box_predictor."
# as the released yaml files say: score threshold, RPN score in the score; a scenario's options come on top
OF_YAML = {"LVIS": (0.02, True), "COCO": (0.001, False)}


@cache
def golden() -> dict:
    """Return the recorded file."""
    return torch.load(golden_path("regionclip/golden_tiny.pt"), weights_only=True)


def state(case: dict) -> dict[str, Tensor]:
    """Return a scenario's whole checkpoint, as the official model would save it."""
    shared = golden()["shared_weights"]
    parts = {name.removesuffix("_c4").removesuffix("_fpn"): shared[name] for name in case["state"]["shared"]}
    return {f"{part}.{k}": v for part, tensors in parts.items() for k, v in tensors.items()} | case["state"]["own"]


def option(case: dict, name: str, default: object) -> object:
    """Return what a scenario sets the official key `name` to."""
    return case["opts"].get(name, default)


def build(case: dict) -> tuple[RegionCLIP, object, object]:
    """Return the detector with the recorded weights, the conversion's and the load's report."""
    tensors = state(case)
    meta = golden()["meta"]["tiny"]
    side, gt = meta["res"] // 32, option(case, "MODEL.CLIP.CROP_REGION_TYPE", "RPN") == "GT"
    pooler = ROIPooler(output_size=2 * side, scales=(1 / 16,), sampling_ratio=0, pooler_type="ROIAlignV2")
    model = RegionCLIP(
        backbone=ModifiedResNet(
            blocks=meta["layers"], width=meta["width"], embed_dim=meta["embed_dim"], side=side, freeze_at=2
        ),
        roi_heads=RegionCLIPROIHeads(
            region_features=RegionFeatures(pooler=pooler),
            box_predictor=box_predictor(case, gt),
            mask_head=mask_head(case, tensors),
            proposal_matcher=Matcher([0.5], [0, 1]),
            batch_size_per_image=max((len(s["gt_classes"]) for s in case.get("sampled", [])), default=512),
        ),
        offline_rpn=None if gt else offline_rpn(case, tensors),
        regions="gt" if gt else "rpn",
    )
    converted, report = from_official(tensors)
    return model.eval(), report, load_into(model, converted)


def box_predictor(case: dict, gt: bool) -> RegionCLIPOutputLayers:
    """Return classifier, regression and post-processing as the scenario's options ask for them."""
    data = next((d for d in OF_YAML if case.get("yaml", "COCO").startswith(d)), "COCO")
    threshold, multiply = OF_YAML[data]
    nms = option(case, "MODEL.ROI_HEADS.NMS_THRESH_TEST", 0.5)
    soft = SoftNMS(threshold=nms) if option(case, "MODEL.ROI_HEADS.SOFT_NMS_ENABLED", False) else None
    return RegionCLIPOutputLayers(
        input_dim=golden()["meta"]["tiny"]["embed_dim"],
        postprocessor=RegionPostProcessor(
            score_fusion="sqrt_logit" if option(case, "MODEL.CLIP.MULTIPLY_RPN_SCORE", multiply) else "none",
            score_threshold=threshold,
            nms_threshold=nms,
            soft_nms=soft,
            max_detections=option(case, "TEST.DETECTIONS_PER_IMAGE", 100),
            report="class" if option(case, "MODEL.CLIP.VIS", False) else "fused",
        ),
        regress_boxes=not (gt or option(case, "MODEL.CLIP.NO_BOX_DELTA", False)),
        focal_gamma=option(case, "MODEL.CLIP.FOCAL_SCALED_LOSS", None),
        background_weight=option(case, "MODEL.CLIP.BG_CLS_LOSS_WEIGHT", None),
    )


def mask_head(case: dict, tensors: dict[str, Tensor]) -> MaskRCNNConvUpsampleHead | None:
    """Return a head that knows no classes, of the recorded size."""
    deconvolution = tensors.get("roi_heads.mask_head.deconv.weight")
    if deconvolution is None:
        return None
    channels, inner = deconvolution.shape[:2]
    return MaskRCNNConvUpsampleHead(ShapeSpec(channels=channels), num_classes=1, conv_dims=[inner])


def offline_rpn(case: dict, tensors: dict[str, Tensor]) -> OfflineProposals:
    """Return the proposal network of the recorded sizes."""
    fpn = f"{OFFLINE}.fpn_lateral2.weight" in tensors
    resnet = f"{OFFLINE}.bottom_up" if fpn else OFFLINE
    recorded = case.get("rpn_proposals") or case["taps"]["rpn_proposals"]
    return build_offline_rpn(
        kind="fpn" if fpn else "c4",
        nms_thresh=option(case, "MODEL.CLIP.OFFLINE_RPN_NMS_THRESH", 0.7),
        post_nms_topk=option(case, "MODEL.CLIP.OFFLINE_RPN_POST_NMS_TOPK_TEST", max(len(p["proposal_boxes"]) for p in recorded)),
        stem_channels=tensors[f"{resnet}.stem.conv1.weight"].shape[0],
        width_per_group=tensors[f"{resnet}.res2.0.conv1.weight"].shape[0],
        res2_channels=tensors[f"{resnet}.res2.0.conv3.weight"].shape[0],
        fpn_channels=tensors[f"{OFFLINE}.fpn_lateral2.weight"].shape[0] if fpn else 0,
    )


def batch(case: dict) -> list[dict]:
    """Return the scenario's pictures with their ground truth, in the size that detections are wanted in."""
    inputs, rows = golden()["inputs"], []
    for i in case.get("images", (1, 2)):
        image = inputs[f"img{i}"]
        height, width = inputs[f"out_hw{i}"]
        truth = Instances(image.shape[1:], gt_boxes=Boxes(inputs[f"gt_boxes{i}"]), gt_classes=inputs[f"gt_classes{i}"])
        rows.append({"image": image, "height": height, "width": width, "instances": truth})
    return rows


def instances(recorded: dict) -> Instances:
    """Return recorded fields as Instances."""
    fields = {k: Boxes(v) if "boxes" in k else v for k, v in recorded.items() if k != "image_size"}
    return Instances(tuple(recorded["image_size"]), **fields)
