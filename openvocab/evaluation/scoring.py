"""Average precision on faster-coco-eval: equal to pycocotools and lvis-api, several times faster."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from .keys import BOX, MASK
from .precision import IOUS, RECALLS, SIZES, Precision, by_class, headline
from .table import Table, from_rows

logger = logging.getLogger(__name__)
PAIRS_AT_ONCE = 400_000  # pictures times categories; faster-coco-eval holds something of each pair
ROWS_AT_ONCE = 400_000
NEVER = 1e11  # an area beyond every size: neither found nor missed


def average_precision(
    *,
    images: Sequence[dict],
    annotations: Sequence[dict],
    rows: Mapping[int | str, Sequence[dict]],
    categories: Mapping[int, str],
    kind: str = BOX,
    max_dets: int = 100,
) -> dict[str, float]:
    """Return COCO's averages over IoU 0.50:0.95 and 101 recalls (Lin et al. 2014, as pycocotools computes them).

    Args:
        images: of the json, those that were looked at; all others do not count.
        annotations: of the json, of those pictures and categories; crowds are neither found nor missed.
        rows: detections of each picture: "category_id", "bbox" (XYWH pixels) or "segmentation" (RLE), "score".
        categories: {category id: name} that are evaluated.
        kind: "bbox" or "segm".
        max_dets: best detections a picture and category that count.

    Returns:
        HEADLINE, and "AP-<name>", "AP50-<name>" of every category; percent, nan where there is nothing to find.
    """
    places = {image_id: n for n, image_id in enumerate(in_order([i["id"] for i in images]))}
    table = from_rows([(places[i], r) for i, group in rows.items() for r in group])
    precision = coco_precision(
        images=images, annotations=annotations, table=table, categories=list(categories), kind=kind, max_dets=max_dets
    )
    return {**headline(precision), **by_class(precision, categories)}


def coco_precision(
    *,
    images: Sequence[dict],
    annotations: Sequence[dict],
    table: Table,
    categories: Sequence[int],
    kind: str = BOX,
    max_dets: int | None = 100,
) -> Precision:
    """Return the precision of each category by COCO's rules.

    Categories do not touch each other, so they are evaluated a few at a time, on the pictures that hold one of them: memory stays
    bounded also with 1203 categories and 20,000 pictures.

    Args:
        images, annotations: of the json, what was looked at.
        table: detections; `pictures` are places in the order of `in_order` of the images' ids.
        categories: ids.
        kind: "bbox" or "segm".
        max_dets: best detections a picture and category that count; None: all.
    """
    places = {image_id: n for n, image_id in enumerate(in_order([i["id"] for i in images]))}
    truth = [_annotation(a, n, places, kind) for n, a in enumerate(annotations, start=1)]
    return _precision(_by_place(images, places), truth, table, categories, kind, max_dets)


def lvis_precision(
    *,
    images: Sequence[dict],
    annotations: Sequence[dict],
    table: Table,
    categories: Sequence[int],
    kind: str = BOX,
) -> Precision:
    """Return the precision of each category by LVIS's federated rules (Gupta et al. 2019, as lvis-api computes them).

    A detection counts only in pictures where its category was found or is known to be absent ("neg_category_ids"); where it was
    not annotated exhaustively ("not_exhaustive_category_ids"), an unmatched detection is no mistake. There are no crowds, and what
    has no area does not count. The limit of detections is the caller's affair.

    Args:
        as for `coco_precision`; the images have both lists.
    """
    places = {image_id: n for n, image_id in enumerate(in_order([i["id"] for i in images]))}
    pictures = _by_place(images, places)
    truth = [a for a in (_federated(a, n, places, kind) for n, a in enumerate(annotations, start=1)) if a["area"] > 0]
    open_pairs = {(a["image_id"] - 1, a["category_id"]) for a in truth}
    open_pairs |= {(p, c) for p, image in enumerate(pictures) for c in image["neg_category_ids"]}
    pairs = zip(table.pictures.tolist(), table.categories.tolist(), strict=True)
    counts = np.fromiter((pair in open_pairs for pair in pairs), dtype=bool, count=len(table))
    table = table.pick(counts)
    table = table.pick(_areas(table, kind) > 0)
    return _precision(pictures, truth, table, categories, kind, None, federated=True)


def in_order(ids: Sequence[int | str]) -> list[int | str]:
    """The order in which pycocotools looks at pictures, on which equal scores depend."""
    return sorted(ids) if all(isinstance(i, int) for i in ids) else sorted(ids, key=str)


def _by_place(images: Sequence[dict], places: Mapping) -> list[dict]:
    ordered: list = [None] * len(images)
    for image in images:
        ordered[places[image["id"]]] = image
    return ordered


def _annotation(row: Mapping, number: int, places: Mapping, kind: str) -> dict:
    """One annotation, numbered from 1 (0 means "not matched" to the evaluation), its picture too."""
    box = [float(v) for v in row["bbox"]]
    new = {
        "id": number,
        "image_id": places[row["image_id"]] + 1,
        "category_id": row["category_id"],
        "bbox": box,
        "area": row.get("area", box[2] * box[3]),
        "iscrowd": int(row.get("iscrowd", 0) or 0),
    }
    return {**new, "segmentation": row["segmentation"]} if kind == MASK else new


def _federated(row: Mapping, number: int, places: Mapping, kind: str) -> dict:
    new = {**_annotation(row, number, places, kind), "iscrowd": 0}
    return {**new, "area": NEVER} if row.get("ignore") else new


def _areas(table: Table, kind: str) -> np.ndarray:
    if kind == BOX or not len(table):
        return table.boxes[:, 2] * table.boxes[:, 3]
    from pycocotools import mask as rle

    return np.array([rle.area(m) for m in table.masks()], dtype=np.float64)  # its form for lists fails beyond 255


def _precision(
    pictures: Sequence[dict],
    truth: Sequence[dict],
    table: Table,
    categories: Sequence[int],
    kind: str,
    max_dets: int | None,
    *,
    federated: bool = False,
) -> Precision:
    categories = sorted(categories)
    column = {c: k for k, c in enumerate(categories)}
    table = table.pick(np.isin(table.categories, categories)).sorted()
    wanted = [a for a in truth if a["category_id"] in column]
    values = np.full((len(IOUS), RECALLS, len(categories), len(SIZES)), -1.0)
    for group, some in _groups(wanted, table, categories):
        part = _run(pictures, some, table.pick(np.isin(table.categories, group)), group, kind, max_dets, federated)
        values[:, :, [column[c] for c in group]] = part
    return Precision(values, categories)


def _groups(truth: Sequence[dict], table: Table, categories: Sequence[int]) -> Iterator[tuple[list[int], list[dict]]]:
    """Give categories that have something to find, a few at a time, with their annotations."""
    by_category: dict[int, list[dict]] = {}
    for row in truth:
        by_category.setdefault(row["category_id"], []).append(row)
    order = np.argsort(table.categories, kind="stable")
    ordered, pictures_of = table.categories[order], table.pictures[order]
    group: list[int] = []
    pictures: set[int] = set()
    rows = 0
    for category in (c for c in categories if c in by_category):
        mine = pictures_of[slice(*np.searchsorted(ordered, [category, category + 1]))]
        here = {a["image_id"] - 1 for a in by_category[category]} | set(mine.tolist())
        many = len(pictures | here) * (len(group) + 1) > PAIRS_AT_ONCE or rows + len(mine) > ROWS_AT_ONCE
        if group and many:
            yield group, [a for c in group for a in by_category[c]]
            group, pictures, rows = [], set(), 0
        group.append(category)
        pictures |= here
        rows += len(mine)
    if group:
        yield group, [a for c in group for a in by_category[c]]


def _run(
    pictures: Sequence[dict],
    truth: Sequence[dict],
    table: Table,
    categories: Sequence[int],
    kind: str,
    max_dets: int | None,
    federated: bool,
) -> np.ndarray:
    """Return precision (10, 101, K, 4) of some categories, each of which has something to find."""
    from faster_coco_eval import COCO, COCOeval_faster

    numbers = sorted({a["image_id"] for a in truth} | {p + 1 for p in table.pictures.tolist()})
    gt = COCO(
        {
            "images": [{**pictures[n - 1], "id": n} for n in numbers],
            "annotations": [dict(a) for a in sorted(truth, key=lambda a: a["id"])],
            "categories": [{"id": c, "name": str(c), "frequency": "f"} for c in categories],
        }
    )
    dt = gt.loadRes(_results(table, kind))
    run = COCOeval_faster(gt, dt, iouType=kind, print_function=logger.debug, lvis_style=federated)
    run.params.imgIds, run.params.catIds = numbers, sorted(categories)
    run.params.maxDets = [max(len(table), 1) if max_dets is None else max_dets]
    run.evaluate()
    run.accumulate()
    return np.asarray(run.eval["precision"])[..., -1]


def _results(table: Table, kind: str) -> list[dict]:
    """The detections as faster-coco-eval takes them."""
    columns = (table.pictures + 1, table.categories, table.scores)
    triples = zip(*(c.tolist() for c in columns), strict=True)
    key, shapes = ("bbox", table.boxes.tolist()) if kind == BOX else ("segmentation", table.masks() if len(table) else [])
    return [
        {"image_id": p, "category_id": c, "score": s, key: shape} for (p, c, s), shape in zip(triples, shapes, strict=True)
    ]
