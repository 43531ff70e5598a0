"""GLIPv2's pretraining in small: names, sentences, and captions with a teacher's boxes, of coloured shapes; all losses in one run.

Reproduces: five falling losses, and AP50 of ten colors on new pictures from 13.2, that of the shipped detector it starts from, to
18.0. A check that every part learns, no more.
Cost: 69 s of processor time on one core, evaluation included.
Command: python tools/train_net.py --config-file configs/glipv2/quick/shapes_grounding.py
"""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from glipv2.modeling import MaskedLanguageHead, MaskedLanguageModelling, RegionWordContrast, WordMasker
from openvocab.data import DatasetMapper, PromptSampler, TokenBudget, TrainSource, build_test_loader, build_train_loader
from openvocab.evaluation import COCODetectionEvaluator
from openvocab.testing.quick import shapes_dataset
from openvocab.testing.quick_grounding import shapes_grounding, shapes_pseudo

from ..models.glipv2_mini import CHANNELS, LANG, model
from .shapes_overfit import lr_multiplier, optimizer, train

_names, _new = shapes_dataset(num=64, taxonomy="color"), shapes_dataset(num=24, taxonomy="color", split="val")
_sentences, _captions = shapes_grounding(num=64, seed=1), shapes_pseudo(num=64, seed=2)
_train_mapper = L(DatasetMapper)(
    is_train=True, augmentations=[L(T.NoOpTransform)()], prompt=L(PromptSampler)(full_prob=0.5), budget=L(TokenBudget)()
)
_shares = {_names: 2, _sentences: 1, _captions: 1}

model.backbone.bottom_up.freeze_at = 0
model.contrast = L(RegionWordContrast)(visual_dim=CHANNELS, lang_dim=LANG, log_scale=-2.3)  # a temperature of 0.1
model.mlm = L(MaskedLanguageModelling)(head=L(MaskedLanguageHead)(dim=LANG, tied=True), masker=L(WordMasker)(rate=0.15))

dataloader = dict(
    train=L(build_train_loader)(
        sources=[L(TrainSource)(name=n, mapper=_train_mapper, weight=w) for n, w in _shares.items()], total_batch_size=4
    ),
    test=dict(
        shapes=dict(
            loader=L(build_test_loader)(
                dataset=_new, mapper=L(DatasetMapper)(is_train=False, augmentations=[L(T.NoOpTransform)()])
            ),
            evaluator=L(COCODetectionEvaluator)(dataset_name=_new),
        )
    ),
)
optimizer.lr = 5e-4
train.init_checkpoint = "zoo://default"  # the shipped detector knows boxes, so that a minute is enough to learn something new
train.max_iter = 100
train.output_dir = "output/quick_shapes_grounding"
