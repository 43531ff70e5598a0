"""Metrics and their names."""

from .coco import COCODetectionEvaluator
from .keys import flatten, mean_of
from .run import evaluate, evaluation_mode, print_results

__all__ = ["COCODetectionEvaluator", "evaluate", "evaluation_mode", "flatten", "mean_of", "print_results"]
