"""A small class-free RPN for coloured shapes: the proposals of quick/shapes_transfer.

Reproduces: nothing of the paper, whose RPNs are released; 98 % of new boxes are among the 30 best proposals of a picture (IoU 0.5).
It learns from the boxes of all colors. Without those of the novel ones it learns to leave them out, and AP50_novel becomes 0.
Cost: half a minute on one CPU core.
Command: python tools/train_net.py --config-file configs/regionclip/quick/shapes_rpn.py
Then one file of the pretrained student and this RPN, from which the transfer starts:
  python tools/convert_weights.py --from as-is --rpn output/quick_shapes_rpn/model_final.pth
    output/quick_shapes_pretrain/model_final.pth output/quick_shapes_start.safetensors
"""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from openvocab.data import DatasetMapper, TrainSource, build_train_loader
from openvocab.engine import build_adamw
from openvocab.testing.quick import shapes_dataset
from regionclip.modeling import build_proposal_network

from .shapes_pretrain import lr_multiplier, train

model = L(build_proposal_network)(kind="c4", norm="BN", stem_channels=16, width_per_group=8, res2_channels=32)

dataloader = dict(
    train=L(build_train_loader)(
        sources=[
            L(TrainSource)(
                name=shapes_dataset(num=200, taxonomy="color"),
                mapper=L(DatasetMapper)(is_train=True, augmentations=[L(T.NoOpTransform)()], image_format="BGR"),
            )
        ],
        total_batch_size=8,
    ),
    test={},
)
optimizer = L(build_adamw)(lr=4e-3, weight_decay=0.01)
train.max_iter = 200
train.output_dir = "output/quick_shapes_rpn"
