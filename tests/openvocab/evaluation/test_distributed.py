"""Two processes give what one gives. All in one launch: starting processes is what costs time."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.structures import Instances

from openvocab.evaluation import COCODetectionEvaluator, ReferringMaskEvaluator
from openvocab.testing.gloo import run_gloo
from openvocab.testing.records import encode_mask

from .federated import make_lvis, to_batch

Perfect = Callable[..., tuple[list[dict], list[dict]]]


def _evaluate(annotations: str, inputs: list, outputs: list, output_dir: str | None) -> dict:
    """Each rank sees its part; the second picture is given to both, as a sampler that pads would."""
    from detectron2.utils import comm

    mine = [[0, 1], [1, 2, 3]][comm.get_rank()]
    evaluator = COCODetectionEvaluator(annotations=annotations, output_dir=output_dir)
    evaluator.process([inputs[i] for i in mine], [outputs[i] for i in mine])
    return evaluator.evaluate()


def _work(annotations: str, inputs: list, outputs: list, folder: str) -> dict:
    """Evaluate with a folder, without one, and with a full disk on rank 1."""
    from detectron2.utils import comm

    from openvocab.errors import EvaluationError
    from openvocab.evaluation import gather

    messages: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    log = logging.getLogger("openvocab.evaluation.base")
    log.setLevel(logging.INFO)
    log.addHandler(Keep())
    found: dict = {"folder": _evaluate(annotations, inputs, outputs, folder), "messages": list(messages)}
    found["no folder"] = _evaluate(annotations, inputs, outputs, None)
    found["referring"] = _referring([[0, 1], [1, 2]][comm.get_rank()])

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    if comm.get_rank() == 1:
        gather.atomic_write = full
    try:
        _evaluate(annotations, inputs, outputs, folder)
    except EvaluationError as error:
        found["full disk"] = str(error)
    try:
        _evaluate(annotations, inputs, outputs, f"{annotations}/no_folder")  # below a file
    except EvaluationError as error:
        found["no place"] = str(error)
    return found


def _referring(mine: list[int]) -> dict:
    """Evaluate sentences `mine` of three; of the n-th, n of four columns are found."""
    records, outputs = [], []
    for n in range(3):
        mask = np.zeros((4, 4), dtype=bool)
        mask[:, :n] = True
        truth = {"category_id": 0, "segmentation": encode_mask(np.ones((4, 4)))}
        records.append({"image_id": n, "height": 4, "width": 4, "caption": "a", "phrases": [[[0, 1]]], "annotations": [truth]})
        masks, ones = torch.from_numpy(mask)[None], torch.ones(1)
        outputs.append({"instances": Instances((4, 4), pred_masks=masks, scores=ones, pred_classes=torch.zeros(1).long())})
    evaluator = ReferringMaskEvaluator(records=records)
    evaluator.process([{"image_id": n} for n in mine], [outputs[n] for n in mine])
    return evaluator.evaluate()


def _work_lvis(annotations: str, inputs: list, outputs: list, folder: str) -> list[dict]:
    """Evaluate with each protocol; rank 1 also sees some of rank 0's pictures."""
    from detectron2.utils import comm

    from openvocab.evaluation import LVISEvaluator, LVISFixedEvaluator

    mine = slice(0, 14) if comm.get_rank() == 0 else slice(10, None)
    results = []
    for evaluator in (
        LVISEvaluator(annotations=annotations, output_dir=folder, max_dets=20),
        LVISFixedEvaluator(annotations=annotations, output_dir=folder, max_per_class=12),
    ):
        evaluator.process(inputs[mine], outputs[mine])
        results.append(evaluator.evaluate())
    return results


@pytest.mark.slow
def test_two_ranks_on_lvis(tmp_path: Path) -> None:
    """With masks, ties, a limit a picture and a limit a class; what a killed run left lies in the way."""
    from openvocab.evaluation import LVISEvaluator, LVISFixedEvaluator

    content, found = make_lvis(4, images=24, most=40, levels=3, masks=True)
    path, out = tmp_path / "lvis.json", tmp_path / "out"
    path.write_text(json.dumps(content))
    (out / ".shards_killed").mkdir(parents=True)
    (out / ".shards_killed" / "rank0.npz").write_bytes(b"half a fi")
    inputs, outputs = to_batch(found)
    expected = []
    for evaluator in (
        LVISEvaluator(annotations=path, max_dets=20, output_dir=tmp_path / "one"),
        LVISFixedEvaluator(annotations=path, max_per_class=12, output_dir=tmp_path / "one"),
    ):
        evaluator.process(inputs, outputs)
        expected.append(evaluator.evaluate())
    assert 0 < expected[0]["segm"]["AP"] < 100 and 0 < expected[1]["segm_fixed"]["AP"] < 100

    first, second = run_gloo(_work_lvis, str(path), inputs, outputs, str(out))

    assert repr(first) == repr(expected) and second == [{}, {}]
    files = sorted(p.name for p in (tmp_path / "one").iterdir())
    assert len(files) == 2 and sorted(p.name for p in out.iterdir()) == [".shards_killed", *files]
    for name in files:
        assert (out / name).read_text() == (tmp_path / "one" / name).read_text()


@pytest.mark.slow
def test_two_ranks(annotations: Path, perfect: Perfect, tmp_path: Path) -> None:
    inputs, outputs = perfect()
    outputs[0]["instances"].pred_boxes.tensor += 6  # so that the result is not just 100
    one = COCODetectionEvaluator(annotations=annotations)
    one.process(inputs, outputs)
    expected = one.evaluate()
    assert 0 < expected["bbox"]["AP"] < 100

    first, second = run_gloo(_work, str(annotations), inputs, outputs, str(tmp_path / "out"))

    assert repr(first["folder"]) == repr(first["no folder"]) == repr(expected)  # repr: nan is not equal to itself
    assert second["folder"] == second["no folder"] == second["referring"] == {}
    assert first["referring"] == _referring([0, 1, 2]) and first["referring"]["segm_referring"]["mIoU"] == 25
    assert any("are on rank 0, this is rank 1" in m for m in second["messages"])
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["coco_instances_results.json"]
    assert len(json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())) == 3  # none twice
    for rank in (first, second):  # one rank alone would leave the other waiting
        assert "rank 1 cannot write its predictions" in rank["full disk"] and "No space" in rank["full disk"]
        assert "rank 0 cannot make a folder" in rank["no place"]
