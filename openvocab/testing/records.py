"""Scenes as detectron2 dicts: with the picture inside, no file is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .conventions import BoxRule, get_rule
from .language import GroundedText
from .scenes import Scene, SceneObject
from .taxonomies import Taxonomy, get_taxonomy

Rule = str | BoxRule | Callable[[SceneObject], BoxRule]


def encode_mask(mask: np.ndarray) -> dict:
    """Return a mask (H, W) as COCO's compressed run lengths, json-ready."""
    import pycocotools.mask as coco_mask

    runs = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(n) for n in runs["size"]], "counts": runs["counts"].decode("ascii")}


def box_of(thing: SceneObject, rule: Rule) -> list[float]:
    """Return the object's box under a rule (or under what a function says its rule is), XYXY pixels."""
    chosen = rule(thing) if callable(rule) and not isinstance(rule, BoxRule) else get_rule(rule)
    return list(chosen(thing.full_box, thing.visible_box, thing.full.shape))


def _xywh(box: Sequence[float]) -> list[float]:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def annotate(scene: Scene, taxonomy: str | Taxonomy = "color_shape", rule: Rule = "visible") -> list[dict]:
    """Return the annotations of the objects that a taxonomy labels.

    Args:
        scene: the scene.
        taxonomy: its name, or one of your own.
        rule: a box rule, its name, or a function from an object to its rule (`ConventionSet.rule_of`).

    Returns:
        dicts with "bbox" (XYWH pixels, by the rule), "bbox_mode", "category_id" (position in the taxonomy's names),
        "segmentation" (run lengths of the visible pixels, whatever the box rule), "area" (how many those are),
        "iscrowd" 0, "attributes" {color, shape, size}, "object" (position in the scene's objects).
    """
    from detectron2.structures import BoxMode

    names, result = get_taxonomy(taxonomy), []
    for position, thing in enumerate(scene.objects):
        label = names.label(thing)
        if label is None:
            continue
        result.append(
            {
                "bbox": _xywh(box_of(thing, rule)),
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": label,
                "segmentation": encode_mask(thing.visible),
                "area": int(thing.visible.sum()),
                "iscrowd": 0,
                "attributes": {"color": thing.color, "shape": thing.shape, "size": thing.size},
                "object": position,
            }
        )
    return result


def _base(scene: Scene, name: str) -> dict:
    height, width = scene.image.shape[:2]
    return {"image": scene.image, "height": height, "width": width, "image_id": scene.index, "dataset_source": name}


def to_record(
    scene: Scene, taxonomy: str | Taxonomy = "color_shape", rule: Rule = "visible", *, name: str = "shapes"
) -> dict:
    """Return a detectron2 dict with the picture itself under "image" ((H, W, 3) uint8 RGB) in place of "file_name".

    Besides: "height", "width", "image_id" (the scene's index), "annotations" (see `annotate`), "dataset_source".
    """
    return {**_base(scene, name), "annotations": annotate(scene, taxonomy, rule)}


def to_grounding_record(scene: Scene, text: GroundedText, rule: Rule = "visible", *, name: str = "shapes") -> dict:
    """Return a grounding dict: as `to_record`, with "caption" and "phrases"; "category_id" is a phrase's position.

    An object that two phrases name is there twice.
    """
    from detectron2.structures import BoxMode

    annotations = [
        {
            "bbox": _xywh(box_of(scene.objects[i], rule)),
            "bbox_mode": BoxMode.XYWH_ABS,
            "category_id": number,
            "segmentation": encode_mask(scene.objects[i].visible),
            "area": int(scene.objects[i].visible.sum()),
            "iscrowd": 0,
            "object": i,
        }
        for number, phrase in enumerate(text.phrases)
        for i in phrase.objects
    ]
    return {**_base(scene, name), "caption": text.text, "phrases": text.spans, "annotations": annotations}


def to_model_input(record: dict, taxonomy: str | Taxonomy | None = None) -> dict:
    """Turn a record with its picture inside into what models take, without files and without augmentation.

    Args:
        record: from `to_record` (give the same taxonomy) or `to_grounding_record`.
        taxonomy: becomes "vocabulary"; a grounding record needs none, its "caption" is taken.

    Returns:
        {"image": (3, H, W) uint8 RGB tensor, "height", "width", "image_id", "dataset", "vocabulary" or "caption",
        "instances": gt_boxes XYXY pixels, gt_classes, gt_masks (BitMasks), "ignore_boxes": (0, 4)}.
    """
    import torch

    result = {
        "image": torch.from_numpy(np.ascontiguousarray(record["image"].transpose(2, 0, 1))),
        "height": record["height"],
        "width": record["width"],
        "image_id": record["image_id"],
        "dataset": record["dataset_source"],
        "instances": _instances(record),
        "ignore_boxes": torch.zeros(0, 4),
    }
    if "phrases" in record:
        from openvocab.prompting import Caption

        phrases = tuple(tuple((s, e) for s, e in spans) for spans in record["phrases"])
        return {**result, "caption": Caption(record["caption"], phrases)}
    return {**result, "vocabulary": get_taxonomy("color_shape" if taxonomy is None else taxonomy).vocabulary()}


def _instances(record: dict) -> object:
    import pycocotools.mask as coco_mask
    import torch
    from detectron2.structures import BitMasks, Boxes, Instances

    size = (record["height"], record["width"])
    annotations = record["annotations"]
    boxes = torch.tensor([a["bbox"] for a in annotations], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    masks = np.zeros((len(annotations), *size), dtype=bool)
    for i, annotation in enumerate(annotations):
        masks[i] = coco_mask.decode(annotation["segmentation"])
    instances = Instances(size)
    instances.gt_boxes = Boxes(boxes)
    instances.gt_classes = torch.tensor([a["category_id"] for a in annotations], dtype=torch.int64)
    instances.gt_masks = BitMasks(torch.from_numpy(masks))
    return instances
