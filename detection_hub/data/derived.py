"""`DerivedSet`: another data set made from a registered one, with a part of its pictures, other names or larger boxes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from detectron2.data import MetadataCatalog

from openvocab.data import ensure_registered, register_coco_folder
from openvocab.data.coco_json import read_coco, sorted_categories
from openvocab.data.randomness import draw
from openvocab.errors import ConfigError, DataError, nearest
from openvocab.io import atomic_write

_MADE: set[str] = set()


class DerivedSet:
    """What to make. Nothing happens before `register`, so that a config can hold it where the pictures are not.

    Args:
        source: a registered data set with a COCO json.
        part: (k, n): the k-th of n parts of its pictures, a choice that depends on their ids alone.
        names: name of the source -> new name; boxes of other names are left out; None: all names as they are.
        box_scale: boxes are scaled about their centres, and cut off at the picture's border.

    Raises:
        ConfigError: for parts that do not exist, or a scale that makes no box.
    """

    def __init__(
        self, *, source: str, part: Sequence[int] = (1, 1), names: Mapping[str, str] | None = None, box_scale: float = 1.0
    ) -> None:
        self.source, self.part, self.box_scale = source, tuple(int(p) for p in part), float(box_scale)
        self.names = {str(old): str(new) for old, new in (names or {}).items()}
        if len(self.part) != 2 or not 1 <= self.part[0] <= self.part[1]:
            raise ConfigError(f"part={self.part} of '{source}' must be (k, n) with 1 <= k <= n")
        if not 0 < self.box_scale < 100:
            raise ConfigError(f"box_scale={box_scale} of '{source}' must be above 0 (and below 100)")

    @property
    def name(self) -> str:
        """The name under which it is registered: the source, and all that is other."""
        parts = [self.source]
        if self.part[1] > 1:
            parts.append(f"{self.part[0]}of{self.part[1]}")
        if self.names:
            parts.append("_".join(f"{old}={new}" for old, new in self.names.items()))
        if self.box_scale != 1:
            parts.append(f"x{self.box_scale:g}")
        return "__".join(parts)

    def register(self) -> str:
        """Write its json into a temporary folder and register it, unless that is done; return its name.

        Raises:
            DataError: for a source that is not there, has no COCO json, or lacks one of the names.
        """
        if self.name not in _MADE:
            ensure_registered(self.source)
            metadata = MetadataCatalog.get(self.source)
            if not metadata.get("json_file"):
                raise DataError(f"'{self.source}' is registered without a COCO json, so nothing can be derived from it")
            folder = tempfile.mkdtemp(prefix="detection_hub_")
            content = self.derive(read_coco(Path(metadata.json_file)))
            with atomic_write(Path(folder) / "instances.json", "w") as file:
                json.dump(content, file)
            images = str(Path(metadata.image_root).resolve())
            register_coco_folder(self.name, root=folder, annotations="instances.json", images=images)
            _MADE.add(self.name)
        return self.name

    def derive(self, content: dict) -> dict:
        """Return the new json of a COCO json.

        Raises:
            DataError: for a name that the source does not have.
        """
        categories = sorted_categories(content, Path(self.source))
        known = {c["name"]: c["id"] for c in categories}
        for old in self.names:
            if old not in known:
                raise DataError(f"'{self.source}' has no name '{old}' to derive a data set from.{nearest(old, known)}")
        ids = {known[old]: i + 1 for i, old in enumerate(self.names)} or {i: i for i in known.values()}
        images = {i["id"]: i for i in self._chosen(content["images"])}
        boxes = [a for a in content["annotations"] if a["image_id"] in images and a["category_id"] in ids]
        new = [{"id": i + 1, "name": name} for i, name in enumerate(self.names.values())]
        return {
            "images": list(images.values()),
            "annotations": [self._moved(a, ids[a["category_id"]], images[a["image_id"]]) for a in boxes],
            "categories": new or categories,
        }

    def _chosen(self, images: list[dict]) -> list[dict]:
        k, n = self.part
        order = sorted(images, key=lambda i: draw("part", self.source, i["id"]))
        chosen = {i["id"] for i in order[k - 1 :: n]}
        return [i for i in images if i["id"] in chosen]

    def _moved(self, annotation: dict, category: int, image: dict) -> dict:
        if self.box_scale == 1:
            return {**annotation, "category_id": category}
        x, y, w, h = annotation["bbox"]
        left, top = x - (self.box_scale - 1) * w / 2, y - (self.box_scale - 1) * h / 2
        right, bottom = min(left + self.box_scale * w, image["width"]), min(top + self.box_scale * h, image["height"])
        left, top = max(left, 0), max(top, 0)
        box = [left, top, right - left, bottom - top]
        kept = {k: v for k, v in annotation.items() if k not in ("segmentation", "bbox", "area", "category_id")}
        return {**kept, "bbox": box, "area": box[2] * box[3], "category_id": category}
