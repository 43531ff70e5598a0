"""`glipv2_mini_masks` learns masks by heart: of the names in four pictures, and of what sentences refer to in four more.

Reproduces: mask AP50 above 90 on the pictures it was trained on, and an mIoU above 70 on their sentences.
Cost: about a minute on 2 CPU cores.
Command: python tools/train_net.py --config-file configs/glipv2/quick/shapes_masks.py
"""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from openvocab.data import DatasetMapper, TrainSource, build_test_loader, build_train_loader
from openvocab.evaluation import COCODetectionEvaluator, ReferringMaskEvaluator
from openvocab.testing.quick import shapes_dataset, shapes_referring

from ..models.glipv2_mini_masks import model
from .shapes_overfit import lr_multiplier, optimizer, train

_names, _sentences = shapes_dataset(num=4, taxonomy="shape"), shapes_referring(num=4)
_train_mapper = L(DatasetMapper)(is_train=True, augmentations=[L(T.NoOpTransform)()], with_masks=True, mask_format="bitmask")
_test_mapper = L(DatasetMapper)(is_train=False, augmentations=[L(T.NoOpTransform)()])

model.backbone.bottom_up.freeze_at = 0
# small pictures of small things: masks of 14 x 14 pixels, half the published side, cost a quarter
model.mask_branch.pooler.output_size, model.mask_branch.head.trunk.num_convs, model.mask_branch.max_boxes = 7, 2, 10

dataloader = dict(
    train=L(build_train_loader)(
        sources=[L(TrainSource)(name=n, mapper=_train_mapper) for n in (_names, _sentences)], total_batch_size=4, num_workers=0
    ),
    test=dict(
        shapes=dict(
            loader=L(build_test_loader)(dataset=_names, mapper=_test_mapper),
            evaluator=L(COCODetectionEvaluator)(dataset_name=_names),
        ),
        referring=dict(
            loader=L(build_test_loader)(dataset=_sentences, mapper=_test_mapper),
            evaluator=L(ReferringMaskEvaluator)(dataset_name=_sentences, best_only=True),
        ),
    ),
)
train.max_iter = 300
train.output_dir = "output/quick_shapes_masks"
train.best_metric = "shapes/segm/AP50"
