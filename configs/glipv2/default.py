"""The shipped default: `glipv2_mini` trained jointly on five small real sets.

Reproduces: openvocab/weights/default.safetensors (see docs/model_card.md for what it reaches).
Cost: 102 minutes on one CPU core (2,400 steps of 4 pictures), evaluation apart.
Command: python tools/train_net.py --config-file configs/glipv2/default.py
Two animals of coco_mini, `cat` and `zebra`, are never prompted and their boxes are left out of the losses, to measure names that
the detector never saw a box of.
"""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import CosineParamScheduler

from glipv2.modeling.prior import SemanticPrior
from openvocab.bridge import Bridge
from openvocab.data import DatasetMapper, PromptSampler, TrainSource, build_test_loader, build_train_loader
from openvocab.engine import build_adamw
from openvocab.evaluation import COCODetectionEvaluator

from ..common.train import train
from .models.glipv2_mini import model
from .models.seen import SEEN as _seen

_super_names = {
    **dict.fromkeys(["bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"], "vehicle"),
    **dict.fromkeys(["bird", "dog", "horse", "sheep", "cow", "elephant", "bear", "giraffe", "raccoon"], "animal"),
    **dict.fromkeys(["banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake"], "food"),
    **dict.fromkeys(["bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl"], "kitchenware"),
    **dict.fromkeys(["chair", "couch", "potted plant", "bed", "dining table", "toilet", "bench"], "furniture"),
    **dict.fromkeys(["tv", "laptop", "mouse", "remote", "keyboard", "cell phone"], "electronics"),
    **dict.fromkeys(["fish", "jellyfish", "penguin", "puffin", "shark", "starfish", "stingray"], "sea animal"),
    **dict.fromkeys(["RBC", "WBC", "Platelets"], "blood cell"),
}
_shares = {"coco_mini": 0.34, "aquarium": 0.34, "bccd": 0.08, "raccoon": 0.09, "pothole": 0.15}
_held_out = ["cat", "zebra"]

_train_mapper = L(DatasetMapper)(
    is_train=True,
    augmentations=[
        L(T.RandomApply)(tfm_or_aug=L(T.RandomCrop)(crop_type="relative_range", crop_size=(0.5, 0.5)), prob=0.4),
        L(T.ResizeShortestEdge)(short_edge_length=(288, 320, 352, 384), max_size=512, sample_style="choice"),
        L(T.RandomFlip)(),
        L(T.RandomBrightness)(intensity_min=0.8, intensity_max=1.2),
    ],
    prompt=L(PromptSampler)(max_names=40),
    exclude_names=_held_out,
    super_names=_super_names,
    super_name_prob=0.1,
    generic_name_prob=0.12,
)
_test_mapper = L(DatasetMapper)(
    is_train=False, augmentations=[L(T.ResizeShortestEdge)(short_edge_length=384, max_size=640)], image_format="RGB"
)

# at test time the bridge speaks on names of few boxes; training does not see it
model.prior = L(SemanticPrior)(scorer=L(Bridge)(image_size=160), seen=_seen, negatives=list(_seen), top_boxes=15)

dataloader = dict(
    train=L(build_train_loader)(
        sources=[L(TrainSource)(name=f"{n}_train", weight=w, mapper=_train_mapper) for n, w in _shares.items()],
        total_batch_size=4,
        num_workers=1,
        seed=7,
    ),
    test={
        f"{n}_val": dict(
            loader=L(build_test_loader)(dataset=f"{n}_val", mapper=_test_mapper),
            evaluator=L(COCODetectionEvaluator)(dataset_name=f"{n}_val"),
        )
        for n in _shares
    },
)

optimizer = L(build_adamw)(lr=4e-4, weight_decay=0.05, overrides={"backbone.bottom_up": dict(lr_factor=0.25)})

lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=0.01), warmup_factor=0.01, warmup_length=0.05
)

train.max_iter = 2400
train.output_dir = "output/glipv2_default"
train.seed = 7
train.amp = dict(enabled=True, dtype="bfloat16")
train.clip_grad = dict(max_norm=1.0)
train.ema = dict(enabled=True, decay=0.998)
train.eval_period = 1000
