"""RegionCLIP on coco_mini: the bridge as the image-level model and the teacher, its pooled half as the student.

To be cheap, everything up to the last convolution is frozen, and what it makes of each region is kept: the trainings then see maps,
not pictures.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence

import torch
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances
from regionclip_fitting import fit, mean_right, share_right
from torch import Tensor, nn

from openvocab.bridge import Bridge
from openvocab.data import get_records, read_image
from openvocab.errors import DataError
from openvocab.modeling import TimmBackbone
from openvocab.modeling.efficientnet_lite import PIXEL_MEAN, PIXEL_STD
from openvocab.vocabulary import Vocabulary
from regionclip.pretraining import (
    BridgeTeacher,
    ClassFreeBoxes,
    LabelTeacher,
    LiteRegionFeatures,
    PairMapper,
    RegionCLIPPretraining,
    bridge_text_encoder,
    embed_concepts,
    mini_concepts,
)

logger = logging.getLogger("claims")
TRAIN, TEST = "coco_mini_train", "coco_mini_val"
NAMES = Vocabulary.builtin("coco_ovd_65")
GROUPS = {g: [i for i, s in enumerate(NAMES.splits) if s == g] for g in ("novel", "base")}
CHANNELS, CELLS = 320, 7  # of a kept map
PROPOSALS, MIN_SIDE, SHORT_SIDE, TEMPERATURE = 12, 16, 416, 0.1
STEPS, PICTURES, RATE = 60, 8, 2e-4
LOSSES = {
    "full": {},
    "no distillation": {"distill_weight": 0.0},
    "no contrastive": {"contrast_weight": 0.0},
    "no image-text": {"image_text_weight": 0.0},
    "image-text alone": {"distill_weight": 0.0, "contrast_weight": 0.0},
    "true labels": {},
}


class AsIs(nn.Module):
    """The backbone of kept maps: there is nothing left to do."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"kept": x}


