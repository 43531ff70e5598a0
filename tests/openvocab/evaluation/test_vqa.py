"""Accuracy of answers over a set: by hand, by type, against constants, and what is refused."""

from __future__ import annotations

import logging

import pytest

from openvocab.data.answers import answer_accuracy, normalize_answer
from openvocab.errors import DataError, EvaluationError
from openvocab.evaluation import VQAEvaluator, print_results
from openvocab.evaluation.vqa import best_constant


def record(number: int, answers: list[str], answer_type: str = "other", question_type: str = "what") -> dict:
    more = {"answer_type": answer_type, "question_type": question_type}
    return {"question_id": number, "image_id": 1, "question": "?", "answers": answers, **more}


RECORDS = [
    record(1, ["yes"] * 10, "yes/no", "is"),
    record(2, ["no"] * 2 + ["yes"] * 8, "yes/no", "is"),
    record(3, ["Red"]),
    record(4, ["two"], "number", "how many"),
]


def run(evaluator: VQAEvaluator, answers: dict[int, str]) -> dict:
    evaluator.reset()
    evaluator.process([{"question_id": i} for i in answers], [{"answer": a} for a in answers.values()])
    return evaluator.evaluate()


def test_by_hand() -> None:
    result = run(VQAEvaluator(records=RECORDS), {1: "yes", 2: "no", 3: "blue", 4: "2"})["vqa"]
    assert result["accuracy_yes_no"] == pytest.approx(100 * (1 + 0.6) / 2)
    assert result["accuracy_other"] == 0 and result["accuracy_number"] == 100 and result["questions"] == 4
    assert result["accuracy"] == pytest.approx(100 * (1 + 0.6 + 0 + 1) / 4)
    assert result["accuracy_constant"] == pytest.approx(100 * 2 / 4)  # "yes" everywhere
    assert result["accuracy_constant_by_type"] == 100.0
    assert "accuracy 65.0" in print_results({"vqa_v2_val": {"vqa": result}})


def test_constants_are_the_best_of_all_answers() -> None:
    """Against trying every answer there is, also where nothing is normalised because all say the same."""
    records = [*RECORDS, record(5, ["Two"] * 10), record(6, ["a two", "2", "3", "3"]), record(7, ["3"] * 3 + ["Two"])]
    every = {a for r in records for t in r["answers"] for a in (t, normalize_answer(t))}
    best = max(sum(answer_accuracy(a, r["answers"]) for r in records) for a in every)
    assert best_constant(records) == pytest.approx(best)


def test_a_question_counts_once_and_missing_ones_are_told_of(caplog: pytest.LogCaptureFixture) -> None:
    evaluator = VQAEvaluator(records=RECORDS)
    with pytest.raises(EvaluationError, match="nothing of"):
        evaluator.evaluate()
    evaluator.process([{"question_id": 3}, {"question_id": 3}], [{"answer": "red"}, {"answer": "blue"}])
    with caplog.at_level(logging.WARNING):
        assert evaluator.evaluate()["vqa"]["accuracy"] == 100
    assert "1 of its 4 questions" in caplog.text


def test_what_cannot_be_compared_is_refused() -> None:
    evaluator = VQAEvaluator(records=RECORDS)
    with pytest.raises(EvaluationError, match="no question_id 7"):
        evaluator.process([{"question_id": 7}], [{"answer": "red"}])
    with pytest.raises(EvaluationError, match="2 outputs for 1"):
        evaluator.process([{"question_id": 1}], [{}, {}])
    with pytest.raises(EvaluationError, match="no 'answer'"):
        evaluator.process([{"question_id": 1}], [{"instances": None}])
    with pytest.raises(EvaluationError, match="without answers"):
        VQAEvaluator(records=[record(1, [])])
    with pytest.raises(EvaluationError, match="dataset_name or records"):
        VQAEvaluator()
    with pytest.raises(DataError, match="no data set"):
        VQAEvaluator("vqa_nowhere")
