"""GLIP-T's tower tuned on VQAv2's questions; then the official accuracy on its validation split.

Reproduces: the task of GLIPv2's VQA column (arXiv 2206.05836). Of its recipe two things are known, a short tuning at a rate near
1e-5 and 3,129 answers as classes; the rest is ours. No figure to expect: it needs released weights, and was not run here.
Cost: not measured.
Command: python tools/train_net.py --config-file configs/glipv2/tasks/vqa.py
    --num-gpus 8 train.init_checkpoint=glip_tiny.safetensors
with VQAv2's files below $DETECTRON2_DATASETS/vqa, COCO 2014 beside it, weights from `tools/convert_weights.py --from glip`, and the
answers from: python -m openvocab.data.answers --output vqa_v2_answers.json vqa_v2_train vqa_v2_val
(as many as that says, if it is not 3,129: model.heads.0.num_answers=N).
"""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

from glipv2.tasks import GLIPv2Tasks, VQAHead
from openvocab.data import QuestionMapper, TrainSource, build_test_loader, build_train_loader
from openvocab.engine import build_adamw
from openvocab.evaluation import VQAEvaluator

from ...common.train import train
from ..models.glip_tiny import model as _detector

model = L(GLIPv2Tasks)(detector=_detector, heads=[L(VQAHead)(answers="vqa_v2_answers.json", num_answers=3129)])

# no flip: questions speak of left and right
_sizes = L(T.ResizeShortestEdge)(short_edge_length=(480, 560, 640), max_size=1066, sample_style="choice")
dataloader = dict(
    train=L(build_train_loader)(
        sources=[
            L(TrainSource)(name="vqa_v2_train", mapper=L(QuestionMapper)(is_train=True, augmentations=[_sizes], image_format="BGR"))
        ],
        total_batch_size=64,
        num_workers=4,
    ),
    test=dict(
        vqa_v2_val=dict(
            loader=L(build_test_loader)(
                dataset="vqa_v2_val",
                mapper=L(QuestionMapper)(
                    is_train=False,
                    augmentations=[L(T.ResizeShortestEdge)(short_edge_length=640, max_size=1066)],
                    image_format="BGR",
                ),
                num_workers=2,
            ),
            evaluator=L(VQAEvaluator)(dataset_name="vqa_v2_val"),
        )
    ),
)
optimizer = L(build_adamw)(lr=1e-5, weight_decay=1e-4, overrides={"heads.": dict(lr_factor=10.0)})
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(values=[1.0, 0.1, 0.01], milestones=[67, 89, 100]), warmup_factor=0.001, warmup_length=0.02
)
train.max_iter = 35000  # 64 x 35,000 questions: about five times the 443,757 of the training split
train.output_dir = "output/glipv2_tasks_vqa"
train.amp = dict(enabled=True, dtype="bfloat16")
train.clip_grad = dict(max_norm=1.0)
train.best_metric = "vqa_v2_val/vqa/accuracy"
