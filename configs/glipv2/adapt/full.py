"""Full tuning of the shipped default on any registered data set: all trains but the image network's first stages.

Reproduces: GLIP's full-model tuning for ODinW (microsoft/GLIP) in small; batch, decay and clipping are its, steps are ours.
Cost: 7.5 minutes of processor time on deeppcb, one thread, evaluation included (AP50 20.9); 200 steps of 4 pictures.
Command: python tools/train_net.py --config-file configs/glipv2/adapt/full.py dataloader.dataset=bccd
`dataloader.dataset=NAME` trains on NAME_train and evaluates on NAME_val (`dataloader.split=test`: on NAME_test);
`dataloader.shots=3 dataloader.shot_seed=0` takes 3 pictures of each class, as ODinW's few-shot sets do; 0 takes all.
"""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from glipv2.tuning import TunedGLIPv2
from openvocab.data import DatasetMapper, FewShot, TrainSource, build_test_loader, build_train_loader
from openvocab.engine import build_adamw
from openvocab.evaluation import COCODetectionEvaluator

from ..default import _test_mapper, lr_multiplier, model, train

# the prior speaks on names without boxes: here all names have some
model.update(_target_=TunedGLIPv2, tuning="full", dataset="${dataloader.dataset}_train", prior=None)
model.text_encoder.frozen = False

# all names in their order in every prompt, as GLIP tunes
_train_mapper = L(DatasetMapper)(
    is_train=True,
    augmentations=[
        L(T.ResizeShortestEdge)(short_edge_length=(288, 320, 352, 384), max_size=512, sample_style="choice"),
        L(T.RandomFlip)(),
    ],
)
_few = L(FewShot)(shots="${dataloader.shots}", seed="${dataloader.shot_seed}")
dataloader = dict(
    dataset="bccd",
    split="val",
    shots=0,
    shot_seed=0,
    train=L(build_train_loader)(
        sources=[L(TrainSource)(name="${dataloader.dataset}_train", mapper=_train_mapper, select=_few)],
        total_batch_size=4,
        num_workers=1,
        seed=0,
    ),
    test=dict(
        adapted=dict(
            loader=L(build_test_loader)(dataset="${dataloader.dataset}_${dataloader.split}", mapper=_test_mapper),
            evaluator=L(COCODetectionEvaluator)(dataset_name="${dataloader.dataset}_${dataloader.split}"),
        )
    ),
)
_factors = {"backbone.bottom_up": dict(lr_factor=0.25), "text_encoder": dict(lr_factor=0.1)}
optimizer = L(build_adamw)(lr=1e-4, weight_decay=0.05, overrides=_factors)
train.init_checkpoint = "zoo://default"
train.max_iter = 200
train.output_dir = "output/glipv2_adapt_full"
train.ema.enabled = False
train.eval_period = 0
train.seed = 0
