"""COCO, Objects365, LVIS and OpenImages in one hub: R50-FPN, 300 queries, six stages.

Reproduces: nothing that is published; the paper's own data sets and schedule are not known here. A recipe at full size, after
Sparse R-CNN's (arXiv 2011.12450), **never run here**.
Cost: 1,080,000 steps of 16 pictures, four times Sparse R-CNN's 3x schedule: as many steps as one detector for each set would take.
Command: python tools/train_net.py --config-file configs/detection_hub/hubs/coco_objects365_lvis_openimages_r50.py --num-gpus 8
OpenImages is judged by COCO's AP, which is not its own challenge's: no number to compare with others'.
Below $DETECTRON2_DATASETS: coco/, objects365/, lvis/ as detectron2 lays them out, oid/ as UniDet and Detic do.

Shares by the square root of the sizes (alpha 0.5), with about 0.118, 1.74, 0.100 and 1.74 million pictures: 343, 1319, 316 and
1319 of 3297, so 10.4, 40.0, 9.6 and 40.0 %. Of 17.28 million samples: 1.8 M of COCO (15 epochs), 6.9 M of Objects365 (4), 1.7 M of
LVIS (17, rare names more often), 6.9 M of OpenImages (4). The learning rate steps at 7/9 and 25/27 of the run, as Sparse R-CNN's.
Start (`train.init_checkpoint`) from its released R50 checkpoint or torchvision's ImageNet R50, by tools/convert_weights.py --from
sparse-rcnn or --from resnet; without either the frozen stem is random.
"""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

from detection_hub.data import HubDataset, lvis_image_counts
from detection_hub.lazy import hub_dataloader, hub_datasets
from openvocab.engine import build_adamw
from openvocab.vocabulary import Vocabulary

from ...common.train import train
from ..models.detection_hub_r50 import model

_sets = [
    L(HubDataset)(
        name="coco",
        train="coco_2017_train",
        test="coco_2017_val",
        classes=L(Vocabulary.builtin)(name="coco"),
        flags=["visible", "tight"],
    ),
    L(HubDataset)(
        name="objects365",
        train="objects365_train",
        test="objects365_val",
        classes=L(Vocabulary.builtin)(name="objects365"),
        flags=["visible", "tight"],
    ),
    L(HubDataset)(
        name="lvis",
        train="lvis_v1_train",
        test="lvis_v1_val",
        classes=L(Vocabulary.builtin)(name="lvis"),
        flags=["visible", "tight"],
        label_policy="federated",
        weights=L(lvis_image_counts)(),
        repeat_threshold=0.001,
    ),
    # names above a box's own are true too where a hierarchy={name: its parents} is given; group-of boxes are crowds in this json
    L(HubDataset)(
        name="openimages",
        train="oid_train",
        test="oid_val_expanded",
        classes=L(Vocabulary.builtin)(name="openimages"),
        flags=["visible", "tight", "group_of"],
        label_policy="verified",
    ),
]
model.hub.datasets = hub_datasets(_sets)
dataloader = hub_dataloader(
    _sets,
    total_batch_size=16,
    num_workers=8,
    test_workers=4,
    grouping="per_gpu",
    alpha=0.5,
    augmentations=[
        L(T.RandomFlip)(),
        # DETR's crop, which Sparse R-CNN's model of 300 queries uses
        L(T.RandomApply)(
            tfm_or_aug=L(T.AugmentationList)(
                augs=[
                    L(T.ResizeShortestEdge)(short_edge_length=[400, 500, 600], sample_style="choice"),
                    L(T.RandomCrop)(crop_type="absolute_range", crop_size=(384, 600)),
                ]
            ),
            prob=0.5,
        ),
    ],
)
optimizer = L(build_adamw)(lr=2.5e-5, weight_decay=1e-4, norm_weight_decay=None, bias_weight_decay=None)
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(values=[1.0, 0.1, 0.01], milestones=[21, 25, 27]),
    warmup_factor=0.01,
    warmup_length=1000 / 1080000,
)
train.max_iter = 1080000
train.output_dir = "output/detection_hub_coco_objects365_lvis_openimages_r50"
train.reference_batch_size = 16
train.clip_grad = dict(max_norm=1.0)
train.checkpointer = dict(period=10000, max_to_keep=5)
train.eval_period = 90000
train.best_metric = "mean/AP"
