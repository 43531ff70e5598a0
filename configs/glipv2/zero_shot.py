"""The shipped default on any registered data set: by its names alone, and in a caption template of the set's own.

Reproduces: GLIP's zero-shot protocol for ODinW (microsoft/GLIP) on one set: a caption of all names, COCO's AP.
Cost: about 0.3 s a picture and pass on 2 CPU cores (docs/model_card.md); two passes.
Command: python tools/train_net.py --config-file configs/glipv2/zero_shot.py --eval-only dataloader.dataset=deeppcb
`~dataloader.test.zero_shot_worded` leaves the second pass out. `dataloader.wording` says for each set in which words its names are
asked for, as GLIP's CAPTION_PROMPT does: a template for all names, or name -> template; the shared sets have theirs in
configs/common/wording.py. For another set, or in other words:
    dataloader.dataset=packages dataloader.split=test '++dataloader.wording.packages_test=there is a {} on the porch'
All of aquarium, bccd, coco_mini, pothole and raccoon was in this model's training: of the shared sets only deeppcb is unseen.
"""

from detectron2.config import LazyCall as L

from openvocab.data import build_test_loader
from openvocab.evaluation import COCODetectionEvaluator

from ..common.wording import SHARED_WORDING as _words
from .default import _test_mapper, dataloader, lr_multiplier, model, optimizer, train

_splits = ("train", "val", "test")
dataloader.update(dataset="deeppcb", split="val", wording={f"{name}_{s}": w for name, w in _words.items() for s in _splits})
_name = "${dataloader.dataset}_${dataloader.split}"
_mappers = {"zero_shot": _test_mapper, "zero_shot_worded": {**_test_mapper, "wording": "${dataloader.wording}"}}
dataloader.test = {
    test: dict(
        loader=L(build_test_loader)(dataset=_name, mapper=mapper), evaluator=L(COCODetectionEvaluator)(dataset_name=_name)
    )
    for test, mapper in _mappers.items()
}
train.init_checkpoint = "zoo://default"
train.output_dir = "output/glipv2_zero_shot"
