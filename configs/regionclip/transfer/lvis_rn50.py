"""RegionCLIP's transfer to open-vocabulary LVIS v1, RN50 with masks: trained on 866 names, tested on 1203; rare ones are novel.

Reproduces: the paper's RN50 row on LVIS; its numbers could not be checked here (RN50x4's: see lvis_rn50x4). Not run.
Cost: 180,000 steps of 16 pictures, made for 8 GPUs.
Command: python tools/train_net.py --config-file configs/regionclip/transfer/lvis_rn50.py --num-gpus 8

Files below $DETECTRON2_DATASETS/regionclip:
  lvis_start_rn50.safetensors
    tools/convert_weights.py --from regionclip --rpn rpn_lvis_866_lsj.pth regionclip_pretrained-cc_rn50.pth OUT
  lvis_1203_cls_emb.pth, the official one, or
    tools/dump_text_embeddings.py --vocabulary lvis --pretrained RN50.pt --allow-pickle --plain OUT
Evaluating regionclip_finetuned-lvis_rn50.pth: as in coco_ovd_rn50. Results: lvis_v1_val/bbox and /segm: AP, APr, APc, APf.
What differs from the official run: pictures keep more than 500 boxes, and validation pictures without any box are evaluated too.
"""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead

from openvocab.vocabulary import Vocabulary

from ...common.evaluation import lvis as _lvis
from .coco_ovd_rn50 import _files, dataloader, lr_multiplier, model, optimizer, train

_names = Vocabulary.builtin("lvis")
_rare = [name for name, frequency in zip(_names.names, _names.frequencies, strict=True) if frequency == "r"]

model.text_embeddings.path, model.text_embeddings.vocabulary = str(_files / "lvis_1203_cls_emb.pth"), "lvis"
model.offline_rpn.kind = "fpn_lsj"
model.roi_heads.mask_head = L(MaskRCNNConvUpsampleHead)(
    input_shape=L(ShapeSpec)(channels=2048),
    num_classes=1,
    conv_dims=[256],  # of res5's map; one mask whatever the name
)
_box = model.roi_heads.box_predictor
_box.focal_gamma, _box.background_weight = None, 0.8
_box.postprocessor.update(score_fusion="sqrt_logit", score_threshold=0.02, max_detections=300)

_source = dataloader.train.sources[0]
_source.name, _source.repeat_threshold = "lvis_v1_train", 0.001
_source.mapper.update(exclude_names=_rare, with_masks=True)
dataloader.test = _lvis("lvis_v1_val")

lr_multiplier.scheduler.update(num_updates=180_000, milestones=[120_000, 160_000])
lr_multiplier.warmup_length = 5000 / 180_000
train.max_iter = 180_000
train.init_checkpoint = str(_files / "lvis_start_rn50.safetensors")
train.output_dir = "output/regionclip_lvis_rn50"
