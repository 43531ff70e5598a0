"""Two processes give what one gives. All in one launch: starting processes is what costs time."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

from openvocab.evaluation import COCODetectionEvaluator
from openvocab.testing.gloo import run_gloo

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

    log = logging.getLogger("openvocab.evaluation.coco")
    log.setLevel(logging.INFO)
    log.addHandler(Keep())
    found: dict = {"folder": _evaluate(annotations, inputs, outputs, folder), "messages": list(messages)}
    found["no folder"] = _evaluate(annotations, inputs, outputs, None)

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


def test_two_ranks(annotations: Path, perfect: Perfect, tmp_path: Path) -> None:
    inputs, outputs = perfect()
    outputs[0]["instances"].pred_boxes.tensor += 6  # so that the result is not just 100
    one = COCODetectionEvaluator(annotations=annotations)
    one.process(inputs, outputs)
    expected = one.evaluate()
    assert 0 < expected["bbox"]["AP"] < 100

    first, second = run_gloo(_work, str(annotations), inputs, outputs, str(tmp_path / "out"))

    assert repr(first["folder"]) == repr(first["no folder"]) == repr(expected)  # repr: nan is not equal to itself
    assert second["folder"] == second["no folder"] == {}
    assert any("are on rank 0, this is rank 1" in m for m in second["messages"])
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["coco_instances_results.json"]
    assert len(json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())) == 3  # none twice
    for rank in (first, second):  # one rank alone would leave the other waiting
        assert "rank 1 cannot write its predictions" in rank["full disk"] and "No space" in rank["full disk"]
        assert "rank 0 cannot make a folder" in rank["no place"]
