"""A tiny student and its surroundings, the same in every process."""

from __future__ import annotations

import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes, Instances

from openvocab.text import HashedTextEncoder
from regionclip.modeling.clip_resnet import ModifiedResNet
from regionclip.modeling.region_features import RegionFeatures
from regionclip.pretraining import CLIPTeacher, ConceptPool, RegionCLIPPretraining, embed_concepts

DIM = 16
CONCEPTS = ConceptPool(("dog", "cat", "red umbrella", "table", "zebra"), (5, 4, 3, 2, 1))
CAPTIONS = ["a dog at a table", "a cat", "a red umbrella", "two zebras and a dog"]


def tower(seed: int) -> tuple[ModifiedResNet, RegionFeatures]:
    torch.manual_seed(seed)
    backbone = ModifiedResNet(blocks=(1, 1, 1, 1), width=8, embed_dim=DIM, side=2, freeze_at=0)
    pooler = ROIPooler(output_size=4, scales=(1 / 16,), sampling_ratio=2, pooler_type="ROIAlignV2")
    return backbone, RegionFeatures(pooler=pooler)


def student(**options) -> RegionCLIPPretraining:
    encoder = HashedTextEncoder(dim=DIM)
    backbone, features = tower(0)
    if "teacher" not in options:
        names = dict(zip(("backbone", "region_features"), tower(1), strict=True))
        options["teacher"] = CLIPTeacher(**names, concept_embeddings=embed_concepts(CONCEPTS, encoder), temperature=0.1)
    if "concept_embeddings" not in options:
        options.setdefault("concepts", CONCEPTS)
    pixels = {"pixel_mean": (127.0,) * 3, "pixel_std": (64.0,) * 3}
    settings = {"temperature": 0.1, "concept_threshold": 0.0, "recipe": "own", **pixels, **options}
    return RegionCLIPPretraining(backbone=backbone, region_features=features, text_encoder=encoder, **settings)


def boxes(count: int, seed: int) -> Boxes:
    corners = torch.rand(count, 2, generator=torch.Generator().manual_seed(seed)) * 32
    return Boxes(torch.cat([corners, corners + 24], dim=1))


def batch(regions: tuple[int, ...] = (3, 2), captions: bool = True) -> list[dict]:
    rows = []
    for i, count in enumerate(regions):
        image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(i))
        row = {"image": image, "file_name": f"{i}.jpg", "proposals": Instances((64, 64), proposal_boxes=boxes(count, i))}
        rows.append({**row, "captions": [CAPTIONS[i]] if captions else []})
    return rows
