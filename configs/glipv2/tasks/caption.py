"""GLIP-T's tower tuned to write COCO's captions; then BLEU-4, CIDEr, and the boxes of what was written, on COCO val 2014.

Reproduces: the task of GLIPv2's caption column (arXiv 2206.05836): the weights that detect, a causal mask over the text, the head
for hidden words. Rates and steps as in `vqa.py`, ours. No figure to expect: it needs released weights, and was not run here.
(The paper's split of COCO, its training objective after cross-entropy and its search are not known.)
Cost: not measured.
Command: python tools/train_net.py --config-file configs/glipv2/tasks/caption.py
    --num-gpus 8 train.init_checkpoint=glip_tiny.safetensors
with COCO 2014 below $DETECTRON2_DATASETS/coco, and the extra "captions" for the evaluation.
"""

from detectron2.config import LazyCall as L
from detectron2.evaluation import DatasetEvaluators

from glipv2.modeling import MaskedLanguageHead
from glipv2.tasks import CaptionHead, SearchSettings
from openvocab.data import CaptionMapper
from openvocab.evaluation import CaptionEvaluator, LinkEvaluator

from .vqa import dataloader, lr_multiplier, model, optimizer, train

_words, _search = L(MaskedLanguageHead)(dim=768, vocab_size=30522), L(SearchSettings)(beams=4, max_length=40)
model.heads = [L(CaptionHead)(words=_words, search=_search, label_smoothing=0.1)]
_source, _test = dataloader.train.sources[0], dataloader.test.pop("vqa_v2_val")
_source.name, _source.mapper["_target_"] = "coco_2014_train_captions", CaptionMapper
_test.loader.dataset, _test.loader.mapper["_target_"] = "coco_2014_val_captions", CaptionMapper
_test.loader.mapper.links = True  # grounded captions: the same detector looks for what was said
_test.evaluator = L(DatasetEvaluators)(
    evaluators=[
        L(CaptionEvaluator)(dataset_name="coco_2014_val_captions", constants=0),
        L(LinkEvaluator)(dataset_name="coco_2014_val"),
    ]
)
dataloader.test.coco_2014_val_captions = _test

train.max_iter = 13000  # 64 x 13,000 pictures: about ten times the 82,783 of the training split
train.output_dir = "output/glipv2_tasks_caption"
train.best_metric = "coco_2014_val_captions/caption/CIDEr"
