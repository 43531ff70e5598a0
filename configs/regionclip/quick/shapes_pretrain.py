"""RegionCLIP's pretraining in small: coloured shapes, their captions, and the truth as the teacher.

Reproduces: falling losses, and over 80 % of the regions of new pictures named rightly (ten colors); a check that every part works.
Cost: about half a minute on one CPU core.
Command: python tools/train_net.py --config-file configs/regionclip/quick/shapes_pretrain.py
"""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T
from detectron2.modeling.poolers import ROIPooler
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import CosineParamScheduler

from openvocab.data import TrainSource, build_test_loader, build_train_loader, get_vocabulary
from openvocab.engine import build_adamw
from openvocab.testing.quick import shapes_dataset
from openvocab.text import HashedTextEncoder
from regionclip.modeling.clip_resnet import ModifiedResNet
from regionclip.modeling.region_features import RegionFeatures
from regionclip.pretraining import LabelTeacher, PairMapper, RegionCLIPPretraining, build_pool, captions_of
from regionclip.pretraining.evaluate import RegionAccuracyEvaluator

from ...common.train import train

_dataset = shapes_dataset(num=32, taxonomy="color", captions=2)
_new = shapes_dataset(num=16, taxonomy="color", split="val")
_names = list(get_vocabulary(_dataset).names)
_concepts = L(build_pool)(captions=L(captions_of)(dataset=_dataset), min_count=3, extra=_names)

model = L(RegionCLIPPretraining)(
    backbone=L(ModifiedResNet)(blocks=[1, 1, 1, 1], width=16, embed_dim=64, side=4, freeze_at=0),
    region_features=L(RegionFeatures)(
        pooler=L(ROIPooler)(output_size=8, scales=[1 / 16], sampling_ratio=2, pooler_type="ROIAlignV2")
    ),
    text_encoder=L(HashedTextEncoder)(dim=64),
    teacher=L(LabelTeacher)(names=_names, concepts=_concepts),
    concepts=_concepts,
    recipe="own",
    temperature=0.1,
    pixel_mean=[127.0, 127.0, 127.0],
    pixel_std=[64.0, 64.0, 64.0],
)

dataloader = dict(
    train=L(build_train_loader)(
        sources=[
            L(TrainSource)(
                name=_dataset,
                mapper=L(PairMapper)(is_train=True, given="annotations", augmentations=[L(T.NoOpTransform)()]),
            )
        ],
        total_batch_size=8,
    ),
    test=dict(
        shapes=dict(
            loader=L(build_test_loader)(
                dataset=_new, mapper=L(PairMapper)(is_train=False, given="annotations", augmentations=[L(T.NoOpTransform)()])
            ),
            evaluator=L(RegionAccuracyEvaluator)(dataset_name=_new),
        )
    ),
)
optimizer = L(build_adamw)(lr=2e-3, weight_decay=0.01)
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=0.02), warmup_factor=0.1, warmup_length=0.1
)
train.max_iter = 120
train.output_dir = "output/quick_shapes_pretrain"
train.clip_grad = dict(max_norm=5.0)
train.checkpointer = dict(period=0, max_to_keep=1)
train.best_metric = ""
