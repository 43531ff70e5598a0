"""Detections as columns: a tenth of the memory of dicts, and what processes hand each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import IO

import numpy as np
import torch
from detectron2.structures import BoxMode, Instances

from openvocab.errors import EvaluationError


@dataclass(frozen=True)
class Table:
    """N detections.

    Attributes:
        pictures: (N,) int64, places in a list of pictures that the owner keeps.
        categories: (N,) int64 category ids.
        boxes: (N, 4) float64, XYWH pixels.
        scores: (N,) float64.
        order: (N,) int64, place among the detections of the picture; settles which of equal scores comes first.
        counts: (N,) run-length codes of masks, as bytes; None without masks.
        sizes: (N, 2) int64 height and width of the masks; None without.
    """

    pictures: np.ndarray
    categories: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    order: np.ndarray
    counts: np.ndarray | None = None
    sizes: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def has_masks(self) -> bool:
        """Whether there are masks; False for an empty table that was never told."""
        return self.counts is not None

    def pick(self, index: np.ndarray) -> Table:
        """Return the rows of an index or a (N,) bool mask."""
        columns = {f.name: getattr(self, f.name) for f in fields(self)}
        return Table(**{k: None if v is None else v[index] for k, v in columns.items()})

    def sorted(self) -> Table:
        """Return the rows by picture, and there in the model's order."""
        return self.pick(np.lexsort((self.order, self.pictures)))

    def masks(self) -> list[dict]:
        """Return the run-length codes as COCO has them, counts as bytes."""
        pairs = zip(self.sizes.tolist(), self.counts.tolist(), strict=True)
        return [{"size": size, "counts": code} for size, code in pairs]

    def rows(self, image_ids: Sequence) -> Iterator[dict]:
        """Give each detection as a COCO result dict that json can hold; `image_ids`: of the list of pictures."""
        masks = self.masks() if self.has_masks else None
        columns = (self.pictures, self.categories, self.boxes, self.scores)
        for i, (p, c, b, s) in enumerate(zip(*(v.tolist() for v in columns), strict=True)):
            row = {"image_id": image_ids[p], "category_id": c, "bbox": b, "score": s}
            if masks is not None:
                row["segmentation"] = {"size": masks[i]["size"], "counts": masks[i]["counts"].decode()}
            yield row

    def save(self, file: IO, **more: np.ndarray) -> None:
        """Write an npz without pickled objects; `more` are arrays that go along."""
        content = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("counts", "sizes")}
        if self.has_masks:
            codes = self.counts.tolist()
            content["sizes"] = self.sizes
            content["lengths"] = np.array([len(c) for c in codes], dtype=np.int64)
            content["codes"] = np.frombuffer(b"".join(codes), dtype=np.uint8)
        np.savez(file, **content, **more)


def empty_table() -> Table:
    """Return a table without rows."""
    whole = np.zeros(0, dtype=np.int64)
    return Table(whole, whole, np.zeros((0, 4)), np.zeros(0), whole)


def load_table(content: Mapping[str, np.ndarray]) -> Table:
    """Read what `Table.save` wrote."""
    columns = {k: content[k] for k in ("pictures", "categories", "boxes", "scores", "order")}
    if "codes" not in content:
        return Table(**columns)
    ends, codes = np.cumsum(content["lengths"]), content["codes"].tobytes()
    starts = ends - content["lengths"]
    pieces = [codes[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]
    return Table(**columns, counts=_objects(pieces), sizes=content["sizes"])


def join(tables: Sequence[Table]) -> Table:
    """Return all rows of several tables.

    Raises:
        EvaluationError: if only some have masks.
    """
    if not any(map(len, tables)):
        return next((t for t in tables if t.has_masks), empty_table())
    tables = [t for t in tables if len(t)]
    if len({t.has_masks for t in tables}) > 1:
        raise EvaluationError("some detections have masks and some have none; a model must give them for all or for none")
    names = [f.name for f in fields(Table) if getattr(tables[0], f.name) is not None]
    return Table(**{n: np.concatenate([getattr(t, n) for t in tables]) for n in names})


def from_instances(instances: Instances, picture: int) -> Table:
    """Return a model's detections in one picture; `categories` are the class indices, to be mapped later."""
    boxes = instances.pred_boxes.tensor.detach().cpu()
    boxes = boxes if boxes.dtype == torch.float64 else boxes.float()
    count = len(boxes)
    table = Table(
        pictures=np.full(count, picture, dtype=np.int64),
        categories=instances.pred_classes.detach().cpu().numpy().astype(np.int64),
        boxes=BoxMode.convert(boxes, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS).double().numpy().reshape(-1, 4),
        scores=instances.scores.detach().cpu().double().numpy(),
        order=np.arange(count),
    )
    return _with_masks(table, instances.pred_masks) if instances.has("pred_masks") else table


def _with_masks(table: Table, masks: object) -> Table:
    """Add (N, H, W) bool masks, or detectron2's BitMasks."""
    from pycocotools import mask as rle

    tensor = masks if isinstance(masks, torch.Tensor) else masks.tensor
    if len(tensor) != len(table):
        raise EvaluationError(f"the model gives {len(tensor)} masks for {len(table)} boxes")
    planes = tensor.detach().cpu().numpy().transpose(1, 2, 0).astype(np.uint8)
    return _add_masks(table, rle.encode(np.asfortranarray(planes)) if len(table) else [])


def _add_masks(table: Table, codes: Sequence[Mapping]) -> Table:
    """Add run-length codes, counts as bytes or text."""
    counts = [c["counts"].encode() if isinstance(c["counts"], str) else c["counts"] for c in codes]
    sizes = np.array([c["size"] for c in codes], dtype=np.int64).reshape(-1, 2)
    return replace(table, counts=_objects(counts), sizes=sizes)


def from_rows(rows: Sequence[tuple[int, Mapping]]) -> Table:
    """Return (picture, COCO result dict) pairs as a table; a missing box (masks only) is 0, 0, 0, 0."""
    if not rows:
        return empty_table()
    seen: dict[int, int] = {}
    order = []
    for picture, _ in rows:
        order.append(seen.get(picture, 0))
        seen[picture] = order[-1] + 1
    table = Table(
        pictures=np.array([p for p, _ in rows], dtype=np.int64),
        categories=np.array([r["category_id"] for _, r in rows], dtype=np.int64),
        boxes=np.array([r.get("bbox", (0, 0, 0, 0)) for _, r in rows], dtype=np.float64).reshape(-1, 4),
        scores=np.array([r["score"] for _, r in rows], dtype=np.float64),
        order=np.array(order, dtype=np.int64),
    )
    have = {"segmentation" in r for _, r in rows}
    if have == {False}:
        return table
    if have == {True, False}:
        raise EvaluationError("some detections have masks and some have none; a model must give them for all or for none")
    return _add_masks(table, [r["segmentation"] for _, r in rows])


def _objects(values: list[bytes]) -> np.ndarray:
    """An array of objects: numpy's own bytes type would cut trailing zeros and pad to the longest."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array
