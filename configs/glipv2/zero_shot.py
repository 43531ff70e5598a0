"""The shipped default on any registered data set, by its names alone, or by other words for them.

Reproduces: GLIP's zero-shot protocol for ODinW (facts/glipv2.md 5.1) on one set: a caption of all names, COCO's AP.
Cost: about 0.3 s a picture on 2 CPU cores (docs/model_card.md).
Command: python tools/train_net.py --config-file configs/glipv2/zero_shot.py
    --eval-only dataloader.dataset=deeppcb 'dataloader.wording={deeppcb_val: "{} on a circuit board"}'
`dataloader.wording` says for each set in which words its names are asked for, as GLIP's CAPTION_PROMPT does: one template for all
names, or name -> template, such as {packages_test: {package: "there is a {package} on the porch"}}; null: the set's own words.
All of aquarium, bccd, coco_mini, pothole and raccoon was in this model's training: of the shared sets only deeppcb is unseen.
"""

from detectron2.config import LazyCall as L

from openvocab.data import build_test_loader
from openvocab.evaluation import COCODetectionEvaluator

from .default import _test_mapper, dataloader, lr_multiplier, model, optimizer, train

dataloader.update(dataset="deeppcb", split="val", wording=None)
_test_mapper.wording = "${dataloader.wording}"
_name = "${dataloader.dataset}_${dataloader.split}"
dataloader.test = dict(
    zero_shot=dict(
        loader=L(build_test_loader)(dataset=_name, mapper=_test_mapper), evaluator=L(COCODetectionEvaluator)(dataset_name=_name)
    )
)
train.init_checkpoint = "zoo://default"
train.output_dir = "output/glipv2_zero_shot"
