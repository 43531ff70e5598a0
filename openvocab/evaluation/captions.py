"""BLEU-4 and CIDEr of captions, by the COCO caption evaluation's own code (arXiv 1504.00325)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from openvocab.errors import missing

from .keys import CAPTION, CONSTANT, group_key, percent
from .texts import TextEvaluator

_WORD = re.compile(r"[a-z]+(?=n't\b)|n't\b|'[a-z]+|\w+(?:[-./,]\w+)*")

Texts = Mapping[int, list[str]]


class CaptionEvaluator(TextEvaluator):
    """BLEU-4 (Papineni et al. 2002) and CIDEr (Vedantam et al. 2015, arXiv 1411.5726) of one caption a picture.

    Both are computed by `pycocoevalcap`, the Python 3 release of the COCO caption evaluation (its CIDEr is CIDEr-D); only its
    tokenizer, a Java program, is replaced by `caption_words` (ours), so that figures on COCO may differ in the last digit.

    Inputs bring "image_id", outputs "caption", records "captions". Results, times 100 as papers print them: {"caption": {"BLEU4",
    "CIDEr", "CIDEr_constant": of the best single caption for all pictures, among the most frequent true ones (ours: it sees the
    truth and no picture); "pictures": how many}}.

    Args:
        dataset_name: a registered set.
        constants: captions that are tried for all pictures; 0 leaves that out (each costs an evaluation more).
        options: the other arguments of `TextEvaluator`.

    Raises:
        MissingDependencyError: without pycocoevalcap (the extra "captions").
    """

    id_key, output_key, truth_key, what = "image_id", "caption", "captions", "pictures"

    def __init__(self, dataset_name: str | None = None, *, constants: int = 20, **options: Any) -> None:
        _scorer("cider", "Cider")  # what is missing shows before a training, not behind it
        super().__init__(dataset_name, **options)
        self.constants = int(constants)

    def score(self, records: list[dict], texts: list[str]) -> dict:
        truth = {i: [caption_words(t) for t in r["captions"]] for i, r in enumerate(records)}
        found = {i: [caption_words(text)] for i, text in enumerate(texts)}
        result = {"BLEU4": percent(bleu4(truth, found)), "CIDEr": percent(cider(truth, found))}
        if self.constants > 0:
            result[group_key("CIDEr", CONSTANT)] = percent(constant_cider(truth, self.constants))
        return {CAPTION: {**result, "pictures": float(len(records))}}


def caption_words(text: str) -> str:
    """Return a caption's words between single blanks: lower case, without punctuation, "don't" as "do n't" (Penn Treebank)."""
    return " ".join(_WORD.findall(text.lower()))


def bleu4(truth: Texts, found: Texts) -> float:
    """Return corpus BLEU-4, 0..1, of tokenized captions by picture: `found` one each, `truth` one or more."""
    return float(_scorer("bleu", "Bleu")(4).compute_score(dict(truth), dict(found), verbose=0)[0][3])


def cider(truth: Texts, found: Texts) -> float:
    """Return CIDEr-D, about 0..10, of tokenized captions by picture. Document frequencies are those of `truth`."""
    return float(_scorer("cider", "Cider")().compute_score(dict(truth), dict(found))[0])


def constant_cider(truth: Texts, tried: int) -> float:
    """Return the best CIDEr of one caption for all pictures, among the `tried` most frequent true ones."""
    frequent: Sequence[tuple[str, int]] = Counter(t for texts in truth.values() for t in texts).most_common(tried)
    return max(cider(truth, {i: [text] for i in truth}) for text, _ in frequent)


def _scorer(module: str, name: str) -> type:
    from importlib import import_module

    try:
        return getattr(import_module(f"pycocoevalcap.{module}.{module}"), name)
    except ImportError as error:
        raise missing("pycocoevalcap", "captions") from error
