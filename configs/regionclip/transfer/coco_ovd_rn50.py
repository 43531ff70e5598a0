"""RegionCLIP's transfer to open-vocabulary COCO, RN50 (arXiv 2112.09106, section 4.2): trained on 48 names, tested on 65.

Reproduces: AP50 31.4 of the 17 novel names and 50.4 of all 65 (the authors' MODEL_ZOO). Not run here: no weights were at hand.
Cost: 90,000 steps of 16 pictures, made for 8 GPUs.
Command: python tools/train_net.py --config-file configs/regionclip/transfer/coco_ovd_rn50.py --num-gpus 8

Files below $DETECTRON2_DATASETS/regionclip:
  coco_start_rn50.safetensors
    tools/convert_weights.py --from regionclip --rpn rpn_coco_48.pth regionclip_pretrained-cc_rn50.pth OUT
  coco_65_cls_emb.pth, the official one (its 48 rows of base names serve in training), or
    tools/dump_text_embeddings.py --vocabulary coco_ovd_65 --pretrained RN50.pt --allow-pickle --plain OUT
The official fine-tuned checkpoint holds the vectors of the 65 names itself:
  python tools/convert_weights.py --from regionclip regionclip_finetuned-coco_rn50.pth coco_rn50.safetensors
  python tools/train_net.py --config-file configs/regionclip/transfer/coco_ovd_rn50.py --eval-only
    train.init_checkpoint=coco_rn50.safetensors model.text_embeddings.path=coco_rn50.safetensors
Results: coco_2017_val_ovd/bbox_ovd/AP50_novel, AP50_base, AP50_all; in the sets of one group AP50_novel_only and AP50_base_only.
"""

from detectron2.config import LazyCall as L
from fvcore.common.param_scheduler import MultiStepParamScheduler

from openvocab.data import TrainSource, build_train_loader
from openvocab.vocabulary import Vocabulary
from regionclip.modeling import EmbeddingFile

from ...common.data import train_mapper as _train_mapper
from ...common.evaluation import coco_ovd as _coco_ovd
from ...common.optim import SGD as optimizer
from ...common.schedule import warmed_up as _warmed_up
from ...common.train import train
from ..models.regionclip_rn50 import FILES as _files
from ..models.regionclip_rn50 import model

_coco = Vocabulary.builtin("coco")
_others = [name for name, split in zip(_coco.names, _coco.splits, strict=True) if split != "base"]  # 17 novel, 15 of neither

model.text_embeddings = L(EmbeddingFile)(path=str(_files / "coco_65_cls_emb.pth"), vocabulary="coco_ovd_65")

dataloader = dict(
    train=L(build_train_loader)(
        # boxes of other names are left out, as in the official annotation files: what they hold counts as background
        sources=[L(TrainSource)(name="coco_2017_train", mapper={**_train_mapper, "prompt": None, "exclude_names": _others})],
        total_batch_size=16,
        num_workers=4,
        seed=0,
    ),
    test={**_coco_ovd(), **_coco_ovd(protocol="novel"), **_coco_ovd(protocol="base")},
)

optimizer.lr = 0.002
lr_multiplier = _warmed_up(
    L(MultiStepParamScheduler)(values=[1.0, 0.1, 0.01], num_updates=90_000, milestones=[60_000, 80_000]),
    length=5000 / 90_000,
    factor=0.001,
)
train.max_iter = 90_000
train.reference_batch_size = 16
train.output_dir = "output/regionclip_coco_ovd_rn50"
train.init_checkpoint = str(_files / "coco_start_rn50.safetensors")
train.checkpointer = dict(period=5000, max_to_keep=3)
train.log_period = 50
train.best_metric = ""
