"""LVIS's AP equals lvis-api's, and the fixed one brute force, whatever the detections."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openvocab.errors import EvaluationError
from openvocab.evaluation import LVISEvaluator, LVISFixedEvaluator, scoring
from openvocab.evaluation.lvis_api import OLD_NAMES, lvis_api
from openvocab.vocabulary import Vocabulary

from .federated import FREQUENCIES, NAMES, make_lvis, official, to_batch, to_results

KEYS = {"AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"}
WORLDS = {
    "seed": st.integers(0, 2**31),
    "images": st.integers(1, 12),
    "most": st.sampled_from([3, 15, 60]),
    "levels": st.sampled_from([1, 5, 1000]),
    "masks": st.booleans(),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lvis")


def save(content: dict, folder: Path) -> Path:
    path = folder / "lvis.json"
    path.write_text(json.dumps(content))
    return path


def run(evaluator: LVISEvaluator, found: dict) -> dict:
    evaluator.reset()
    evaluator.process(*to_batch(found))
    return evaluator.evaluate()


def assert_equal(ours: dict[str, float], theirs: dict[str, float]) -> None:
    assert set(ours) == KEYS
    for key in KEYS:
        assert ours[key] == pytest.approx(theirs[key], abs=1e-9, nan_ok=True), key


def world(seed: int = 3, images: int = 12, most: int = 60, levels: int = 5, masks: bool = False) -> tuple[dict, dict]:
    return make_lvis(seed, images=images, most=most, levels=levels, masks=masks)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(**WORLDS, max_dets=st.sampled_from([4, 20, 300]))
def test_equal_to_lvis_api(
    folder: Path, seed: int, images: int, most: int, levels: int, masks: bool, max_dets: int
) -> None:
    content, found = make_lvis(seed, images=images, most=most, levels=levels, masks=masks)
    if not any(found.values()):
        return  # lvis-api cannot take none at all
    results = run(LVISEvaluator(annotations=save(content, folder), max_dets=max_dets), found)
    assert "bbox" in results and set(results) <= {"bbox", "segm"}
    assert masks == ("segm" in results)
    for kind, ours in results.items():
        assert_equal(ours, official(content, to_results(found, kind), kind, folder, max_dets=max_dets))


@pytest.mark.parametrize("masks", [False, True])
def test_the_official_backend_gives_the_same(folder: Path, masks: bool) -> None:
    content, found = world(masks=masks)
    path = save(content, folder)
    for make in (
        lambda **more: LVISEvaluator(annotations=path, max_dets=20, per_class=True, **more),
        lambda **more: LVISFixedEvaluator(annotations=path, max_per_class=15, per_class=True, **more),
    ):
        ours, theirs = run(make(), found), run(make(backend="lvis-api"), found)
        assert set(ours) == set(theirs) and len(ours) == 1 + masks
        for kind in ours:
            assert ours[kind] == pytest.approx(theirs[kind], abs=1e-9, nan_ok=True)
            assert 1 < ours[kind]["AP"] < 90 and f"AP-{NAMES[5]}" in ours[kind]


def test_a_few_categories_at_a_time_is_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content, found = world(masks=True)
    evaluator = LVISEvaluator(annotations=save(content, folder), per_class=True)
    whole = run(evaluator, found)
    for limit in ("PAIRS_AT_ONCE", "ROWS_AT_ONCE"):
        with monkeypatch.context() as patch:
            patch.setattr(scoring, limit, 1)
            assert repr(run(evaluator, found)) == repr(whole)


def test_federated_rules_one_by_one(folder: Path) -> None:
    """One thing of category 5 in picture 1; what counts against the model is only what the lists say."""
    content, found = world(seed=1, images=2, most=1)
    first, second = (i["id"] for i in content["images"])
    content["annotations"] = [{"id": 1, "image_id": first, "category_id": 5, "bbox": [10, 10, 30, 30], "area": 900}]
    right = {"class": 1, "box": np.array([10, 10, 40, 40], np.float32), "score": np.float32(0.5)}
    wrong = {"class": 1, "box": np.array([60, 60, 90, 90], np.float32), "score": np.float32(0.9)}

    def ap(negative: tuple = (), loose: tuple = (), found: dict | None = None) -> float:
        for image in content["images"]:
            image["neg_category_ids"] = [5] if image["id"] in negative else []
            image["not_exhaustive_category_ids"] = [5] if image["id"] in loose else []
        return run(LVISEvaluator(annotations=save(content, folder)), found)["bbox"]["AP"]

    elsewhere, beside = {first: [right], second: [wrong]}, {first: [right, wrong], second: []}
    assert ap(found=elsewhere) == pytest.approx(100)  # nobody looked for it there
    assert ap(negative=(second,), found=elsewhere) == pytest.approx(50)  # it is known to be absent
    assert ap(found=beside) == pytest.approx(50)  # all of them are annotated here
    assert ap(loose=(first,), found=beside) == pytest.approx(100)  # some may be missing


def brute_fixed(content: dict, found: dict, kind: str, folder: Path, limit: int) -> dict[str, float]:
    """Pool the detections of each category, sort, cut, and ask lvis-api without a limit a picture."""
    pools: dict[int, list[dict]] = {}
    for row in to_results(found, kind):
        pools.setdefault(row["category_id"], []).append(row)
    kept = [r for pool in pools.values() for r in sorted(pool, key=lambda r: -r["score"])[:limit]]
    return official(content, kept, kind, folder, max_dets=-1)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(**WORLDS, limit=st.sampled_from([1, 5, 20, 10_000]))
def test_fixed_equals_brute_force(
    folder: Path, seed: int, images: int, most: int, levels: int, masks: bool, limit: int
) -> None:
    content, found = make_lvis(seed, images=images, most=most, levels=levels, masks=masks)
    if not any(found.values()):
        return
    results = run(LVISFixedEvaluator(annotations=save(content, folder), max_per_class=limit), found)
    assert all(k.endswith("_fixed") for k in results)
    for key, ours in results.items():
        kind = key.removesuffix("_fixed")
        assert_equal(ours, brute_fixed(content, found, kind, folder, limit))


def test_fixed_differs_from_capped(folder: Path) -> None:
    content, found = world()
    path = save(content, folder)
    capped = run(LVISEvaluator(annotations=path, max_dets=5), found)["bbox"]["AP"]
    assert run(LVISFixedEvaluator(annotations=path), found)["bbox_fixed"]["AP"] > capped > 0


def test_result_shape_and_files(folder: Path, tmp_path: Path) -> None:
    content, found = world()
    path = save(content, folder)
    result = run(LVISEvaluator(annotations=path, output_dir=tmp_path), found)
    assert set(result) == {"bbox"} and set(result["bbox"]) == KEYS
    run(LVISFixedEvaluator(annotations=path, output_dir=tmp_path, max_per_class=3), found)
    written = json.loads((tmp_path / "lvis_instances_results.json").read_text())


    def texts(rows: list[dict]) -> list[str]:
        return sorted(json.dumps(r, sort_keys=True) for r in rows)

    assert texts(written) == texts(to_results(found, "bbox"))
    fixed = json.loads((tmp_path / "lvis_fixed_instances_results.json").read_text())
    assert max([r["category_id"] for r in fixed].count(c) for c in FREQUENCIES) == 3


def test_rare_ones_alone_with_the_whole_vocabulary(folder: Path) -> None:
    """A limit a picture holds for all names that were looked for, as with lvis-api, also if some are evaluated."""
    content, found = world(seed=6)
    path = save(content, folder)
    part = run(LVISEvaluator(annotations=path, category_names=[NAMES[2], NAMES[5]], max_dets=6), found)["bbox"]
    whole = run(LVISEvaluator(annotations=path, max_dets=6), found)["bbox"]
    assert part["APr"] == whole["APr"] and part["APc"] == whole["APc"] and math.isnan(part["APf"])
    assert not math.isnan(whole["APf"])


def test_frequencies_may_come_from_the_vocabulary(folder: Path, tmp_path: Path) -> None:
    from openvocab.data import catalog, register_coco_folder

    content, found = world()
    expected = run(LVISEvaluator(annotations=save(content, folder)), found)
    for category in content["categories"]:
        del category["frequency"]
    words = Vocabulary.from_names(list(NAMES.values()), frequencies=list(FREQUENCIES.values()))
    (tmp_path / "images").mkdir()
    path = save(content, tmp_path)
    register_coco_folder("federated_set", root=tmp_path, annotations=path.name, images="images", vocabulary=words)
    try:
        assert repr(run(LVISEvaluator("federated_set"), found)) == repr(expected)
    finally:
        catalog.unregister("federated_set")
    with pytest.raises(EvaluationError, match="category 'thing_2' has frequency None; it must be one of 'r', 'c', 'f'"):
        LVISEvaluator(annotations=path)


def test_wrong_calls_are_sentences(folder: Path) -> None:
    content, found = world()
    path = save(content, folder)
    with pytest.raises(EvaluationError, match="backend='slow' must be 'faster' or 'lvis-api'"):
        LVISEvaluator(annotations=path, backend="slow")
    with pytest.raises(EvaluationError, match="max_dets=0"):
        LVISEvaluator(annotations=path, max_dets=0)
    with pytest.raises(EvaluationError, match="max_per_class=0"):
        LVISFixedEvaluator(annotations=path, max_per_class=0)
    empty = {image: [] for image in found}
    with pytest.raises(EvaluationError, match="without detections; use backend='faster'"):
        run(LVISEvaluator(annotations=path, backend="lvis-api"), empty)
    assert run(LVISEvaluator(annotations=path), empty)["bbox"]["AP"] == 0
    inputs, outputs = to_batch(found)
    evaluator = LVISEvaluator(annotations=path)
    asked = Vocabulary.from_names(["thing_2", "thing_9"])
    with pytest.raises(EvaluationError, match=r"asked for 2 names \(thing_2, thing_9, ...\), but the evaluator .* counts 5"):
        evaluator.process([{**inputs[0], "vocabulary": asked}], outputs[:1])
    with pytest.raises(EvaluationError, match="picture with id 9999 is not in"):
        evaluator.process([{"image_id": 9999}], outputs[:1])
    del content["images"][0]["neg_category_ids"]
    with pytest.raises(EvaluationError, match="is no LVIS json: some pictures lack neg_category_ids or"):
        LVISEvaluator(annotations=save(content, folder))


def test_the_guard_leaves_numpy_and_logging_as_they_were() -> None:
    names, handlers = set(vars(np)), list(logging.getLogger().handlers)
    with lvis_api() as api:
        assert np.float is float and api.LVISEval
    with pytest.raises(RuntimeError, match="boom"), lvis_api():
        raise RuntimeError("boom")
    with lvis_api(), lvis_api():
        assert np.float is float
    assert set(vars(np)) == names and logging.getLogger().handlers == handlers
    assert not hasattr(np, "float") or "float" not in OLD_NAMES


def test_evaluation_does_not_leave_old_names_in_numpy(folder: Path) -> None:
    content, found = world()
    names = set(vars(np))
    run(LVISEvaluator(annotations=save(content, folder), backend="lvis-api"), found)
    assert set(vars(np)) == names
