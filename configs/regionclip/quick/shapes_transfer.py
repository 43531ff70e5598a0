"""RegionCLIP's transfer in small: coloured shapes, trained on eight colors, tested on ten; purple and cyan are novel.

Reproduces: AP50 above 60 of the novel colors and of the base ones, on new pictures; a check of the whole way from pretraining over
transfer and evaluation to prediction.
Cost: 15 s on one CPU core, after a minute for the two configs it starts from.
Command: python tools/train_net.py --config-file configs/regionclip/quick/shapes_transfer.py
It starts from output/quick_shapes_start.safetensors; quick/shapes_rpn says how that is made. Afterwards:
  python tools/demo.py --model regionclip/quick/shapes_transfer --weights output/quick_shapes_transfer/model_final.pth
    --input PICTURES --text "purple. red."
Only the attention pool and the box regression train: in so few steps the towers would forget the novel colors.
"""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T
from detectron2.modeling.matcher import Matcher

from openvocab.data import DatasetMapper, TrainSource, build_test_loader, build_train_loader
from openvocab.evaluation import COCOOVDEvaluator
from openvocab.testing.quick import shapes_dataset
from regionclip.modeling import RegionCLIP, RegionCLIPOutputLayers, RegionCLIPROIHeads, RegionPostProcessor, build_offline_rpn

from .shapes_pretrain import _new, lr_multiplier, optimizer, train
from .shapes_pretrain import model as _student
from .shapes_rpn import model as _rpn

_same = L(T.NoOpTransform)()

model = L(RegionCLIP)(
    **{k: _student[k] for k in ("backbone", "text_encoder", "recipe", "pixel_mean", "pixel_std")},
    roi_heads=L(RegionCLIPROIHeads)(
        region_features=_student.region_features,
        box_predictor=L(RegionCLIPOutputLayers)(
            input_dim=64,
            postprocessor=L(RegionPostProcessor)(score_fusion="sqrt_sigmoid", score_threshold=0.05),
            temperature=_student.temperature,
            focal_gamma=0.5,
            background_weight=0.2,
        ),
        batch_size_per_image=16,
        proposal_matcher=L(Matcher)(thresholds=[0.5], labels=[0, 1]),
    ),
    offline_rpn=L(build_offline_rpn)(
        post_nms_topk=50, **{k: _rpn[k] for k in ("kind", "stem_channels", "width_per_group", "res2_channels")}
    ),
)

dataloader = dict(
    train=L(build_train_loader)(
        sources=[
            L(TrainSource)(
                name=shapes_dataset(num=64, taxonomy="color"),
                mapper=L(DatasetMapper)(is_train=True, augmentations=[_same], exclude_names=["purple", "cyan"]),
            )
        ],
        total_batch_size=4,
    ),
    test=dict(
        shapes=dict(
            loader=L(build_test_loader)(dataset=_new, mapper=L(DatasetMapper)(is_train=False, augmentations=[_same])),
            evaluator=L(COCOOVDEvaluator)(dataset_name=_new),
        )
    ),
)
model.backbone.freeze_at = 5
optimizer.update(lr=1e-4, overrides={"bbox_pred": dict(lr_factor=100)})  # the one layer that begins at random
train.max_iter = 100
train.output_dir = "output/quick_shapes_transfer"
train.init_checkpoint = "output/quick_shapes_start.safetensors"
train.best_metric = ""
