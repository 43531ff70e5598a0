"""RegionCLIP's pretraining on CC3M, RN50 (arXiv 2112.09106, section 4.1; the released pretrain.sh).

Reproduces: the pretraining behind 31.4 AP50 of COCO's novel classes after transfer. Not run here: no CLIP weights were at hand.
Cost: about 6 days on 32 V100 (microsoft/RegionCLIP, issue 50): 600,000 steps of 96 pictures.
Command: python tools/train_net.py --config-file configs/regionclip/pretrain/cc3m_rn50.py --num-gpus 32
  model.text_encoder.pretrained=RN50.pt model.text_encoder.allow_pickle=True

Files below $DETECTRON2_DATASETS, made once:
  regionclip/clip_rn50.safetensors    tools/convert_weights.py --from clip RN50.pt OUT --allow-pickle
  regionclip/rpn_lvis_866.safetensors tools/convert_weights.py --from regionclip-rpn rpn_lvis_866.pth OUT
  regionclip/coco_nouns_rn50.pth      tools/dump_text_embeddings.py --concepts coco_nouns_4764.txt --pretrained RN50.pt ... OUT
  cc3m/*.tar                          webdataset shards (or TsvShards for the official tsv files)
What differs from the official run: the released code cuts captions at 77 tokens without an end token, here the end token stays;
each process shuffles through a buffer.
"""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T
from detectron2.modeling.poolers import ROIPooler
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

from openvocab.data import build_test_loader, datasets_root
from openvocab.engine import build_sgd
from openvocab.text import CLIPTextEncoder
from regionclip.modeling import ModifiedResNet, RegionFeatures, build_offline_rpn
from regionclip.pretraining import CLIPTeacher, PairMapper, RegionCLIPPretraining, TarShards, WithWeights, build_pair_loader
from regionclip.pretraining.evaluate import RegionAccuracyEvaluator

from ...common.train import train

_files = datasets_root() / "regionclip"
_BICUBIC = 3


def _tower(depth="RN50", pooler=14, freeze_at=2):
    """Backbone and region features; the pooler is twice the attention pool's side, which layer4 halves."""
    return dict(
        backbone=L(ModifiedResNet)(depth=depth, freeze_at=freeze_at),
        region_features=L(RegionFeatures)(
            pooler=L(ROIPooler)(output_size=pooler, scales=[1 / 16], sampling_ratio=0, pooler_type="ROIAlignV2")
        ),
    )


model = L(RegionCLIPPretraining)(
    **_tower(),
    text_encoder=L(CLIPTextEncoder)(model="RN50", quick_gelu=True, pretrained=None, allow_pickle=False),
    teacher=L(CLIPTeacher)(
        **_tower(),
        weights=str(_files / "clip_rn50.safetensors"),
        concept_embeddings=str(_files / "coco_nouns_rn50.pth"),
    ),
    proposals=L(WithWeights)(
        network=L(build_offline_rpn)(kind="fpn", nms_thresh=0.5, post_nms_topk=300),
        weights=str(_files / "rpn_lvis_866.safetensors"),
        prefix="offline_rpn.",
    ),
    concept_embeddings=str(_files / "coco_nouns_rn50.pth"),  # the pool of COCO Captions, also for CC3M
    recipe="regionclip",
    temperature=0.01,
    concept_threshold=0.1,
    sample_regions=100,
    gather="images",
    global_frame="padded",
)

dataloader = dict(
    train=L(build_pair_loader)(
        shards=L(TarShards)(paths=[str(datasets_root() / "cc3m" / "*.tar")]),
        mapper=L(PairMapper)(
            is_train=True,
            given=None,
            augmentations=[
                L(T.ResizeShortestEdge)(short_edge_length=800, max_size=1333, interp=_BICUBIC),
                L(T.RandomFlip)(),  # also where a caption speaks of left and right, as the official code
            ],
        ),
        total_batch_size=96,  # 3 a GPU
        num_workers=4,
        seed=0,
        buffer_size=32000,
    ),
    test=dict(
        coco_2017_val=dict(
            loader=L(build_test_loader)(
                dataset="coco_2017_val",
                mapper=L(PairMapper)(
                    is_train=False,
                    given="annotations",
                    augmentations=[L(T.ResizeShortestEdge)(short_edge_length=800, max_size=1333)],
                ),
                num_workers=2,
            ),
            evaluator=L(RegionAccuracyEvaluator)(dataset_name="coco_2017_val"),
        )
    ),
)

optimizer = L(build_sgd)(lr=0.002, momentum=0.9, weight_decay=1e-4)
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(values=[1.0, 0.1, 0.01], num_updates=600_000, milestones=[300_000, 525_000]),
    warmup_factor=0.001,
    warmup_length=1000 / 600_000,
)
train.output_dir = "output/regionclip_cc3m_rn50"
train.init_checkpoint = str(_files / "clip_rn50.safetensors")
train.max_iter = 600_000
train.reference_batch_size = 96
train.clip_grad = dict(max_norm=5.0, per_parameter=True)
train.checkpointer = dict(period=5000, max_to_keep=3)
train.eval_period = 20_000
train.log_period = 100
train.best_metric = ""
