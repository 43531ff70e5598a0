"""AP equals pycocotools, whatever the boxes."""

from __future__ import annotations

import contextlib
import copy
import io
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from openvocab.errors import EvaluationError
from openvocab.evaluation.base import kinds_of
from openvocab.evaluation.keys import BOX, HEADLINE, MASK
from openvocab.evaluation.scoring import average_precision
from openvocab.evaluation.table import Table, empty_table, from_rows, join

CATEGORIES = {3: "cat", 7: "red car", 8: "dog"}
SIDE = 200


def code(rng: np.random.Generator, box: list[float]) -> dict:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    x, y, w, h = (int(v) for v in box)
    mask[y : y + h, x : x + w] = rng.random((max(min(h, SIDE - y), 0), max(min(w, SIDE - x), 0))) < 0.8
    found = rle.encode(np.asfortranarray(mask))
    return {"size": [int(v) for v in found["size"]], "counts": found["counts"].decode()}


def make_world(seed: int, *, images: int, most: int, crowd: float, levels: int) -> tuple[list, list, dict]:
    """Random pictures, annotations and detections, in COCO's form; `levels` scores only, so that many are equal."""
    rng = np.random.default_rng(seed)
    pictures = [{"id": int(i), "height": SIDE, "width": SIDE} for i in rng.permutation(1000)[:images]]
    annotations: list[dict] = []
    rows: dict[int, list[dict]] = {}
    for picture in pictures:
        for _ in range(rng.integers(0, 5)):
            box = [float(v) for v in (*rng.integers(0, 150, 2), *rng.choice([4, 20, 50, 130], 2))]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": picture["id"],
                    "category_id": int(rng.choice([3, 7])),  # nothing to find of category 8
                    "bbox": box,
                    "area": box[2] * box[3] * float(rng.choice([0.5, 1.0])),
                    "iscrowd": int(rng.random() < crowd),
                    "segmentation": code(rng, box),
                }
            )
        rows[picture["id"]] = found = []
        near = [a["bbox"] for a in annotations if a["image_id"] == picture["id"]]
        for _ in range(rng.integers(0, most)):
            base = near[rng.integers(len(near))] if near and rng.random() < 0.8 else [10.0, 10.0, 30.0, 30.0]
            box = [max(float(v), 0.0) for v in np.round(np.asarray(base) + rng.normal(0, 4, 4), 1)]
            score = float(rng.integers(0, levels)) / levels
            mask = code(rng, box)
            found.append({"category_id": int(rng.choice([3, 7, 8])), "bbox": box, "score": score, "segmentation": mask})
    return pictures, annotations, rows


def official(pictures: list, annotations: list, rows: dict, kind: str, max_dets: int) -> dict[str, float]:
    """The same numbers by pycocotools."""
    wanted = "bbox" if kind == BOX else "segmentation"
    found = [
        {"image_id": i, "category_id": r["category_id"], "score": r["score"], wanted: r[wanted]}
        for i, group in rows.items()
        for r in group
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(
            {
                "info": {},
                "images": pictures,
                "annotations": annotations,
                "categories": [{"id": k, "name": v} for k, v in CATEGORIES.items()],
            }
        )
        truth.createIndex()
        run = COCOeval(truth, truth.loadRes(found), kind)
        run.params.maxDets = [1, 10, max_dets]
        run.evaluate()
        run.accumulate()
    precision = run.eval["precision"][..., -1]
    parts = [precision[:, :, :, 0], precision[0, :, :, 0], precision[5, :, :, 0]]
    parts += [precision[:, :, :, a] for a in (1, 2, 3)]
    result = {k: mean(p) for k, p in zip(HEADLINE, parts, strict=True)}
    for k, name in enumerate(CATEGORIES.values()):
        result[f"AP-{name}"], result[f"AP50-{name}"] = mean(precision[:, :, k, 0]), mean(precision[0, :, k, 0])
    return result


def mean(part: np.ndarray) -> float:
    part = part[part > -1]
    return 100 * float(part.mean()) if part.size else math.nan


def assert_equal(ours: dict[str, float], theirs: dict[str, float]) -> None:
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert ours[key] == pytest.approx(value, abs=1e-9, nan_ok=True), key


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    images=st.integers(1, 8),
    most=st.sampled_from([2, 15, 60]),
    crowd=st.sampled_from([0.0, 0.3, 1.0]),
    levels=st.sampled_from([2, 5, 1000]),
    max_dets=st.sampled_from([11, 30, 100]),
    kind=st.sampled_from([BOX, MASK]),
)
def test_equal_to_pycocotools(
    seed: int, images: int, most: int, crowd: float, levels: int, max_dets: int, kind: str
) -> None:
    pictures, annotations, rows = make_world(seed, images=images, most=most, crowd=crowd, levels=levels)
    if not any(rows.values()):
        rows[pictures[0]["id"]].append(
            {
                "category_id": 3,
                "bbox": [0.0, 0.0, 9.0, 9.0],
                "score": 0.5,
                "segmentation": code(np.random.default_rng(0), [0, 0, 9, 9]),
            }
        )  # pycocotools cannot take none at all
    ours = average_precision(
        images=pictures, annotations=annotations, rows=rows, categories=CATEGORIES, kind=kind, max_dets=max_dets
    )
    assert_equal(ours, official(pictures, annotations, rows, kind, max_dets))


