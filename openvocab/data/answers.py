"""Answers to questions: how VQA's protocol reads them, what they are worth, and the list that a classifier chooses from.

VQA: Antol et al. 2015 (arXiv 1505.00468), VQAv2: Goyal et al. 2017 (arXiv 1612.00837).
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from openvocab.errors import DataError, cli_main

AGREE = 3
"""So many annotators with one answer make it fully right."""
NUMBERS = dict(zip("zero one two three four five six seven eight nine ten".split(), map(str, range(11)), strict=True))
NUMBERS["none"] = "0"
ARTICLES = frozenset({"a", "an", "the"})
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
MAX_PERIODS = 32  # the official code hands a flag where `re.sub` takes a count
_ONE = """
    ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's isn't it'd it'll
    ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't shan't should've shouldn't somebody'll somebody's
    someone'd someone'll someone's something'd something'll that's there'd there're there's they'd they'll they're they've 'twas
    wasn't we've weren't what'll what're what's what've when's where'd where's where've who'd who'll who's who've why'll why're
    why's won't would've wouldn't y'all you'd you'll you're you've""".split()
_TWO = """
    couldn't've hadn't've he'd've it'd've mightn't've she'd've shouldn't've somebody'd've someone'd've something'd've there'd've
    they'd've we'd've who'd've wouldn't've you'd've""".split()


def _contractions() -> dict[str, str]:
    """Return what people type for a contraction -> the contraction: "dont" -> "don't", "couldnt've" -> "couldn't've"."""
    table = {word.replace("'", ""): word for word in _ONE}
    for word in _TWO:
        first, second = word.index("'"), word.rindex("'")
        table.update({word[:first] + word[first + 1 :]: word, word[:second] + word[second + 1 :]: word})
    return table


CONTRACTIONS = _contractions()


def clean(answer: str) -> str:
    """Return an answer on one line, without blanks around it."""
    return " ".join(str(answer).replace("\t", " ").replace("\n", " ").strip().split(" "))


@lru_cache(maxsize=2**16)
def normalize_answer(answer: str) -> str:
    """Return an answer as VQA's evaluation compares it: no punctuation or articles, lower case, digits, apostrophes.

    A mark beside a blank is dropped, any other becomes a blank; but none does where the answer holds a number such as "1,000".
    """
    words = [NUMBERS.get(w, w) for w in _without_punctuation(clean(answer)).lower().split()]
    return " ".join(CONTRACTIONS.get(w, w) for w in words if w not in ARTICLES)


def _without_punctuation(text: str) -> str:
    number, result = re.search(r"\d,\d", text) is not None, text
    for mark in PUNCTUATION:
        if mark in text:
            dropped = number or f"{mark} " in text or f" {mark}" in text
            result = result.replace(mark, "" if dropped else " ")
    return re.sub(r"\.(?!\d)", "", result, count=MAX_PERIODS)


def answer_accuracy(answer: str, truths: Sequence[str]) -> float:
    """Return what an answer is worth, 0..1: the mean over all sets of all annotators but one of min(who agree / 3, 1).

    As in the official code, answers are normalised only where the annotators do not all say the same. A question with one answer
    only (ours, for sets such as ShapesWorld) is answered rightly or wrongly, both normalised.

    Args:
        answer: the model's.
        truths: an answer an annotator; VQA has ten.

    Raises:
        DataError: for no truths.
    """
    if not truths:
        raise DataError("a question without true answers cannot be evaluated")
    if len(truths) == 1:
        return float(normalize_answer(answer) == normalize_answer(truths[0]))
    answer, truths = clean(answer), [clean(t) for t in truths]
    if len(set(truths)) > 1:
        answer, truths = normalize_answer(answer), [normalize_answer(t) for t in truths]
    agree = sum(t == answer for t in truths)
    left_out = agree * min((agree - 1) / AGREE, 1.0) + (len(truths) - agree) * min(agree / AGREE, 1.0)
    return left_out / len(truths)


def soft_scores(answers: Sequence[str]) -> dict[str, float]:
    """Return a question's training targets: min(annotators / 3, 1) of each answer, normalised; 1 where there is one annotator."""
    counts = Counter(normalize_answer(a) for a in answers)
    counts.pop("", None)
    return {a: 1.0 if len(answers) == 1 else min(n / AGREE, 1.0) for a, n in counts.items()}


def most_common(answers: Sequence[str]) -> str:
    """Return the answer most annotators gave, normalised; of equals, the first in the alphabet."""
    counts = Counter(normalize_answer(a) for a in answers)
    return min(counts, key=lambda a: (-counts[a], a))


def answer_vocabulary(records: Iterable[Mapping], min_count: int = 9) -> list[str]:
    """Return the answers that are the common one of at least `min_count` questions, the most frequent first.

    9 is the literature's number for VQAv2 (Teney et al. 2017, arXiv 1708.02711); train and val then give about 3,129.

    Raises:
        DataError: if there are none.
    """
    counts = Counter(most_common(r["answers"]) for r in records if r.get("answers"))
    found = sorted((a for a, n in counts.items() if a and n >= min_count), key=lambda a: (-counts[a], a))
    if not found:
        raise DataError(f"no answer is that of {min_count} questions; lower min_count")
    return found


def read_answers(path: str | Path) -> tuple[str, ...]:
    """Read an answer list: a json list of texts, in the order of the classes.

    Raises:
        DataError: if it is missing, no such list, or names an answer twice.
    """
    from .coco_json import read_json

    if not Path(path).is_file():
        raise DataError(
            f"there is no answer list {path}; write it: python -m openvocab.data.answers --output {path} vqa_v2_train vqa_v2_val"
        )
    content = read_json(Path(path))
    if not isinstance(content, list) or not content or not all(isinstance(a, str) and a for a in content):
        raise DataError(f"{path} is no answer list: it must be a json list of texts")
    if len(set(content)) < len(content):
        raise DataError(f"{path} names an answer twice: {Counter(content).most_common(1)[0][0]!r}")
    return tuple(content)


def main(argv: list[str] | None = None) -> int:
    """Write the answer list of registered sets of questions."""
    from openvocab.io import atomic_write

    from .catalog import get_records

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("datasets", nargs="+", help="such as vqa_v2_train vqa_v2_val")
    parser.add_argument("--min-count", type=int, default=9, help="questions that an answer must be the common one of")
    parser.add_argument("--output", type=Path, required=True, help="the json file")
    args = parser.parse_args(argv)
    answers = answer_vocabulary((r for name in args.datasets for r in get_records(name)), args.min_count)
    with atomic_write(args.output, "w") as file:
        json.dump(answers, file, indent=0, ensure_ascii=False)
    print(f"{len(answers)} answers are in {args.output}")
    return 0


if __name__ == "__main__":
    cli_main(main)
