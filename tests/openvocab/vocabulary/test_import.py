"""The top package and the vocabulary cost nothing to import."""

from __future__ import annotations

import subprocess
import sys

import pytest

import openvocab

HEAVY = ("torch", "transformers", "timm", "detectron2", "faster_coco_eval", "supervision", "PIL", "numpy", "open_clip", "spacy")


@pytest.mark.parametrize("code", ["import openvocab", "from openvocab import Vocabulary; Vocabulary.builtin('odinw35/BCCD')"])
def test_nothing_heavy_is_loaded(code: str) -> None:
    report = f"{code}; import sys; print([m for m in {HEAVY} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", report], env={"PYTHONPATH": ":".join(sys.path)}, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_lazy_names() -> None:
    from openvocab.vocabulary import Vocabulary

    assert openvocab.Vocabulary is Vocabulary
    assert set(openvocab.__all__) <= set(dir(openvocab)) and openvocab.__version__
    with pytest.raises(AttributeError, match="no attribute 'Vocabularies'"):
        openvocab.Vocabularies  # noqa: B018
