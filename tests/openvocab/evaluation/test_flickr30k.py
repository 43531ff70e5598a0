"""Recall of phrases: against loops over boxes, both protocols on chosen phrases, over two processes, on files in MDETR's form."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.structures import Boxes, BoxMode, Instances
from hypothesis import given, settings
from hypothesis import strategies as st

from openvocab.data import DatasetMapper, build_test_loader, get_records, register_grounding_folder
from openvocab.errors import ConfigError, EvaluationError
from openvocab.evaluation import Flickr30kEvaluator, evaluate, flatten, print_results
from openvocab.testing import ShapesWorld, run_gloo
from openvocab.testing.writer import write_coco

KINDS = ("recall_any", "recall_merged")


def record(image_id: int, boxes: list[tuple[int, list[float]]], phrases: int = 2, **more: object) -> dict:
    """A sentence; `boxes`: (phrase, XYXY)."""
    annotations = [{"bbox": [x, y, X - x, Y - y], "bbox_mode": BoxMode.XYWH_ABS, "category_id": p} for p, (x, y, X, Y) in boxes]
    spans = [[[2 * i, 2 * i + 1]] for i in range(phrases)]
    base = {"image_id": image_id, "height": 20, "width": 20, "caption": "a b c d e f", "phrases": spans}
    return {**base, "annotations": annotations, **more}


def output(rows: list[tuple[int, list[float], float]]) -> dict:
    """Detections; `rows`: (phrase, XYXY, score)."""
    found = Instances((20, 20), pred_classes=torch.tensor([p for p, _, _ in rows], dtype=torch.int64))
    found.pred_boxes = Boxes(torch.tensor([b for _, b, _ in rows], dtype=torch.float32).reshape(-1, 4))
    found.scores = torch.tensor([s for _, _, s in rows], dtype=torch.float32)
    return {"instances": found}


def iou(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def counted(truth: list[list], found: list[list], merged: bool) -> dict[str, float]:
    """The figures by the protocol's words, phrase by phrase."""
    hits: dict[str, list[bool]] = {"R@1": [], "R@5": [], "R@10": [], "upper": []}
    for boxes, rows in zip(truth, found, strict=True):
        for phrase in sorted({p for p, _ in boxes}):
            true = [b for p, b in boxes if p == phrase]
            if merged:
                true = [[*(min(b[i] for b in true) for i in (0, 1)), *(max(b[i] for b in true) for i in (2, 3))]]
            mine = [b for p, b, _ in sorted(rows, key=lambda r: -r[2]) if p == phrase]
            for name, k in (("R@1", 1), ("R@5", 5), ("R@10", 10), ("upper", 10**6)):
                hits[name].append(any(iou(m, t) >= 0.5 for m in mine[:k] for t in true))
    return {**{k: 100 * sum(v) / len(v) for k, v in hits.items()}, "phrases": len(hits["R@1"])}


BOX = st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(2, 10), st.integers(2, 10)).map(
    lambda v: [float(v[0]), float(v[1]), float(v[0] + v[2]), float(v[1] + v[3])]
)
TRUTH = st.lists(st.tuples(st.integers(0, 1), BOX), min_size=1, max_size=4)
FOUND = st.lists(st.tuples(st.integers(0, 1), BOX, st.integers(0, 20).map(lambda n: n / 20)), max_size=14)


@settings(deadline=None, max_examples=40)
@given(rows=st.lists(st.tuples(TRUTH, FOUND), min_size=1, max_size=3))
def test_against_loops_over_boxes(rows: list[tuple]) -> None:
    evaluator = Flickr30kEvaluator(records=[record(n, t) for n, (t, _) in enumerate(rows)])
    evaluator.process([{"image_id": n} for n in range(len(rows))], [output(f) for _, f in rows])
    evaluator.process([{"image_id": 0}], [output([])])  # a sampler that pads: the second time does not count
    result = evaluator.evaluate()
    for kind, merged in zip(KINDS, (False, True), strict=True):
        assert result[kind] == pytest.approx(counted([t for t, _ in rows], [f for _, f in rows], merged))


def test_one_of_many_boxes_or_the_box_around_them() -> None:
    """Two true boxes side by side: finding one is a hit of any, finding their hull a hit of merged."""
    left, right, both = [0.0, 0.0, 4.0, 10.0], [6.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 10.0]
    records = [record(1, [(0, left), (0, right)])]
    for box, expected in ((left, (100, 0)), (both, (0, 100)), ([0.0, 10.0, 9.0, 19.0], (0, 0))):
        evaluator = Flickr30kEvaluator(records=records)
        evaluator.process([{"image_id": 1}], [output([(0, box, 0.5), (1, both, 0.9)])])
        result = evaluator.evaluate()
        assert tuple(result[k]["R@1"] for k in KINDS) == expected and result["recall_any"]["phrases"] == 1
    assert "R@5 0.0" in print_results({"flickr30k_val": result}) and "recall_merged/R@10" in flatten(result)


