"""`Detections`: what was found in one picture, as a value that checks itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from openvocab.errors import DataError, missing

if TYPE_CHECKING:
    from detectron2.structures import Instances
    from PIL.Image import Image

ROWS_SHOWN = 10


class Detection(NamedTuple):
    """One box: its name, its score in 0..1, and (x1, y1, x2, y2) in pixels."""

    name: str
    score: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True, eq=False, repr=False)
class Detections:
    """N boxes in one picture, best first (equal scores keep their order).

    Attributes:
        boxes: (N, 4) float32, absolute XYXY pixels of the original picture.
        scores: (N,) float32 in 0..1.
        names: N strings.
        size: (height, width) of the picture in pixels.
        classes: (N,) int64, places in `vocabulary`; worked out from `names` when not given.
        vocabulary: the K names that were looked for; by default those that were found.
        masks: optional (N, height, width) bool.
        image: optional (height, width, 3) uint8 RGB, to draw on.
        caption: the sentence, if a sentence was grounded.
        phrases: then, for each of the K names, its character spans [start, end) in the caption.

    The arrays are read-only copies.

    Raises:
        DataError: if shapes do not belong together, a box is not finite or inside out, or a score is outside 0..1.
    """

    boxes: np.ndarray
    scores: np.ndarray
    names: list[str]
    size: tuple[int, int]
    classes: np.ndarray | None = None
    vocabulary: tuple[str, ...] = ()
    masks: np.ndarray | None = None
    image: np.ndarray | None = field(default=None, compare=False)
    caption: str | None = None
    phrases: tuple[tuple[tuple[int, int], ...], ...] = ()

    def __post_init__(self) -> None:
        names = [str(n) for n in self.names]
        vocabulary = tuple(self.vocabulary) or tuple(dict.fromkeys(names))
        boxes = np.array(self.boxes, dtype=np.float32)
        values: dict[str, Any] = {
            "boxes": boxes if len(boxes) else boxes.reshape(0, 4),
            "scores": np.array(self.scores, dtype=np.float32),
            "classes": _classes(names, vocabulary) if self.classes is None else np.array(self.classes, dtype=np.int64),
        }
        if self.masks is not None:
            values["masks"] = np.array(self.masks, dtype=bool)
        size = (int(self.size[0]), int(self.size[1]))
        _check(names=names, vocabulary=vocabulary, size=size, image=self.image, **values)
        order = np.argsort(-values["scores"], kind="stable")
        values = {key: value[order] for key, value in values.items()}
        for array in values.values():
            array.setflags(write=False)
        values.update(names=[names[i] for i in order], size=size, vocabulary=vocabulary)
        for key, value in values.items():
            object.__setattr__(self, key, value)

    # ---- reading --------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Detection]:
        for name, score, box in zip(self.names, self.scores.tolist(), self.boxes.tolist(), strict=True):
            yield Detection(name, score, tuple(box))

    def __getitem__(self, index: slice | Sequence[int] | Sequence[bool] | np.ndarray) -> Detections:
        """Return the chosen ones: `d[:5]`, `d[d.scores > 0.5]`, `d[[0, 3]]`."""
        if isinstance(index, (int, np.integer)):
            index = [index]
        chosen = np.arange(len(self))[np.asarray(index) if not isinstance(index, slice) else index].astype(np.int64)
        return replace(
            self,
            boxes=self.boxes[chosen],
            scores=self.scores[chosen],
            names=[self.names[i] for i in chosen],
            classes=self.classes[chosen],
            masks=None if self.masks is None else self.masks[chosen],
        )

    def filter(self, threshold: float) -> Detections:
        """Return those with a score of at least `threshold`."""
        return self[self.scores >= threshold]

    def distinct(self, iou: float = 0.7) -> Detections:
        """Return the best of boxes that overlap by more than `iou`, whatever their names: one name a thing."""
        import torch
        from torchvision.ops import nms

        boxes, scores = torch.from_numpy(self.boxes.copy()), torch.from_numpy(self.scores.copy())
        return self[np.sort(nms(boxes, scores, iou).numpy())]

    def spans(self, index: int) -> tuple[tuple[int, int], ...]:
        """Character spans in the caption of the phrase that detection `index` belongs to; () without a caption."""
        return tuple(self.phrases[self.classes[index]]) if self.phrases else ()

    def table(self, rows: int | None = None) -> str:
        """Return a text table: name, score, x1 y1 x2 y2 in pixels; at most `rows` of them."""
        if not len(self):
            return "nothing found"
        shown = list(self)[:rows]
        width = max(4, *(len(d.name) for d in shown)) if shown else 4
        lines = [f"{'name':<{width}}  score      x1      y1      x2      y2"]
        lines += [f"{d.name:<{width}}  {d.score:.3f}  " + " ".join(f"{v:7.1f}" for v in d.box) for d in shown]
        if len(shown) < len(self):
            lines.append(f"... and {len(self) - len(shown)} more")
        return "\n".join(lines)

    def __repr__(self) -> str:
        height, width = self.size
        head = f"Detections({len(self)} in a picture of {width} x {height} px)"
        return f"{head}\n{self.table(ROWS_SHOWN)}" if len(self) else head

    # ---- other forms ----------------------------------------------------------------------------------------------

    @staticmethod
    def from_instances(instances: Instances, vocabulary: Sequence[str], **fields: Any) -> Detections:
        """Turn a detectron2 model's output into a value.

        Args:
            instances: `pred_boxes`, `scores`, `pred_classes` (places in `vocabulary`) and maybe `pred_masks` (N, H, W).
            vocabulary: K names.
            fields: `image`, `caption`, `phrases`.
        """
        instances = instances.to("cpu")
        classes = instances.pred_classes.numpy()
        return Detections(
            boxes=instances.pred_boxes.tensor.detach().float().numpy(),
            scores=instances.scores.detach().float().numpy(),
            names=[vocabulary[i] for i in classes],
            size=instances.image_size,
            classes=classes,
            vocabulary=tuple(vocabulary),
            masks=instances.pred_masks.detach().numpy() if instances.has("pred_masks") else None,
            **fields,
        )

    def to_instances(self) -> Instances:
        """Return `Instances`: `pred_boxes`, `scores`, `pred_classes` (places in `vocabulary`), maybe `pred_masks`."""
        import torch
        from detectron2.structures import Boxes, Instances

        result = Instances(self.size)
        result.pred_boxes = Boxes(torch.from_numpy(self.boxes.copy()))
        result.scores = torch.from_numpy(self.scores.copy())
        result.pred_classes = torch.from_numpy(self.classes.copy())
        if self.masks is not None:
            result.pred_masks = torch.from_numpy(self.masks.copy())
        return result

    def to_supervision(self) -> Any:
        """Return `supervision.Detections`, with the names under `data["class_name"]`.

        Raises:
            MissingDependencyError: without supervision.
        """
        try:
            import supervision
        except ImportError as error:
            raise missing("supervision", "web") from error
        return supervision.Detections(
            xyxy=self.boxes.copy(),
            mask=None if self.masks is None else self.masks.copy(),
            confidence=self.scores.copy(),
            class_id=self.classes.astype(int),
            data={"class_name": np.array(self.names, dtype=object).astype(str)},
        )

    def to_dict(self) -> dict:
        """Return what json can hold (not the picture): boxes in XYXY pixels, masks as COCO run lengths."""
        found = []
        for i, (name, score, box) in enumerate(self):
            entry = {"name": name, "class": int(self.classes[i]), "score": score, "box": list(box)}
            if self.masks is not None:
                entry["mask"] = _encode_mask(self.masks[i])
            found.append(entry)
        result = {"size": list(self.size), "vocabulary": list(self.vocabulary), "detections": found}
        if self.caption is not None:
            result.update(caption=self.caption, phrases=[[list(s) for s in spans] for spans in self.phrases])
        return result

    @staticmethod
    def from_dict(value: Mapping[str, Any], *, image: np.ndarray | None = None) -> Detections:
        """Undo `to_dict`.

        Raises:
            DataError: if a key is missing, or the values do not fit (see the class).
        """
        try:
            found = value["detections"]
            masks = [_decode_mask(d["mask"]) for d in found if "mask" in d]
            return Detections(
                boxes=np.array([d["box"] for d in found], dtype=np.float32).reshape(-1, 4),
                scores=np.array([d["score"] for d in found], dtype=np.float32),
                names=[d["name"] for d in found],
                size=tuple(value["size"]),
                classes=np.array([d["class"] for d in found], dtype=np.int64),
                vocabulary=tuple(value["vocabulary"]),
                masks=np.stack(masks) if masks else None,
                image=image,
                caption=value.get("caption"),
                phrases=tuple(tuple(tuple(s) for s in spans) for spans in value.get("phrases", ())),
            )
        except KeyError as error:
            raise DataError(f"detections as a dict need the key {error}") from error

    def to_coco(self, image_id: int | str, *, category_ids: Sequence[int] | None = None) -> list[dict]:
        """Return COCO result entries, boxes as XYWH pixels.

        Args:
            image_id: written into each.
            category_ids: K ids, one a name of `vocabulary`; by default 1 to K.
        """
        ids = list(range(1, len(self.vocabulary) + 1)) if category_ids is None else list(category_ids)
        if len(ids) != len(self.vocabulary):
            raise DataError(f"{len(ids)} category ids for {len(self.vocabulary)} names; give one a name")
        results = []
        for i, (_, score, (x1, y1, x2, y2)) in enumerate(self):
            category, box = ids[self.classes[i]], [x1, y1, x2 - x1, y2 - y1]
            entry = {"image_id": image_id, "category_id": category, "bbox": box, "score": score}
            if self.masks is not None:
                entry["segmentation"] = _encode_mask(self.masks[i])
            results.append(entry)
        return results

    def draw(self, **options: Any) -> Image:
        """Return the picture with boxes and names as a PIL image; for `options` see `openvocab.viz.draw`.

        Raises:
            DataError: if these detections carry no picture.
        """
        from openvocab.viz import draw

        if self.image is None:
            raise DataError("these detections carry no picture; call openvocab.viz.draw(picture, detections)")
        return draw(self.image, self, **options)


def _classes(names: Sequence[str], vocabulary: Sequence[str]) -> np.ndarray:
    places = {name: i for i, name in reversed(list(enumerate(vocabulary)))}
    unknown = [n for n in names if n not in places]
    if unknown:
        raise DataError(f"the name '{unknown[0]}' is not in the vocabulary of {len(vocabulary)} names")
    return np.array([places[n] for n in names], dtype=np.int64)


def _check(
    *,
    boxes: np.ndarray,
    scores: np.ndarray,
    names: list[str],
    classes: np.ndarray,
    vocabulary: tuple[str, ...],
    size: tuple[int, int],
    image: np.ndarray | None,
    masks: np.ndarray | None = None,
) -> None:
    count = len(names)
    expected = {"boxes": (boxes, (count, 4)), "scores": (scores, (count,)), "classes": (classes, (count,))}
    if masks is not None:
        expected["masks"] = (masks, (count, *size))
    for what, (array, shape) in expected.items():
        if array.shape != shape:
            raise DataError(f"{what} have the shape {array.shape}; {count} names in a {size} picture need {shape}")
    if image is not None and image.shape != (*size, 3):
        raise DataError(f"the picture has the shape {image.shape}, the detections belong to {(*size, 3)}")
    if not np.isfinite(boxes).all() or (boxes[:, 2:] < boxes[:, :2]).any():
        raise DataError("boxes must be finite XYXY pixels with x1 <= x2 and y1 <= y2")
    if not ((scores >= 0) & (scores <= 1)).all():
        raise DataError("scores must lie in 0..1")
    if count and not (0 <= classes.min() and classes.max() < len(vocabulary)):
        raise DataError(f"classes go from {classes.min()} to {classes.max()}; there are {len(vocabulary)} names")


def _encode_mask(mask: np.ndarray) -> dict:
    from pycocotools import mask as coco_mask

    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode("ascii")}


def _decode_mask(encoded: Mapping[str, Any]) -> np.ndarray:
    from pycocotools import mask as coco_mask

    return coco_mask.decode({"size": list(encoded["size"]), "counts": encoded["counts"].encode("ascii")}).astype(bool)
