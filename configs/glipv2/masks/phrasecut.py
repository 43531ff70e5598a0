"""The mask head of `coco.py`, trained on PhraseCut's phrases; then their mIoU on the test split.

Reproduces: referring masks as GLIPv2 reports them (mIoU of PhraseCut test). The data is PhraseCut's own: VGPhraseCut_v0/ below
$DETECTRON2_DATASETS. Steps and rates are ours. No figure to expect: it needs released weights, and was not run here.
Cost: not measured.
Command: python tools/train_net.py --config-file configs/glipv2/masks/phrasecut.py
    --num-gpus 8 train.init_checkpoint=glip_tiny.safetensors
Pictures are not flipped: phrases speak of left and right.
"""

from detectron2.config import LazyCall as L

from openvocab.evaluation import ReferringMaskEvaluator

from .coco import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.sources[0].name = "phrasecut_train"
dataloader.train.sources[0].mapper.augmentations.pop()
_loader = dataloader.test.coco_2017_val.loader
_loader.dataset = "phrasecut_test"
dataloader.test = dict(phrasecut_test=dict(loader=_loader, evaluator=L(ReferringMaskEvaluator)(dataset_name="phrasecut_test")))

train.max_iter = 60000  # 16 x 60,000 phrases: about three times the 310,816 of PhraseCut's own count
train.output_dir = "output/glipv2_masks_phrasecut"
train.best_metric = "phrasecut_test/segm_referring/mIoU"