def test_the_order_is_by_score_and_a_half_is_enough() -> None:
    """IoU is exactly 0.5, at the second place."""
    evaluator = Flickr30kEvaluator(records=[record(1, [(0, [0.0, 0.0, 10.0, 10.0])])], topk=(1, 2))
    evaluator.process([{"image_id": 1}], [output([(0, [0.0, 0.0, 10.0, 5.0], 0.2), (0, [0.0, 0.0, 2.0, 5.0], 0.3)])])
    assert evaluator.evaluate()["recall_any"] == {"R@1": 0.0, "R@2": 100.0, "upper": 100.0, "phrases": 1.0}


def test_what_cannot_be_compared_is_refused() -> None:
    records = [record(1, [(0, [0.0, 0.0, 9.0, 9.0])], phrases_eval=[[[0, 1]], [[2, 3]]])]
    evaluator = Flickr30kEvaluator(records=records)
    with pytest.raises(EvaluationError, match="class 2 for the sentence 'a b c d e f', which has 2 phrases"):
        evaluator.process([{"image_id": 1}], [output([(2, [0.0, 0.0, 9.0, 9.0], 0.5)])])
    with pytest.raises(EvaluationError, match="not finite"):
        evaluator.process([{"image_id": 1}], [output([(0, [0.0, 0.0, 9.0, float("nan")], 0.5)])])
    with pytest.raises(EvaluationError, match="no sentence with id 9"):
        evaluator.process([{"image_id": 9}], [output([])])
    with pytest.raises(EvaluationError, match="no sentence of 'records' was processed"):
        evaluator.evaluate()
    with pytest.raises(EvaluationError, match="no phrase with a box"):
        Flickr30kEvaluator(records=[record(1, [])])
    for wrong in ({"topk": (0, 1)}, {"topk": ()}, {"iou_threshold": 0.0}):
        with pytest.raises(ConfigError, match="topk="):
            Flickr30kEvaluator(records=records, **wrong)


class Teller:
    """Says the truth about every phrase, the box around it with a higher score."""

    def __init__(self, records: list[dict]) -> None:
        self.boxes = {r["image_id"]: [(a["category_id"], a["bbox"]) for a in r["annotations"]] for r in records}

    def __call__(self, inputs: list[dict]) -> list[dict]:
        outputs = []
        for x in inputs:
            rows = [(p, [a, b, a + w, b + h], 0.5) for p, (a, b, w, h) in self.boxes[x["image_id"]]]
            for phrase in {p for p, _, _ in rows}:
                own = [b for p, b, _ in rows if p == phrase]
                hull = [*(min(b[i] for b in own) for i in (0, 1)), *(max(b[i] for b in own) for i in (2, 3))]
                rows = [*rows, (phrase, hull, 0.9)]
            assert len(x["caption"].phrases) > max(p for p, _, _ in rows)
            outputs.append(output(rows))
        return outputs


@pytest.fixture
def sentences(tmp_path: Path) -> str:
    """A stand-in for Flickr30k Entities: pictures of shapes with sentences, in MDETR's form."""
    written = write_coco(tmp_path, 6, split="val", world=ShapesWorld(image_size=64), captions=2, referring=0, questions=0)
    name = f"flickr30k_stand_in_{tmp_path.name}"
    register_grounding_folder(name, root=tmp_path, annotations=written.files["grounding"].name)
    return name


def test_from_files_to_figures(sentences: str) -> None:
    records = get_records(sentences)
    assert len(records) == 12 and all("phrases_eval" in r for r in records)
    loader = build_test_loader(dataset=sentences, mapper=DatasetMapper(is_train=False), batch_size=5)
    result = evaluate(Teller(records), loader, Flickr30kEvaluator(sentences), progress=False)
    phrases = sum(len({a["category_id"] for a in r["annotations"]}) for r in records)
    assert result["recall_merged"] == {"R@1": 100, "R@5": 100, "R@10": 100, "upper": 100, "phrases": phrases}
    any_box = result["recall_any"]
    assert any_box["R@5"] == 100 and 0 < any_box["R@1"] <= 100 and any_box["phrases"] == phrases


def shared(records: list[dict], outputs: list[dict]) -> dict:
    """One of two processes: it has every second sentence, and both have the first."""
    rank = torch.distributed.get_rank()
    evaluator = Flickr30kEvaluator(records=records)
    for n in sorted({0, *range(rank, len(records), 2)}):
        evaluator.process([{"image_id": n}], [outputs[n]])
    return evaluator.evaluate()


@pytest.mark.slow
def test_two_processes_give_what_one_does() -> None:
    generator = torch.Generator().manual_seed(0)
    draw = lambda n: torch.rand(n, 4, generator=generator) * 8 + torch.tensor([0.0, 0.0, 9.0, 9.0])  # noqa: E731
    records = [record(n, [(k % 2, draw(1)[0].tolist()) for k in range(3)]) for n in range(5)]
    outputs = [output([(k % 2, b.tolist(), k / 9) for k, b in enumerate(draw(6))]) for _ in records]
    alone = Flickr30kEvaluator(records=records)
    alone.process([{"image_id": n} for n in range(5)], outputs)
    expected = alone.evaluate()
    assert run_gloo(shared, records, outputs, world_size=2) == [expected, {}]
    assert 0 < expected["recall_any"]["R@1"] and expected["recall_any"]["phrases"] == 10
