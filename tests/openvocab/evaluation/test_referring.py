"""IoU of phrases' masks: against loops over pixels, on chosen phrases, over two processes' parts, and what is refused."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from detectron2.structures import BoxMode, Instances
from hypothesis import given, settings
from hypothesis import strategies as st

from openvocab.errors import EvaluationError
from openvocab.evaluation import ReferringMaskEvaluator, flatten, print_results
from openvocab.evaluation.phrases import asked_phrases
from openvocab.evaluation.referring import summarize
from openvocab.testing.records import encode_mask

SIZE = (6, 8)


def annotation(phrase: int, mask: np.ndarray | None) -> dict:
    result = {"bbox": [0, 0, 8, 6], "bbox_mode": BoxMode.XYWH_ABS, "category_id": phrase}
    return result if mask is None else {**result, "segmentation": encode_mask(mask)}


def record(image_id: int, annotations: list[dict], phrases: int = 2, **more: object) -> dict:
    spans = [[[2 * i, 2 * i + 1]] for i in range(phrases)]
    base = {"image_id": image_id, "height": SIZE[0], "width": SIZE[1], "caption": "a b c d e f", "phrases": spans}
    return {**base, "annotations": annotations, **more}


def output(masks: list[np.ndarray], classes: list[int], scores: list[float]) -> dict:
    found = Instances(SIZE, pred_classes=torch.tensor(classes, dtype=torch.int64), scores=torch.tensor(scores))
    found.pred_masks = torch.from_numpy(np.array(masks, dtype=bool).reshape(-1, *SIZE))
    return {"instances": found}


def half(side: str) -> np.ndarray:
    mask = np.zeros(SIZE, dtype=bool)
    mask[:, slice(0, 4) if side == "left" else slice(4, 8)] = True
    return mask


def counted(records: list[dict], truth: list[list], outputs: list[dict], threshold: float) -> dict[str, float]:
    """The figures by counting pixels one by one. `truth`: for each record (phrase, mask) pairs."""
    ious, both, either = [], 0, 0
    for pairs, out in zip(truth, outputs, strict=True):
        found = out["instances"]
        for phrase in sorted({p for p, _ in pairs}):
            i = u = 0
            for y in range(SIZE[0]):
                for x in range(SIZE[1]):
                    true = any(m[y, x] for p, m in pairs if p == phrase)
                    mine = any(
                        bool(found.pred_masks[n, y, x])
                        for n in range(len(found))
                        if int(found.pred_classes[n]) == phrase and float(found.scores[n]) >= threshold
                    )
                    i, u = i + (true and mine), u + (true or mine)
            ious.append(i / u if u else 0.0)
            both, either = both + i, either + u
    result = {"mIoU": 100 * sum(ious) / len(ious), "cIoU": 100 * both / max(either, 1), "phrases": len(ious)}
    return {**result, **{f"P@{t}": 100 * sum(v > t / 100 for v in ious) / len(ious) for t in (50, 70, 90)}}


MASKS = st.lists(st.booleans(), min_size=48, max_size=48).map(lambda v: np.array(v).reshape(SIZE))
PAIRS = st.lists(st.tuples(st.integers(0, 1), MASKS), min_size=1, max_size=3)
FOUND = st.lists(st.tuples(st.integers(0, 1), MASKS, st.sampled_from([0.1, 0.3, 0.5, 0.9])), max_size=3)


@settings(deadline=None, max_examples=10)
@given(rows=st.lists(st.tuples(PAIRS, FOUND), min_size=1, max_size=3))
def test_against_counting_pixels(rows: list[tuple]) -> None:
    records = [record(n, [annotation(p, m) for p, m in pairs]) for n, (pairs, _) in enumerate(rows)]
    outputs = [output([m for _, m, _ in f], [p for p, _, _ in f], [s for _, _, s in f]) for _, f in rows]
    evaluator = ReferringMaskEvaluator(records=records, score_threshold=0.3)
    evaluator.process([{"image_id": n} for n in range(len(rows))], outputs)
    evaluator.process([{"image_id": 0}], [output([], [], [])])  # a sampler that pads: the second time does not count
    expected = counted(records, [pairs for pairs, _ in rows], outputs, 0.3 - 1e-6)
    assert evaluator.evaluate() == {"segm_referring": pytest.approx(expected)}


def test_a_phrase_may_mean_many_things_or_one() -> None:
    """Two halves found as two instances are the whole; the better one alone is half of it."""
    records = [record(7, [annotation(0, np.ones(SIZE, dtype=bool))])]
    found = output([half("left"), half("right"), half("left")], [0, 0, 1], [0.8, 0.9, 1.0])
    for best_only, iou in ((False, 100.0), (True, 50.0)):
        evaluator = ReferringMaskEvaluator(records=records, best_only=best_only)
        evaluator.process([{"image_id": 7}], [found])
        result = evaluator.evaluate()["segm_referring"]
        assert result["mIoU"] == result["cIoU"] == iou and result["P@50"] == (0.0 if best_only else 100.0)


def test_only_phrases_that_are_asked_for_count() -> None:
    both = [annotation(0, half("left")), annotation(1, half("right"))]
    assert asked_phrases(record(1, both)) == [0, 1]
    assert asked_phrases(record(1, both, phrases_eval=[[[2, 3]]])) == [1]
    assert asked_phrases(record(1, both[:1], phrases_eval=[[[2, 3]]])) == []
    assert asked_phrases(record(1, both, phrases_eval=[])) == []


def test_sentences_left_out_are_told_of(caplog: pytest.LogCaptureFixture) -> None:
    records = [record(n, [annotation(0, half("left"))]) for n in range(3)]
    evaluator = ReferringMaskEvaluator(records=records)
    with pytest.raises(EvaluationError, match="no sentence"):
        evaluator.evaluate()
    evaluator.process([{"image_id": 1}], [output([half("left")], [0], [0.9])])
    with caplog.at_level(logging.WARNING):
        assert evaluator.evaluate()["segm_referring"]["mIoU"] == 100
    assert "1 of its 3 phrases" in caplog.text
    evaluator.reset()
    with pytest.raises(EvaluationError, match="no sentence"):
        evaluator.evaluate()


def test_what_cannot_be_compared_is_refused() -> None:
    records = [record(1, [annotation(0, half("left"))])]
    evaluator = ReferringMaskEvaluator(records=records)
    with pytest.raises(EvaluationError, match="no sentence with id 2"):
        evaluator.process([{"image_id": 2}], [output([], [], [])])
    with pytest.raises(EvaluationError, match="2 outputs for 1"):
        evaluator.process([{"image_id": 1}], [output([], [], [])] * 2)
    bare = output([], [], [])
    bare["instances"].remove("pred_masks")
    with pytest.raises(EvaluationError, match="mask_branch"):
        evaluator.process([{"image_id": 1}], [bare])
    wide = output([], [], [])
    wide["instances"].pred_masks = torch.zeros(0, 6, 9)
    with pytest.raises(EvaluationError, match=r"\(6, 9\)"):
        evaluator.process([{"image_id": 1}], [wide])
    with pytest.raises(EvaluationError, match="has no mask"):
        ReferringMaskEvaluator(records=[record(1, [annotation(0, None)])])
    with pytest.raises(EvaluationError, match="no phrase"):
        ReferringMaskEvaluator(records=[record(1, [])])
    with pytest.raises(EvaluationError, match="dataset_name"):
        ReferringMaskEvaluator()


def test_results_have_one_key_and_a_line_in_the_table() -> None:
    result = {"segm_referring": summarize(np.array([1, 3]), np.array([2, 4]))}
    assert flatten(result)["segm_referring/mIoU"] == 62.5 and result["segm_referring"]["cIoU"] == pytest.approx(400 / 6)
    assert "mIoU 62.5" in print_results({"phrasecut": result})
