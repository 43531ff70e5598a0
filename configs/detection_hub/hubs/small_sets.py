"""Seven small data sets in one hub: bccd in two conventions, raccoon, aquarium, pothole, deeppcb, coco_mini (../shared/data).

bccd's training pictures are halved. The first half keeps names and boxes; in the second, platelets have no labels, the names are
written out and boxes are 1.3 times as large. Both conventions are tested on the same pictures, so that only the context tells them
apart. Compare with single_*.py, one detector for each data set.
Reproduces: nothing published; what it reaches belongs to benchmarks/detection_hub_real.py.
Cost: 4,200 steps of 4 pictures, 1.8 s of a CPU core each (measured on 7 steps, beside other work): about two hours.
Command: python tools/train_net.py --config-file configs/detection_hub/hubs/small_sets.py
`dataloader.train.share=0.25` trains on a fixed quarter of each data set's pictures.
"""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import CosineParamScheduler

from detection_hub.data import DerivedSet, HubDataset
from detection_hub.lazy import hub_dataloader, hub_datasets
from openvocab.engine import build_adamw
from openvocab.vocabulary import Vocabulary

from ...common.train import train
from ..models.detection_hub_mini import model

_sizes = dict(min_sizes=[256, 288, 320, 352], max_size=512, test_size=320)
_loose = dict(names={"RBC": "red blood cell", "WBC": "white blood cell"}, box_scale=1.3)
_sets = [
    L(HubDataset)(
        name="bccd",
        train=L(DerivedSet)(source="bccd_train", part=[1, 2]),
        test="bccd_val",
        classes=L(Vocabulary.builtin)(name="bccd"),
        flags=["visible", "tight"],
        **_sizes,
    ),
    L(HubDataset)(
        name="bccd_loose",
        train=L(DerivedSet)(source="bccd_train", part=[2, 2], **_loose),
        test=L(DerivedSet)(source="bccd_val", **_loose),
        classes=list(_loose["names"].values()),
        flags=["loose"],
        **_sizes,
    ),
    *(
        L(HubDataset)(
            name=name,
            train=f"{name}_train",
            test=f"{name}_val",
            classes=L(Vocabulary.builtin)(name="coco" if name == "coco_mini" else name),
            flags=["visible", "tight"],
            **_sizes,
        )
        for name in ("raccoon", "aquarium", "pothole", "deeppcb", "coco_mini")
    ),
]
model.hub.datasets = hub_datasets(_sets)
dataloader = hub_dataloader(
    _sets,
    total_batch_size=4,
    num_workers=1,
    seed=7,
    grouping="per_step",
    alpha=0.0,  # each data set a seventh of the samples: 600 of 4,200 steps
    share=1.0,
    augmentations=[
        L(T.RandomFlip)(),
        L(T.RandomApply)(tfm_or_aug=L(T.RandomCrop)(crop_type="relative_range", crop_size=(0.5, 0.5)), prob=0.4),
        L(T.RandomBrightness)(intensity_min=0.8, intensity_max=1.2),
    ],
)
optimizer = L(build_adamw)(lr=2e-4, weight_decay=1e-4, overrides={"backbone.bottom_up": dict(lr_factor=0.25)})
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=0.01), warmup_factor=0.01, warmup_length=0.05
)
train.max_iter = 4200
train.output_dir = "output/detection_hub_small_sets"
train.seed = 7
train.clip_grad = dict(max_norm=1.0)
train.best_metric = "mean/AP"
