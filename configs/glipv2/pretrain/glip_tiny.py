"""Pretraining of GLIP-T: detection (Objects365), gold grounding (Flickr30k, MDETR's mixture) and captions with a teacher's boxes.

Reproduces: GLIP-T of arXiv 2112.03857 by the released code's recipe (microsoft/GLIP): 46.6 AP on COCO val without
tuning (its README). Not run here: neither the data nor the time.
Cost: that of the paper, 32 V100; the time is not known to us.
Command: python tools/train_net.py --config-file configs/glipv2/pretrain/glip_tiny.py
    --num-gpus 32 model.text_encoder.source=bert-base model.text_encoder.config=null train.init_checkpoint=swin_t.safetensors
with an ImageNet Swin-T (tools/convert_weights.py --from swin), and below $DETECTRON2_DATASETS: objects365/, flickr30k/,
gqa/images, mdetr_annotations/, and cc3m/ and sbu/ with the pseudo_boxes.jsonl of tools/pseudo_boxes.py.

The paper's and the released code's: rates, decay, warm-up, clipping, moving average, batch, sizes, up to 85 absent names, boxes of
the teacher above 0.5, other captions packed around a caption. Ours: the shares of the sets and the number of steps, because the
copies that the released yaml of GLIP-T takes of each set are not in our sheets (1.46 M samples stand for one of 30 epochs;
glip_large.py has GLIP-L's copies); sentences over 256 tokens are left out, not cut off; no DropBlock; bfloat16.
"""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T
from fvcore.common.param_scheduler import MultiStepParamScheduler

from openvocab.data import CaptionPacking, DatasetMapper, ScoredBoxes, TokenBudget, TokenPromptSampler, build_train_loader
from openvocab.data.packing import captions_of
from openvocab.engine import build_adamw

from ...common.data import sources as _plain
from ...common.data import test_mapper as _rgb_mapper
from ...common.data import test_sets as _test_sets
from ...common.evaluation import lvis as _lvis
from ...common.schedule import warmed_up as _warmed_up
from ...common.train import train
from ..models.glip_tiny import model

_budget = L(TokenBudget)(max_tokens=256)
_train_mapper = L(DatasetMapper)(
    is_train=True,
    augmentations=[
        L(T.ResizeShortestEdge)(short_edge_length=(480, 560, 640, 720, 800), max_size=1333, sample_style="choice"),
        L(T.RandomFlip)(),  # "left" and "right" in sentences stay, as in the released code
    ],
    image_format="BGR",
    prompt=L(TokenPromptSampler)(budget=_budget, min_negatives=1, max_negatives=85, full_prob=0.5),
    budget=_budget,
)
_test_mapper = {**_rgb_mapper, "image_format": "BGR"}


def _sources(shares: dict[str, float]):
    """Data set -> share; sets with a teacher's boxes bring those it is sure of, and get other captions around theirs."""
    rows = _plain(shares, _train_mapper)
    for row in (r for r in rows if r.name.endswith("_pseudo")):
        row.mapper = L(CaptionPacking)(mapper=_train_mapper, captions=L(captions_of)(dataset=row.name), budget=_budget)
        row.select = L(ScoredBoxes)(min_score=0.5)
    return rows


_shares = {"objects365_train": 2, "flickr30k_train": 1, "goldg_mixed_train": 2, "cc3m_pseudo": 2, "sbu_pseudo": 1}

dataloader = dict(
    train=L(build_train_loader)(sources=_sources(_shares), total_batch_size=64, num_workers=4),
    test={**_test_sets("coco_2017_val", mapper=_test_mapper), **_lvis("lvis_v1_minival", fixed=True, mapper=_test_mapper)},
)
optimizer = L(build_adamw)(
    lr=1e-4,
    weight_decay=1e-4,
    norm_weight_decay=None,
    bias_lr_factor=2.0,
    # the released code takes for a bias what has "bias" anywhere in its name
    overrides={
        "text_encoder": dict(lr_factor=0.1),
        "alignment.bias": dict(lr_factor=2.0, weight_decay=0.0),
        "relative_position_bias_table": dict(lr_factor=2.0, weight_decay=0.0),
    },
)
train.max_iter = 684_000  # 30 epochs of 1.46 M samples, 64 a step
lr_multiplier = _warmed_up(
    L(MultiStepParamScheduler)(values=[1.0, 0.1, 0.01], milestones=[67, 89, 100]), length=2000 / train.max_iter, factor=0.001
)
train.output_dir = "output/glip_tiny_pretrain"
train.amp = dict(enabled=True, dtype="bfloat16")
train.clip_grad = dict(max_norm=1.0)
train.ema = dict(enabled=True, decay=0.999)
train.checkpointer = dict(period=5000, max_to_keep=3)
train.eval_period = 50_000
train.best_metric = "coco_2017_val/bbox/AP"
