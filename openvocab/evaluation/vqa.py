"""Accuracy of answers to questions, as VQA measures it (Antol et al. 2015, arXiv 1505.00468)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from openvocab.data.answers import answer_accuracy, clean, normalize_answer

from .keys import CONSTANT, VQA, group_key, mean_of, percent
from .texts import TextEvaluator

ACCURACY = "accuracy"


class VQAEvaluator(TextEvaluator):
    """VQA's soft accuracy, with its normalisation of answers (see `openvocab.data.answers.answer_accuracy`).

    Inputs bring "question_id", outputs "answer". Results, in percent: {"vqa": {"accuracy", "accuracy_yes_no", "accuracy_number",
    "accuracy_other", "accuracy_constant": of the best single answer to all questions, "accuracy_constant_by_type": of the best
    single answer to each question type; "questions": how many}}. The two constants (ours) see the truth and no picture: a model
    below them has learned nothing, or nothing beyond the kind of question.
    """

    id_key, output_key, truth_key, what = "question_id", "answer", "answers", "questions"

    def score(self, records: list[dict], texts: list[str]) -> dict:
        values = [answer_accuracy(text, r["answers"]) for text, r in zip(texts, records, strict=True)]
        result = {ACCURACY: percent(mean_of(values))}
        kinds = [r.get("answer_type", "other") for r in records]
        for kind in sorted(set(kinds)):
            mine = mean_of(v for v, k in zip(values, kinds, strict=True) if k == kind)
            result[group_key(ACCURACY, kind.replace("/", "_").replace(" ", "_"))] = percent(mine)
        result.update(constants(records))
        return {VQA: {**result, "questions": float(len(records))}}


def constants(records: Sequence[dict]) -> dict[str, float]:
    """Return the accuracy, in percent, of the best single answer to all questions, and to the questions of each type."""
    types: dict[str, list[dict]] = {}
    for record in records:
        types.setdefault(record.get("question_type", ""), []).append(record)
    by_type = sum(best_constant(rows) for rows in types.values()) / len(records)
    name = group_key(ACCURACY, CONSTANT)
    return {name: percent(best_constant(records) / len(records)), group_key(name, "by_type"): percent(by_type)}


def best_constant(records: Sequence[dict]) -> float:
    """Return the summed accuracy of the answer that, given to all questions, is worth the most."""
    exact: Counter[str] = Counter()
    normal: Counter[str] = Counter()
    for record in records:
        truths = [clean(t) for t in record["answers"]]
        if len(truths) > 1 and len(set(truths)) == 1:  # then nothing is normalised
            exact[truths[0]] += answer_accuracy(truths[0], truths)
        else:
            normal.update({normalize_answer(t): answer_accuracy(t, truths) for t in truths})
    return max(exact[a] + normal[normalize_answer(a)] for a in {*exact, *normal})
