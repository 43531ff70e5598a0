"""Prompts and sentences within a token budget."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openvocab.data import DatasetMapper, TokenBudget, TokenPromptSampler
from openvocab.data.randomness import seeded
from openvocab.errors import ConfigError, DataError, PromptError
from openvocab.prompting import build_caption
from openvocab.testing import TINY_BERT
from openvocab.text import BertTextEncoder
from openvocab.vocabulary import Vocabulary

NAMES = Vocabulary.from_names(["cat", "traffic light", "hair drier", "toothbrush", "dog", "bow (weapon)", "zebra", "x-ray"])
BUDGETS = {n: TokenBudget(max_tokens=n) for n in (6, 11, 17, 40)}
ENCODER = BertTextEncoder(source=None, config={**TINY_BERT, "num_hidden_layers": 1})


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(sorted(BUDGETS)), st.sets(st.integers(0, len(NAMES) - 1)), st.integers(0, 10**6))
def test_prompts_fit_whatever_is_drawn(limit: int, positives: set[int], seed: int) -> None:
    """Counted by the text encoder itself, special tokens included."""
    sampler = TokenPromptSampler(budget=BUDGETS[limit], full_prob=1.0)
    with seeded(seed):
        words, table = sampler(NAMES, sorted(positives))
    text = build_caption(words).text
    assert ENCODER.count_tokens([text])[0] + 2 <= limit
    assert [words.names[i] for i in table if i >= 0] == [NAMES.names[i] for i in np.flatnonzero(table >= 0)]
    left_out = [i for i in positives if table[i] < 0]
    if any(table[i] >= 0 for i in range(len(NAMES)) if i not in positives):
        assert min([sampler.budget.sizes(NAMES)[i] for i in left_out], default=99) > 1, "a name without a box took no room from one"


def test_a_large_budget_changes_nothing() -> None:
    sampler = TokenPromptSampler(budget=TokenBudget(), max_negatives=3, full_prob=1.0)
    with seeded(0):
        words, table = sampler(NAMES, [0, 4])
    assert len(words) == 5 and {0, 4} <= set(np.flatnonzero(table >= 0))


def test_a_name_over_the_budget_is_named() -> None:
    long = Vocabulary.from_names(["cat", "a very long name of a thing"])
    with pytest.raises(PromptError, match="'a very long name of a thing' alone has 7 tokens; a prompt holds 6"):
        TokenPromptSampler(budget=TokenBudget(max_tokens=8))(long, [0])
    with pytest.raises(ConfigError, match="max_tokens=2"):
        TokenBudget(max_tokens=2)


def test_a_sentence_over_the_budget_is_a_bad_sample(coco: Path) -> None:
    caption = "a red car beside a dog"
    record = {"file_name": str(coco / "images/0.png"), "height": 48, "width": 64, "caption": caption, "phrases": [[[0, 9]]]}
    record["annotations"] = [{"bbox": [1.0, 2.0, 20.0, 20.0], "bbox_mode": 1, "category_id": 0}]
    count = ENCODER.count_tokens([caption])[0] + 2
    assert DatasetMapper(is_train=True, budget=TokenBudget(max_tokens=count))(record)["caption"].text == caption
    with pytest.raises(DataError, match=f"has {count} tokens, {count - 1} are allowed"):
        DatasetMapper(is_train=True, budget=TokenBudget(max_tokens=count - 1))(record)
