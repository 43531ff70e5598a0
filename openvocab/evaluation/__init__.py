"""Metrics and their names."""

from .captions import CaptionEvaluator
from .coco import COCODetectionEvaluator, COCOOVDEvaluator
from .flickr30k import Flickr30kEvaluator
from .keys import flatten, mean_of
from .links import LinkEvaluator
from .lvis_v1 import LVISEvaluator, LVISFixedEvaluator
from .odinw import ODinWEvaluator, find_odinw, odinw_records, odinw_wording, summarize_odinw
from .referring import ReferringMaskEvaluator
from .run import evaluate, evaluation_mode, print_results
from .vqa import VQAEvaluator

__all__ = [
    "COCODetectionEvaluator",
    "COCOOVDEvaluator",
    "CaptionEvaluator",
    "Flickr30kEvaluator",
    "LVISEvaluator",
    "LVISFixedEvaluator",
    "LinkEvaluator",
    "ODinWEvaluator",
    "ReferringMaskEvaluator",
    "VQAEvaluator",
    "evaluate",
    "evaluation_mode",
    "find_odinw",
    "flatten",
    "mean_of",
    "odinw_records",
    "odinw_wording",
    "print_results",
    "summarize_odinw",
]
