"""Data: how sets become loaders, and COCO 2017 as a start.

Names are those of `openvocab.data`; folders are found through $DETECTRON2_DATASETS, or ../shared/data for the small sets.
"""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from openvocab.data import DatasetMapper, PromptSampler, TrainSource, build_test_loader, build_train_loader
from openvocab.evaluation import COCODetectionEvaluator

# detectron2's sizes; prompts of at most 80 names: those in the picture, and others
train_mapper = L(DatasetMapper)(
    is_train=True,
    augmentations=[
        L(T.ResizeShortestEdge)(short_edge_length=(640, 672, 704, 736, 768, 800), max_size=1333, sample_style="choice"),
        L(T.RandomFlip)(),
    ],
    image_format="RGB",
    prompt=L(PromptSampler)(max_names=80),
)
test_mapper = L(DatasetMapper)(
    is_train=False, augmentations=[L(T.ResizeShortestEdge)(short_edge_length=800, max_size=1333)], image_format="RGB"
)


def sources(shares, mapper=train_mapper):
    """Training sources from a dict: data set -> its share of the samples."""
    return [L(TrainSource)(name=name, weight=weight, mapper=mapper) for name, weight in shares.items()]


def test_sets(*names, mapper=test_mapper):
    """What `dataloader.test` holds: for each data set a loader and its evaluator."""
    return {
        name: dict(
            loader=L(build_test_loader)(dataset=name, mapper=mapper, num_workers=2),
            evaluator=L(COCODetectionEvaluator)(dataset_name=name),
        )
        for name in names
    }


dataloader = dict(
    train=L(build_train_loader)(sources=sources({"coco_2017_train": 1.0}), total_batch_size=16, num_workers=4, seed=0),
    test=test_sets("coco_2017_val"),
)