def test_the_random_worlds_are_not_trivial() -> None:
    pictures, annotations, rows = make_world(1, images=8, most=60, crowd=0.3, levels=5)
    result = average_precision(images=pictures, annotations=annotations, rows=rows, categories=CATEGORIES)
    assert 1 < result["AP"] < 90 and math.isnan(result["AP-dog"]) and not math.isnan(result["APs"])


def test_no_detections_at_all() -> None:
    pictures, annotations, rows = make_world(3, images=6, most=1, crowd=0.0, levels=5)
    assert not any(rows.values())
    result = average_precision(images=pictures, annotations=annotations, rows=rows, categories=CATEGORIES)
    sizes = {s: any(low <= a["area"] < high for a in annotations) for s, low, high in AREAS}
    for size, there in sizes.items():
        assert (result[f"AP{size}"] == 0) == there and math.isnan(result[f"AP{size}"]) != there
    assert result["AP"] == result["AP-cat"] == result["AP50-red car"] == 0 and math.isnan(result["AP-dog"])


AREAS = (("s", 0, 32**2), ("m", 32**2, 96**2), ("l", 96**2, 1e10))


def test_nothing_to_find_is_nan() -> None:
    pictures, _, rows = make_world(3, images=3, most=9, crowd=0.0, levels=5)
    result = average_precision(images=pictures, annotations=[], rows=rows, categories=CATEGORIES)
    assert all(math.isnan(v) for v in result.values())


def test_annotation_id_zero_and_ids_that_repeat_do_not_matter() -> None:
    pictures, annotations, rows = make_world(5, images=5, most=30, crowd=0.1, levels=50)
    expected = average_precision(images=pictures, annotations=annotations, rows=rows, categories=CATEGORIES)
    changed = [{**a, "id": 0} for a in annotations]
    assert_equal(average_precision(images=pictures, annotations=changed, rows=rows, categories=CATEGORIES), expected)


def test_text_ids_and_missing_area_and_crowd() -> None:
    pictures, annotations, rows = make_world(5, images=5, most=30, crowd=0.0, levels=50)
    plain = [{**a, "area": a["bbox"][2] * a["bbox"][3]} for a in annotations]
    expected = average_precision(images=pictures, annotations=plain, rows=rows, categories=CATEGORIES)

    def name(i: int) -> str:
        return f"img_{i:04d}"

    bare = [{k: v for k, v in a.items() if k not in ("area", "iscrowd")} for a in plain]
    ours = average_precision(
        images=[{**p, "id": name(p["id"])} for p in pictures],
        annotations=[{**a, "image_id": name(a["image_id"])} for a in bare],
        rows={name(i): group for i, group in rows.items()},
        categories=CATEGORIES,
    )
    assert_equal(ours, expected)


def test_inputs_are_not_changed() -> None:
    world = make_world(5, images=3, most=9, crowd=0.1, levels=5)
    before = copy.deepcopy(world)
    average_precision(images=world[0], annotations=world[1], rows=world[2], categories=CATEGORIES, kind=MASK)
    assert world == before


def test_kinds() -> None:
    _, annotations, rows = make_world(5, images=3, most=9, crowd=0.1, levels=5)
    bare = {i: [{k: v for k, v in r.items() if k != "segmentation"} for r in group] for i, group in rows.items()}

    def table(*groups: list[dict]) -> Table:
        return from_rows([(n, r) for n, group in enumerate(groups) for r in group])

    assert kinds_of(table(*rows.values()), annotations) == [BOX, MASK]
    assert kinds_of(table(*bare.values()), annotations) == kinds_of(empty_table(), []) == [BOX]
    assert kinds_of(table(*rows.values()), [{**annotations[0], "segmentation": []}]) == [BOX]
    for both in (lambda: table(*rows.values(), *bare.values()), lambda: join([table(*rows.values()), table(*bare.values())])):
        with pytest.raises(EvaluationError, match="some detections have masks"):
            both()
