"""Network parts of the hub."""

from .adapters import DatasetVectors, KernelAdapter, QueryAdapter, RegionWordAlignment, SemanticBias
from .boxes import initial_boxes, to_pixels
from .decoder import HUB_DECODER_REGISTRY, DecoderStage, DynamicConv, DynamicHead, KernelContext, StageOutput, build_decoder
from .detector import DetectionHub
from .detr import DetrDecoder
from .embeddings import CategoryEmbeddings
from .hub import ARMS, HubAdapter, HubContext, read_metadata
from .labels import LabelSpace
from .ledger import LossLedger
from .losses import SetCriterion
from .matcher import HungarianMatcher
from .table import TableTextEncoder
from .targets import Targets

__all__ = [
    "ARMS",
    "HUB_DECODER_REGISTRY",
    "CategoryEmbeddings",
    "DatasetVectors",
    "DecoderStage",
    "DetectionHub",
    "DetrDecoder",
    "DynamicConv",
    "DynamicHead",
    "HubAdapter",
    "HubContext",
    "HungarianMatcher",
    "KernelAdapter",
    "KernelContext",
    "LabelSpace",
    "LossLedger",
    "QueryAdapter",
    "RegionWordAlignment",
    "SemanticBias",
    "SetCriterion",
    "StageOutput",
    "TableTextEncoder",
    "Targets",
    "build_decoder",
    "initial_boxes",
    "read_metadata",
    "to_pixels",
]
