"""Data sets of a hub as values, and their loader."""

from .dataset import Hub, HubDataset, hub_contexts
from .derived import DerivedSet
from .loader import HubTrainLoader, build_hub_loader
from .lvis import lvis_image_counts
from .mapper import HubMapper
from .ratios import LossDriven
from .records import hub_test_records, train_records
from .stream import GROUPINGS, HubStream

__all__ = [
    "GROUPINGS",
    "DerivedSet",
    "Hub",
    "HubDataset",
    "HubMapper",
    "HubStream",
    "HubTrainLoader",
    "LossDriven",
    "build_hub_loader",
    "hub_contexts",
    "hub_test_records",
    "lvis_image_counts",
    "train_records",
]
