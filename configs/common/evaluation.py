"""Test sets with the protocols of the benchmarks, to be put into `dataloader.test`; keys of results: docs/evaluation.md.

    from ..common.evaluation import coco_ovd, lvis, odinw
    dataloader.test = {**coco_ovd(), **lvis("lvis_v1_minival"), **odinw(13)}

`with_true_boxes` turns such a set into one of given boxes.
"""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from openvocab.data import DatasetMapper, build_test_loader
from openvocab.evaluation import (
    COCOOVDEvaluator,
    LVISEvaluator,
    LVISFixedEvaluator,
    ODinWEvaluator,
    find_odinw,
    odinw_records,
    odinw_wording,
)
from openvocab.vocabulary import Vocabulary

from .data import test_mapper

OVD_NAMES = {"generalised": "coco_ovd_65", "novel": "coco_ovd_17", "base": "coco_ovd_48"}


def coco_ovd(dataset="coco_2017_val", protocol="generalised", mapper=test_mapper):
    """COCO-OVD: the mapper asks for the names of the protocol, and only for those."""
    mapper = {**mapper, "vocabulary": L(Vocabulary.builtin)(name=OVD_NAMES[protocol])}
    entry = dict(
        loader=L(build_test_loader)(dataset=dataset, mapper=mapper, num_workers=2),
        evaluator=L(COCOOVDEvaluator)(dataset_name=dataset, protocol=protocol),
    )
    return {f"{dataset}_ovd" if protocol == "generalised" else f"{dataset}_ovd_{protocol}": entry}


def lvis(dataset="lvis_v1_val", fixed=False, mapper=test_mapper):
    """LVIS with 300 detections a picture; or fixed AP, for a model that keeps all it finds."""
    entry = dict(
        loader=L(build_test_loader)(dataset=dataset, mapper=mapper, num_workers=2),
        evaluator=L(LVISFixedEvaluator if fixed else LVISEvaluator)(dataset_name=dataset),
    )
    return {f"{dataset}_fixed" if fixed else dataset: entry}


def with_true_boxes(tests, exclude=()):
    """The same test sets, whose pictures bring their true boxes as "instances", for a model that names given boxes.

    Crowds and boxes of the names in `exclude` are left out, and those names are not asked for. (The mapper is that of training,
    with the resize of testing and nothing drawn at random: it is the one that keeps boxes.)
    """
    kept = {"is_train": True, "keep_empty": True, "vocabulary": None, "exclude_names": list(exclude)}
    changed = {}
    for name, entry in tests.items():
        loader = {**entry["loader"], "mapper": {**entry["loader"]["mapper"], **kept}}
        changed[f"{name}_given"] = {**entry, "loader": loader}
    return changed


def odinw(suite=13, mapper=test_mapper, datasets=None, engineered=False):
    """ODinW-13 or -35: the sets below $DETECTRON2_DATASETS/odinw, or those given as {set: data set}, in one pass.

    `engineered`: with the prompts that GLIP's configs write for some sets ("stingray which is flat and round").
    """
    found = datasets or L(find_odinw)(suite=suite)
    if engineered:
        mapper = {**mapper, "wording": L(odinw_wording)(datasets=found)}
    entry = dict(
        loader=L(build_test_loader)(dataset=L(odinw_records)(datasets=found), mapper=mapper, num_workers=2),
        evaluator=L(ODinWEvaluator)(suite=suite, datasets=found),
    )
    return {f"odinw{suite}_engineered" if engineered else f"odinw{suite}": entry}
