"""RegionCLIP's pretraining: concepts, teachers, losses, data, and the meta-architecture."""

from .captions import captions_of, load_caption_records
from .concepts import ConceptPool, build_pool, embed_concepts
from .evaluate import BridgeRegionNamer, RegionAccuracyEvaluator
from .lite import CentredTextEncoder, LiteRegionFeatures, bridge_text_encoder, mini_concepts
from .loader import PairLoader, build_pair_loader
from .mapper import PairMapper
from .model import RegionCLIPPretraining, RegionTeacher
from .proposals import ClassFreeBoxes, DetectorProposals, add_proposals, cache_proposals, with_proposals
from .shards import TarShards, TsvShards
from .teachers import BridgeTeacher, CLIPTeacher, LabelTeacher, WithWeights

__all__ = [
    "BridgeRegionNamer",
    "BridgeTeacher",
    "CLIPTeacher",
    "CentredTextEncoder",
    "ClassFreeBoxes",
    "ConceptPool",
    "DetectorProposals",
    "LabelTeacher",
    "LiteRegionFeatures",
    "PairLoader",
    "PairMapper",
    "RegionAccuracyEvaluator",
    "RegionCLIPPretraining",
    "RegionTeacher",
    "TarShards",
    "TsvShards",
    "WithWeights",
    "add_proposals",
    "bridge_text_encoder",
    "build_pair_loader",
    "build_pool",
    "cache_proposals",
    "captions_of",
    "embed_concepts",
    "load_caption_records",
    "mini_concepts",
    "with_proposals",
]
