"""A GLIPv2 with both heads, small enough for a test: random weights, a BERT that knows the words of ShapesWorld."""

from __future__ import annotations

import torch

from glipv2.modeling import MaskedLanguageHead
from glipv2.tasks import CaptionHead, GLIPv2Tasks, SearchSettings, VQAHead
from openvocab.testing import TINY_BERT
from openvocab.testing.quick_tasks import shapes_words
from openvocab.text import BertTextEncoder
from tests.glipv2.conftest import CHANNELS, LANG, build_tiny, picture
from tests.glipv2.test_detector import sample

ANSWERS = ("yes", "no", "2", "red")


def build_detector(**changes: object) -> torch.nn.Module:
    """The detector alone."""
    path, count = shapes_words()
    torch.manual_seed(1)
    encoder = BertTextEncoder(source=None, config={**TINY_BERT, "vocab_size": count}, vocab_file=path, frozen=False, max_tokens=64)
    return build_tiny(**{"text_encoder": encoder, "deformable": False, **changes})


def build_heads(search: SearchSettings | None = None) -> list:
    """Both heads."""
    torch.manual_seed(2)
    vqa = VQAHead(answers=ANSWERS, lang_dim=LANG, channels=CHANNELS, num_levels=5, hidden_dim=24, dropout=0.0)
    words = MaskedLanguageHead(dim=LANG, vocab_size=shapes_words()[1])
    return [vqa, CaptionHead(words=words, search=search or SearchSettings(beams=2, max_length=6))]


def build_tasks(**changes: object) -> GLIPv2Tasks:
    """The model; `changes` replace arguments of the detector."""
    return GLIPv2Tasks(detector=build_detector(**changes), heads=build_heads())


def question(text: str = "what color is the circle ?", seed: int = 0, size: tuple[int, int] = (64, 96)) -> dict:
    return {"task": "vqa", "image": picture(*size, seed), "question": text, "answers": {"red": 1.0, "two": 0.5}}


def caption(text: str = "a red circle", seed: int = 0, size: tuple[int, int] = (64, 96)) -> dict:
    return {"task": "caption", "image": picture(*size, seed), "sentence": text}


def boxes(seed: int = 0) -> dict:
    return sample(96, 128, ["red circle", "blue square"], seed)
