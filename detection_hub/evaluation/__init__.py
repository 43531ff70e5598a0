"""Every data set of a hub by its own evaluator, in one run; and what happens under another data set's context."""

from detection_hub.data.dataset import EVALUATORS

from .evaluators import build_hub_evaluator
from .run import hub_test, hub_test_sets
from .swap import swap_test

__all__ = ["EVALUATORS", "build_hub_evaluator", "hub_test", "hub_test_sets", "swap_test"]
