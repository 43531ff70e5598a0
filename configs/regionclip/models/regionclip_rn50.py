"""RegionCLIP's detector on CLIP's RN50, C4: 56.3 M parameters, of which 38.0 M train (as microsoft/RegionCLIP's).

Numbers are those of COCO transfer: focal loss 0.5, background weighted 0.2, RPN "c4" with NMS 0.7, soft-NMS, 100 detections.
Weights are random: official ones come through `tools/convert_weights.py --from regionclip`, CLIP's own through `--from clip`.
Other RPNs: `offline_rpn.kind` "fpn" (rpn_lvis_866) or "fpn_lsj" (rpn_lvis_866_lsj). Names: `text_embeddings`, a file of vectors, or
`text_encoder`.
"""

from detectron2.config import LazyCall as L
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler

from openvocab.data import datasets_root
from regionclip.modeling import (
    ModifiedResNet,
    RegionCLIP,
    RegionCLIPOutputLayers,
    RegionCLIPROIHeads,
    RegionFeatures,
    RegionPostProcessor,
    SoftNMS,
    build_offline_rpn,
)

FILES = datasets_root() / "regionclip"  # converted weights and text embeddings

model = L(RegionCLIP)(
    backbone=L(ModifiedResNet)(depth="RN50", freeze_at=2),
    roi_heads=L(RegionCLIPROIHeads)(
        region_features=L(RegionFeatures)(
            pooler=L(ROIPooler)(output_size=14, scales=[1 / 16], sampling_ratio=0, pooler_type="ROIAlignV2"), chunk_size=50
        ),
        box_predictor=L(RegionCLIPOutputLayers)(
            input_dim=1024,
            postprocessor=L(RegionPostProcessor)(
                score_fusion="none",
                score_threshold=0.001,
                nms_threshold=0.5,
                soft_nms=L(SoftNMS)(method="gaussian", sigma=0.5, threshold=0.5, prune=0.001),
                max_detections=100,
                report="fused",
            ),
            temperature=0.01,
            regress_boxes=True,
            focal_gamma=0.5,
            background_weight=0.2,
            smooth_l1_beta=0.0,
        ),
        mask_head=None,
        batch_size_per_image=512,
        positive_fraction=0.25,
        proposal_matcher=L(Matcher)(thresholds=[0.5], labels=[0, 1], allow_low_quality_matches=False),
    ),
    offline_rpn=L(build_offline_rpn)(kind="c4", nms_thresh=0.7, post_nms_topk=1000),
    regions="rpn",
    text_encoder=None,
    recipe="regionclip",
    text_embeddings=None,
)