class KeptRegions(nn.Module):
    """What is left of `LiteRegionFeatures` on kept maps.

    A "picture" is the maps of its regions, one below the other, (320, 7 N, 7), the map of the whole picture last; the box of
    region i is [0, 7 i, 7, 7 i + 7]. A higher box stands for the whole picture.
    """

    def __init__(self, lite: LiteRegionFeatures) -> None:
        super().__init__()
        self.lite = copy.deepcopy(lite)
        self.lite.blocks.requires_grad_(False)

    def forward(self, features: Mapping[str, Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Encode boxes [(N_i, 4)]: (N, D)."""
        found = []
        for stacked, rows in zip(features["kept"], boxes, strict=True):
            maps = stacked.unflatten(1, (-1, CELLS)).transpose(0, 1)
            found.append(maps[(rows[:, 3] / CELLS).long() - 1])
        return torch.cat([self.lite.vectors(part) for part in torch.cat(found).split(256)])


def stack(maps: Tensor) -> Tensor:
    """Put maps (N, C, 7, 7) below each other: (C, 7 N, 7)."""
    return maps.transpose(0, 1).flatten(1, 2).contiguous()


def boxes_of_maps(count: int) -> Tensor:
    """Boxes (N, 4) of the first N maps of a stack."""
    top = torch.arange(count) * float(CELLS)
    return torch.stack([top * 0, top, top * 0 + CELLS, top + CELLS], dim=1)


class Photos:
    """coco_mini as kept maps.

    Args:
        quick: a few pictures.
        train, test: records in place of coco_mini's training pictures with captions, and its validation pictures.

    Raises:
        DataError: without coco_mini.
    """

    def __init__(self, *, quick: bool = False, train: list[dict] | None = None, test: list[dict] | None = None) -> None:
        train = [r for r in get_records(TRAIN) if r.get("captions")] if train is None else train
        test = get_records(TEST) if test is None else test
        self.steps, self.batch = (2, 2) if quick else (STEPS, PICTURES)
        self.text, self.concepts = bridge_text_encoder(), mini_concepts()
        self.concept_vectors = embed_concepts(self.concepts, self.text, recipe="article")
        self.bridge, self.detect = Bridge(text_encoder=self.text.encoder), ClassFreeBoxes()
        self.teacher = BridgeTeacher(bridge=self.bridge, concepts=self.concepts, temperature=TEMPERATURE)
        self.lite = LiteRegionFeatures(text_encoder=self.text).eval()
        self.trunk = TimmBackbone(name="tf_efficientnet_lite0", out_indices=[3], weights="package", freeze_at=6).eval()
        self.names = list(Vocabulary.builtin("coco").names)
        train, test = (train[:2], test[:3]) if quick else (train, test)
        self.pairs = [self.kept(r, "proposals") for r in train]
        self.labelled = [self.kept(r, "annotations") for r in train]
        asked = [self.asked(r) for r in test]
        self.test = [self.kept(r, "annotations") for r in asked if r["annotations"]]
        del self.trunk, self.detect

    # ---- pictures -------------------------------------------------------------------------------------------------

    def asked(self, record: dict) -> dict:
        """The record with the boxes that count: no crowds, 16 pixels wide and high, of the 65 names, which number their classes."""
        rows = [
            {**a, "category_id": NAMES.index(self.names[a["category_id"]])}
            for a in record["annotations"]
            if not a.get("iscrowd", 0) and min(a["bbox"][2:]) >= MIN_SIDE and self.names[a["category_id"]] in NAMES
        ]
        single = len({a["category_id"] for a in record["annotations"]}) == 1 and bool(rows)
        return {**record, "annotations": rows, "single": single}

    @torch.no_grad()
    def kept(self, record: dict, given: str) -> dict:
        """Run what is frozen on the regions of a picture, and make a model input of the maps (see `KeptRegions`)."""
        if given == "proposals":
            boxes, _ = self.detect(torch.tensor(read_image(record["file_name"])).permute(2, 0, 1))
            record = {**record, "proposal_boxes": boxes[:PROPOSALS].numpy()}
        resize = [T.ResizeShortestEdge(SHORT_SIDE, 1333)]
        x = PairMapper(is_train=False, given=given, augmentations=resize)(record)
        image, found = x["image"], x["proposals"]
        boxes = torch.cat([found.proposal_boxes.tensor, torch.tensor([[0.0, 0.0, image.shape[2], image.shape[1]]])])
        pixels = (image.float() - torch.tensor(PIXEL_MEAN).view(3, 1, 1)) / torch.tensor(PIXEL_STD).view(3, 1, 1)
        maps = self.lite.maps(self.trunk(pixels[None]), [boxes]).half()
        vectors = self.bridge.encode_pixels(self.bridge.crop(image, boxes))[:-1]
        places = boxes_of_maps(len(boxes) - 1)
        fields = {"teacher_vectors": vectors, **({"gt_classes": found.gt_classes} if found.has("gt_classes") else {})}
        stacked = stack(maps)
        proposals = Instances(tuple(stacked.shape[1:]), proposal_boxes=Boxes(places), **fields)
        more = {"captions": record.get("captions", ()), "single": record.get("single", False)}
        return {"image": stacked, "proposals": proposals, "vocabulary": NAMES, **more}

    # ---- models ---------------------------------------------------------------------------------------------------

    def pretrained(self, arm: str, seed: int, **settings: object) -> RegionCLIPPretraining:
        """Make the model of an arm."""
        options: dict[str, object] = {
            "concept_embeddings": self.concept_vectors,
            "concept_threshold": 0.1,
            "sample_regions": 6,
            "global_frame": "image",
            "recipe": "article",
            "temperature": TEMPERATURE,
            "pixel_mean": [0.0] * CHANNELS,
            "pixel_std": [1.0] * CHANNELS,
            **LOSSES.get(arm, {}),
        }
        if arm == "true labels":
            options["teacher"] = LabelTeacher(names=self.names, concepts=self.concepts)
        else:
            options["teacher"] = self.teacher
        features = KeptRegions(self.lite)
        model = RegionCLIPPretraining(backbone=AsIs(), region_features=features, text_encoder=self.text, **options)
        if arm not in LOSSES:
            return model.eval()
        inputs = self.labelled if arm == "true labels" else self.pairs
        return fit(model, inputs, **{"steps": self.steps, "batch": self.batch, "lr": RATE, "seed": seed, **settings})

    # ---- numbers --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def named(self, student: RegionCLIPPretraining) -> dict[str, float]:
        """Zero-shot accuracy on given boxes, and on the whole of pictures that show one class."""
        pairs, whole = [], []
        for x in self.test:
            true = x["proposals"].gt_classes.tolist()
            pairs += zip(student([x])[0]["instances"].pred_classes.tolist(), true, strict=True)
            if x["single"]:
                height, width = x["image"].shape[1:]
                frame = Instances((height, width), proposal_boxes=Boxes(torch.tensor([[0.0, 0.0, width, height]])))
                whole.append((int(student([{**x, "proposals": frame}])[0]["instances"].pred_classes[0]), true[0]))
        result = {"photos: picture": share_right(whole), "photos: region": share_right(pairs), "photos: macro": mean_right(pairs)}
        return result | {f"photos: {group}": mean_right(pairs, members) for group, members in GROUPS.items()}

    def named_crops(self) -> float:
        """Accuracy of the bridge on cut-out regions."""
        words = self.bridge.encode(list(NAMES.names))
        pairs = []
        for x in self.test:
            said = (x["proposals"].teacher_vectors @ words.t()).argmax(dim=1)
            pairs += zip(said.tolist(), x["proposals"].gt_classes.tolist(), strict=True)
        return share_right(pairs)


def load_photos(quick: bool) -> Photos | None:
    """The photos, or None, and a sentence, where there are none."""
    try:
        return Photos(quick=quick)
    except DataError as error:
        logger.warning("the part on photos is left out: %s", error)
        return None
