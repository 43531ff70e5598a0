"""Data sets by name, mappers, and loaders."""

from .budget import BadSampleBudget
from .catalog import datasets_root, ensure_registered, get_records, get_vocabulary
from .few_shot import FewShot
from .folders import register_coco_folder, register_from_yaml, register_grounding_folder, register_tsv_folder
from .image import read_image
from .known_sets import register_odinw, register_shared
from .language_sets import CaptionMapper, QuestionMapper, register_captions_folder, register_vqa_folder
from .loader import TrainLoader, TrainSource, build_test_loader, build_train_loader
from .mapper import DatasetMapper
from .packing import CaptionPacking
from .prompts import NameChanges, PromptSampler
from .scores import ScoredBoxes
from .token_budget import TokenBudget, TokenPromptSampler

__all__ = [
    "BadSampleBudget",
    "CaptionMapper",
    "CaptionPacking",
    "DatasetMapper",
    "FewShot",
    "NameChanges",
    "PromptSampler",
    "QuestionMapper",
    "ScoredBoxes",
    "TokenBudget",
    "TokenPromptSampler",
    "TrainLoader",
    "TrainSource",
    "build_test_loader",
    "build_train_loader",
    "datasets_root",
    "ensure_registered",
    "get_records",
    "get_vocabulary",
    "read_image",
    "register_captions_folder",
    "register_coco_folder",
    "register_from_yaml",
    "register_grounding_folder",
    "register_odinw",
    "register_shared",
    "register_tsv_folder",
    "register_vqa_folder",
]
