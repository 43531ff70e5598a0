"""VQA's reading of answers: cases worked out by hand, the accuracy by its definition, the list of answers."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openvocab.data.answers import (
    CONTRACTIONS,
    answer_accuracy,
    answer_vocabulary,
    main,
    most_common,
    normalize_answer,
    read_answers,
    soft_scores,
)
from openvocab.errors import DataError


@pytest.mark.parametrize(
    ("given_answer", "normal"),
    [
        ("Yes", "yes"),
        ("The  dog\n", "dog"),
        ("two", "2"),
        ("none", "0"),
        ("a", ""),
        ("dont know", "don't know"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("yellow/green", "yellow green"),  # a mark between letters parts words
        ("yellow, green", "yellow green"),  # one beside a blank is dropped
        ("1,000", "1000"),  # and so are all, where a number holds a comma
        ("1,000-2,000", "10002000"),
        ("3.5", "3.5"),
        ("u.s. mail.", "us mail"),
        ("what?", "what"),  # becomes a blank at the end
    ],
)
def test_normal_forms(given_answer: str, normal: str) -> None:
    assert normalize_answer(given_answer) == normal


def test_normalising_twice_changes_nothing_for_contractions() -> None:
    assert CONTRACTIONS["wont"] == "won't" and "shed" not in CONTRACTIONS and "its" not in CONTRACTIONS
    assert all(normalize_answer(right) == right for right in CONTRACTIONS.values())


ANSWERS = st.sampled_from(["red", "blue", "two", "2", "a red", "Red"])


@settings(deadline=None, max_examples=60)
@given(answer=ANSWERS, truths=st.lists(ANSWERS, min_size=4, max_size=10))
def test_accuracy_is_the_mean_over_all_sets_of_nine(answer: str, truths: list[str]) -> None:
    """By its definition: leave one annotator out, and count those of the others who agree."""
    same = len(set(truths)) == 1
    mine, others = (answer, truths) if same else (normalize_answer(answer), [normalize_answer(t) for t in truths])
    parts = [min(sum(t == mine for t in rest) / 3, 1.0) for rest in combinations(others, len(others) - 1)]
    assert answer_accuracy(answer, truths) == pytest.approx(sum(parts) / len(parts))


def test_accuracy_by_hand() -> None:
    ten = ["yes"] * 2 + ["no"] * 8
    assert answer_accuracy("yes", ten) == pytest.approx((2 * 1 / 3 + 8 * 2 / 3) / 10)  # 0.6
    assert answer_accuracy("no", ten) == 1.0 and answer_accuracy("maybe", ten) == 0.0
    assert answer_accuracy("Two", ["2"]) == 1.0 and answer_accuracy("3", ["2"]) == 0.0
    assert answer_accuracy("Two", ["2"] * 10) == 0.0  # nothing is normalised where all say the same
    with pytest.raises(DataError, match="without true answers"):
        answer_accuracy("yes", [])


def test_training_targets() -> None:
    assert soft_scores(["Yes", "yes", "no"] + ["maybe"] * 7) == pytest.approx({"yes": 2 / 3, "no": 1 / 3, "maybe": 1.0})
    assert soft_scores(["two"]) == {"2": 1.0}
    assert soft_scores([]) == {} and soft_scores(["a"]) == {}


def test_the_list_holds_answers_of_enough_questions() -> None:
    records = [{"answers": ["red", "red", "blue"]}] * 3 + [{"answers": ["blue"]}] * 2 + [{"answers": ["green"]}, {"answers": []}]
    assert answer_vocabulary(records, min_count=2) == ["red", "blue"]
    assert answer_vocabulary(records, min_count=1) == ["red", "blue", "green"]
    assert most_common(["red", "blue", "red", "blue"]) == "blue"
    with pytest.raises(DataError, match="lower min_count"):
        answer_vocabulary(records, min_count=9)


def test_the_command_writes_the_list(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from openvocab.testing.quick_tasks import shapes_tasks

    name = shapes_tasks(num=4, image_size=64)["vqa"]
    target = tmp_path / "answers.json"
    assert main([name, "--min-count", "1", "--output", str(target)]) == 0
    answers = read_answers(target)
    assert f"{len(answers)} answers" in capsys.readouterr().out and len(set(answers)) == len(answers) > 2


@pytest.mark.parametrize("content", [{}, [], ["a", 1], ["a", "a"]])
def test_what_is_no_list_is_refused(tmp_path: Path, content: object) -> None:
    path = tmp_path / "answers.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="answers.json"):
        read_answers(path)
    with pytest.raises(DataError, match="python -m openvocab.data.answers"):
        read_answers(tmp_path / "absent.json")
