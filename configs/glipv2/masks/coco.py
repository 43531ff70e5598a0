"""GLIP-T with the language-aware mask head, which alone is trained, on COCO's masks; then box and mask AP on COCO val.

Reproduces: GLIPv2's mask model (arXiv 2206.05836) in two stages: a detector that is done and stays as it is, a mask head on top.
Batch, steps and rates are ours, the paper's are not known. No figure to expect: it needs released weights, and was not run here.
Cost: not measured.
Command: python tools/train_net.py --config-file configs/glipv2/masks/coco.py
    --num-gpus 8 train.init_checkpoint=glip_tiny.safetensors
with weights from `tools/convert_weights.py --from glip glip_tiny_model_o365_goldg_cc_sbu.pth glip_tiny.safetensors`.
"""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

from glipv2.modeling import GLIPv2MaskHead, MaskBranch, MaskConvs, MaskPooler, RegionWordAlignment
from openvocab.data import DatasetMapper, TrainSource, build_test_loader, build_train_loader
from openvocab.engine import build_adamw
from openvocab.evaluation import COCODetectionEvaluator

from ...common.train import train
from ..models.glip_tiny import model

model.frozen_detector = True
model.mask_branch = L(MaskBranch)(
    pooler=L(MaskPooler)(official=True),
    head=L(GLIPv2MaskHead)(
        trunk=L(MaskConvs)(channels=256, num_convs=4),
        alignment=L(RegionWordAlignment)(channels=256, lang_dim=768, prior_prob=None),
        channels=256,
    ),
    detach=True,
)

_train_mapper = L(DatasetMapper)(
    is_train=True,
    augmentations=[
        L(T.ResizeShortestEdge)(short_edge_length=(480, 560, 640, 720, 800), max_size=1333, sample_style="choice"),
        L(T.RandomFlip)(),
    ],
    image_format="BGR",
    with_masks=True,
)
_test_mapper = L(DatasetMapper)(
    is_train=False, augmentations=[L(T.ResizeShortestEdge)(short_edge_length=800, max_size=1333)], image_format="BGR"
)
dataloader = dict(
    train=L(build_train_loader)(
        sources=[L(TrainSource)(name="coco_2017_train", mapper=_train_mapper)], total_batch_size=16, num_workers=4
    ),
    test=dict(
        coco_2017_val=dict(
            loader=L(build_test_loader)(dataset="coco_2017_val", mapper=_test_mapper, num_workers=2),
            evaluator=L(COCODetectionEvaluator)(dataset_name="coco_2017_val"),
        )
    ),
)
optimizer = L(build_adamw)(lr=1e-4, weight_decay=1e-4)
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(values=[1.0, 0.1, 0.01], milestones=[67, 89, 100]), warmup_factor=0.001, warmup_length=0.02
)
train.max_iter = 90000  # 16 x 90,000 pictures: about 12 epochs of COCO
train.output_dir = "output/glipv2_masks_coco"
train.amp = dict(enabled=True, dtype="bfloat16")
train.clip_grad = dict(max_norm=1.0)
train.best_metric = "coco_2017_val/segm/AP"
