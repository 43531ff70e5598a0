"""BLEU-4 and CIDEr: cases worked out by hand, our tokenizer, two processes' parts, and a missing library."""

from __future__ import annotations

import math
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openvocab.errors import EvaluationError, MissingDependencyError
from openvocab.evaluation import CaptionEvaluator
from openvocab.evaluation.captions import bleu4, caption_words, cider
from openvocab.evaluation.texts import _texts_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A man, who rides!", "a man who rides"),
        ("The dog isn't black-and-white.", "the dog is n't black-and-white"),
        ("a man's 2.5 hats", "a man 's 2.5 hats"),
        ("...", ""),
    ],
)
def test_words(text: str, words: str) -> None:
    assert caption_words(text) == words


def test_bleu_by_hand() -> None:
    """"a b c d e" against "a b c d f": precisions 4/5, 3/4, 2/3, 1/2; no brevity penalty."""
    truth, found = {0: ["a b c d f"]}, {0: ["a b c d e"]}
    assert bleu4(truth, found) == pytest.approx((4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25, rel=1e-4)
    short = {0: ["a b c d"]}
    assert bleu4({0: ["a b c d e"]}, short) == pytest.approx(math.exp(1 - 5 / 4), rel=1e-4)


def test_cider_by_hand() -> None:
    """Two pictures, one reference each, "red box" and "blue box"; all found but that the second is said to be a "red box".

    idf = log(2 / df): 0 for "box", log 2 for the colors and the bigrams. Picture 0 has both vectors equal: similarity 1 for 1- and
    2-grams, 0 for longer ones, which do not exist: (1 + 1 + 0 + 0) / 4 x 10 = 5. Picture 1 shares "box" alone, whose weight is 0.
    """
    truth, found = {0: ["red box"], 1: ["blue box"]}, {0: ["red box"], 1: ["red box"]}
    assert cider(truth, found) == pytest.approx(2.5, rel=1e-6)


def test_cider_punishes_length() -> None:
    """CIDEr-D: a length off by 1 costs the factor exp(-1 / 72)."""
    truth = {0: ["red box"], 1: ["blue ring"]}
    longer = {0: ["red box box"], 1: ["blue ring"]}
    idf = math.log(2)  # of every 1-gram and 2-gram of the references; "box box" is of no document: counted as df 1
    unigrams = (idf * idf + idf * idf) / (math.sqrt(2) * idf * math.sqrt(1 + 4) * idf)  # clipped: min(2, 1) = 1 "box"
    bigrams = 1 / math.sqrt(2)
    mine = 10 * math.exp(-1 / 72) * (unigrams + bigrams) / 4
    assert cider(truth, longer) == pytest.approx((mine + 5) / 2, rel=1e-4)


def records() -> list[dict]:
    texts = [["a red box", "a box"], ["a blue ring"], ["two red stars on a grey background"]]
    return [{"image_id": i, "captions": t} for i, t in enumerate(texts)]


def test_the_evaluator() -> None:
    evaluator = CaptionEvaluator(records=records())
    outputs = [{"caption": r["captions"][0].upper() + "."} for r in records()]
    evaluator.process([{"image_id": i} for i in range(3)], outputs)
    perfect = evaluator.evaluate()["caption"]
    assert perfect["pictures"] == 3 and perfect["CIDEr"] > 2 * perfect["CIDEr_constant"] > 0
    evaluator.reset()
    evaluator.process([{"image_id": i} for i in range(3)], [{"caption": "nothing here"}] * 3)
    assert evaluator.evaluate()["caption"]["CIDEr"] == 0
    evaluator.constants = 0
    assert "CIDEr_constant" not in evaluator.evaluate()["caption"]
    with pytest.raises(EvaluationError, match="no image_id 9"):
        evaluator.process([{"image_id": 9}], outputs[:1])


@settings(deadline=None, max_examples=30)
@given(texts=st.dictionaries(st.integers(0, 50), st.text(max_size=12), max_size=5))
def test_texts_survive_the_way_to_rank_0(texts: dict[int, str]) -> None:
    """What a process writes is read as it was: any characters, empty texts, no texts at all."""
    import io

    import numpy as np

    raw = [t.encode("utf-8", "surrogatepass") for t in texts.values()]
    file = io.BytesIO()
    lengths, content = np.array([len(t) for t in raw], dtype=np.int64), np.frombuffer(b"".join(raw), dtype=np.uint8)
    np.savez(file, places=np.array(list(texts), dtype=np.int64), lengths=lengths, content=content)
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        assert _texts_of(dict(arrays)) == texts


def test_a_missing_library_says_which_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pycocoevalcap", "pycocoevalcap.cider", "pycocoevalcap.cider.cider"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match=r"\[captions\]"):
        cider({0: ["a"]}, {0: ["a"]})
    with pytest.raises(MissingDependencyError, match="pycocoevalcap"):
        CaptionEvaluator(records=records())
