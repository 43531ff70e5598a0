"""A hub small enough for a test, with a hashed text encoder and random weights."""

from __future__ import annotations

import torch
from detectron2.structures import Boxes, Instances

from detection_hub import DatasetContext
from detection_hub.modeling import (
    CategoryEmbeddings,
    DetectionHub,
    DynamicHead,
    HubAdapter,
    HungarianMatcher,
    SetCriterion,
)
from openvocab.testing import TinyBackbone, tiny_picture
from openvocab.text import HashedTextEncoder

DIM, TEXT, STAGES, QUERIES = 16, 24, 2, 6
ANIMALS = DatasetContext.create("animals", ["cat", "dog", "zebra"], flags=["tight", "amodal"], sources=["animals_train"])
THINGS = DatasetContext.create("things", ["cup", "dog"], flags=["loose"])


def tiny_head(**changes: object) -> DynamicHead:
    options = {
        "strides": (4, 8, 16), "num_stages": STAGES, "dim": DIM, "num_heads": 4, "ffn_dim": 32, "dynamic_dim": 4, "pooled_size": 5,
        "zero_init_deltas": False,
    }  # fmt: skip
    return DynamicHead(**{**options, **changes})


def tiny_hub(**changes: object) -> HubAdapter:
    options = {"dim": DIM, "num_stages": STAGES, "num_heads": 4, "vector_dropout": 0, "flag_dropout": 0}
    options["datasets"] = [ANIMALS, THINGS]
    embeddings = CategoryEmbeddings(text_encoder=HashedTextEncoder(dim=TEXT))
    return HubAdapter(embeddings=changes.pop("embeddings", embeddings), **{**options, **changes})


def build_tiny(hub: HubAdapter | None | str = "full", seed: int = 0, **changes: object) -> DetectionHub:
    """Return the model; `hub` may be an arm's name, and `changes` replace arguments of `DetectionHub`."""
    torch.manual_seed(seed)
    parts = {
        "backbone": TinyBackbone(channels=DIM, first=2, last=4),
        "decoder": tiny_head(),
        "hub": tiny_hub(arm=hub) if isinstance(hub, str) else hub,
        "criterion": SetCriterion(matcher=HungarianMatcher()),
        "in_features": ("p2", "p3", "p4"),
        "num_queries": QUERIES,
        "initial_boxes": "grid",
        "pixel_mean": [127.0] * 3,
        "pixel_std": [128.0] * 3,
    }
    return DetectionHub(**{**parts, **changes})


def sample(dataset: str = "animals", seed: int = 0, boxes: int = 2, size: tuple[int, int] = (64, 96), **more: object) -> dict:
    """An input dict with a random picture and boxes of classes 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(boxes, 2, generator=generator) * 30
    truth = Instances(size)
    truth.gt_boxes = Boxes(torch.cat([corner, corner + 10 + 20 * torch.rand(boxes, 2, generator=generator)], dim=1))
    truth.gt_classes = torch.arange(boxes) % 2
    return {"image": tiny_picture(*size, seed), "dataset": dataset, "instances": truth, "file_name": f"{seed}.png", **more}


def awake(model: DetectionHub, seed: int = 1) -> DetectionHub:
    """Give everything that starts at zero a value, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.hub.parameters():
            if parameter.requires_grad:
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model
