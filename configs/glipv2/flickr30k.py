"""Phrase grounding on Flickr30k Entities with GLIP-T: recall@1, 5 and 10 of val and test, any-box and merged-box protocols.

Reproduces: the protocol of GLIP's and GLIPv2's Flickr30k figures (microsoft/GLIP): one sentence a picture, the best 100 boxes
over its phrases. No figure to expect: it needs released weights and the pictures, and was not run on them here.
Cost: not measured; 1,000 pictures with five sentences each in either split.
Command: python tools/train_net.py --config-file configs/glipv2/flickr30k.py
    --eval-only train.init_checkpoint=glip_tiny.safetensors
with weights from `tools/convert_weights.py --from glip glip_tiny_model_o365_goldg_cc_sbu.pth glip_tiny.safetensors`, MDETR's
final_flickr_separateGT_{train,val,test}.json in $DETECTRON2_DATASETS/mdetr_annotations, and the pictures in
flickr30k/flickr30k_images/SPLIT. Without --eval-only it tunes on the train split; rates of that are ours.
"""

from detectron2.config import LazyCall as L

from openvocab.data import TrainSource, build_test_loader
from openvocab.evaluation import Flickr30kEvaluator

from .masks.coco import _test_mapper, _train_mapper, dataloader, lr_multiplier, model, optimizer, train

model.update(mask_branch=None, frozen_detector=False)
_train_mapper.with_masks = False
dataloader.train.sources = [L(TrainSource)(name="flickr30k_train", mapper=_train_mapper)]
dataloader.test = {
    f"flickr30k_{split}": dict(
        loader=L(build_test_loader)(dataset=f"flickr30k_{split}", mapper=_test_mapper, num_workers=2),
        evaluator=L(Flickr30kEvaluator)(dataset_name=f"flickr30k_{split}", topk=(1, 5, 10)),
    )
    for split in ("val", "test")
}
optimizer.lr = 1e-5
train.output_dir = "output/glipv2_flickr30k"
train.best_metric = "flickr30k_val/recall_any/R@1"
