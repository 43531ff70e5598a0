"""`glipv2_mini` learns eight pictures of coloured shapes by heart.

Reproduces: AP50 above 95 on the pictures it was trained on; a check that every part learns.
Cost: one to two minutes on 2 CPU cores.
Command: python tools/train_net.py --config-file configs/glipv2/quick/shapes_overfit.py
"""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import CosineParamScheduler

from openvocab.data import DatasetMapper, TrainSource, build_test_loader, build_train_loader
from openvocab.engine import build_adamw
from openvocab.evaluation import COCODetectionEvaluator
from openvocab.testing.quick import shapes_dataset

from ...common.train import train
from ..models.glipv2_mini import model

_dataset = shapes_dataset(num=8, taxonomy="shape")

model.backbone.bottom_up.freeze_at = 0

dataloader = dict(
    train=L(build_train_loader)(
        sources=[L(TrainSource)(name=_dataset, mapper=L(DatasetMapper)(is_train=True, augmentations=[L(T.NoOpTransform)()]))],
        total_batch_size=4,
        num_workers=0,
    ),
    test=dict(
        shapes=dict(
            loader=L(build_test_loader)(
                dataset=_dataset, mapper=L(DatasetMapper)(is_train=False, augmentations=[L(T.NoOpTransform)()])
            ),
            evaluator=L(COCODetectionEvaluator)(dataset_name=_dataset),
        )
    ),
)
optimizer = L(build_adamw)(lr=1e-3, weight_decay=0.0)
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=0.02), warmup_factor=0.1, warmup_length=0.05
)
train.max_iter = 300
train.output_dir = "output/quick_shapes_overfit"
train.clip_grad = dict(max_norm=1.0)
train.checkpointer = dict(period=0, max_to_keep=1)
