"""A hub of three data sets of one look that disagree about names and boxes (ConventionShapes A, B, C).

Reproduces: falling losses, and an AP on each set that a detector without contexts does not reach; a check that every part works.
Cost: about a minute on one CPU core.
Command: python tools/train_net.py --config-file configs/detection_hub/quick/convention_shapes.py
`model.hub.arm=masked` trains without contexts; figures over seeds, with all arms, come from tools/claims.py.
"""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import CosineParamScheduler

from detection_hub.data import HubDataset
from detection_hub.lazy import hub_dataloader, hub_datasets
from openvocab.engine import build_adamw
from openvocab.testing.convention_shapes import CONVENTION_SETS as _CONVENTIONS
from openvocab.testing.quick import convention_dataset

from ...common.train import train
from ..models.detection_hub_shapes import model

_sets = [
    L(HubDataset)(
        name=name,
        train=convention_dataset(convention=name, num=200, split="train"),
        test=convention_dataset(convention=name, num=50, split="val"),
        classes=list(convention.classes),
        flags=list(convention.flags),
        min_sizes=[96],
        max_size=96,
        test_size=96,
    )
    for name, convention in _CONVENTIONS.items()
]
model.hub.datasets = hub_datasets(_sets)
dataloader = hub_dataloader(_sets, total_batch_size=8, grouping="per_step", aspect_ratio_grouping=False)
optimizer = L(build_adamw)(lr=6e-4, weight_decay=1e-4)
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=0.02), warmup_factor=0.1, warmup_length=0.05
)
train.max_iter = 400
train.output_dir = "output/quick_convention_shapes"
train.clip_grad = dict(max_norm=1.0)
train.checkpointer = dict(period=0, max_to_keep=1)
train.best_metric = ""
