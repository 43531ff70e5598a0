"""`regionclip_mini` as a detector: the pretrained small student, transferred to COCO's 48 base names on coco_mini.

Reproduces: nothing of the paper. Not run to the end yet. Ours: no CLIP image tower can be had offline.
Cost: a quarter of an hour on one CPU core (400 steps of 4 pictures, 1.9 s each), evaluation (7 minutes) and proposals apart.
Command: python tools/train_net.py --config-file configs/regionclip/transfer/regionclip_mini.py

It starts from the shipped weights of pretrain/regionclip_mini. Proposals are boxes that the shipped `default` finds for the word
"object": those of training are the pretraining's (10 minutes if that was not run here), those of validation are found at the first
call and kept beside them, and other pictures get theirs when they come.
`default` learned its boxes on this training set with all names but cat and zebra. So AP50_novel says whether novel things are named
rightly; that they are found is no surprise.
Any names, in any picture: tools/demo.py --model regionclip/transfer/regionclip_mini --input FILE --text "a. b."
  --weights output/regionclip_mini_transfer/model_final.pth
"""

from detectron2.config import LazyCall as L
from detectron2.modeling.matcher import Matcher

from openvocab.data import DatasetMapper, TrainSource, build_train_loader
from openvocab.vocabulary import Vocabulary
from regionclip.modeling import RegionCLIP, RegionCLIPOutputLayers, RegionCLIPROIHeads, RegionPostProcessor
from regionclip.pretraining import DetectorProposals, with_proposals

from ...common.evaluation import coco_ovd as _coco_ovd
from ..pretrain.regionclip_mini import _mapper as _pair_mapper
from ..pretrain.regionclip_mini import _records, lr_multiplier, optimizer, train
from ..pretrain.regionclip_mini import dataloader as _pretraining
from ..pretrain.regionclip_mini import model as _student

_coco = Vocabulary.builtin("coco")
_others = [name for name, split in zip(_coco.names, _coco.splits, strict=True) if split != "base"]

model = L(RegionCLIP)(
    **{k: _student[k] for k in ("backbone", "text_encoder", "recipe", "pixel_mean", "pixel_std")},
    roi_heads=L(RegionCLIPROIHeads)(
        region_features=_student.region_features,
        box_predictor=L(RegionCLIPOutputLayers)(
            input_dim=384,
            # the proposals' "logits" are scores of 0..1, so that this root is a mean of two probabilities
            postprocessor=L(RegionPostProcessor)(score_fusion="sqrt_logit", score_threshold=0.01),
            temperature=_student.temperature,
            regress_boxes=True,
            focal_gamma=0.5,
            background_weight=0.2,
        ),
        batch_size_per_image=16,
        proposal_matcher=L(Matcher)(thresholds=[0.5], labels=[0, 1]),
    ),
    offline_rpn=L(DetectorProposals)(detector="default", max_boxes=100),
    regions="rpn",
)

_test_mapper = L(DatasetMapper)(
    is_train=False,
    augmentations=_pretraining.test.coco_mini_val.loader.mapper.augmentations,
    precomputed_proposal_topk=100,
)
dataloader = dict(
    train=L(build_train_loader)(
        sources=[
            L(TrainSource)(
                name="coco_mini_train",
                records=_records(captions_only=False),
                mapper=L(DatasetMapper)(
                    is_train=True,
                    augmentations=_pair_mapper.augmentations,
                    exclude_names=_others,
                    precomputed_proposal_topk=40,
                ),
            )
        ],
        total_batch_size=4,
        num_workers=0,
        seed=0,
    ),
    test=_coco_ovd("coco_mini_val", mapper=_test_mapper),
)
dataloader["test"]["coco_mini_val_ovd"]["loader"].dataset = L(with_proposals)(
    dataset="coco_mini_val",
    path="output/regionclip_mini/proposals_coco_mini_val.safetensors",
    max_boxes=100,
    captions_only=False,
)
optimizer.lr = 5e-5
train.max_iter = 400
train.init_checkpoint = "zoo://regionclip_mini"  # or output/regionclip_mini/model_final.pth
train.output_dir = "output/regionclip_mini_transfer"
