"""Other words for names: the phrase in braces is looked for, what stands around it is context, and the names stay."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openvocab.errors import VocabularyError
from openvocab.prompting import build_caption
from openvocab.vocabulary import Vocabulary, reworded

NAMES = Vocabulary.from_names(["stingray", "package", "pin hole"], prompts=[None, "parcel", None])


def test_one_template_for_all_names() -> None:
    caption = build_caption(reworded(NAMES, "a {} on a board"))
    assert caption.text == "a stingray on a board. a parcel on a board. a pin hole on a board"
    assert list(caption.names) == ["stingray", "parcel", "pin hole"]


def test_a_template_for_some_names_may_bring_its_own_phrase() -> None:
    words = reworded(NAMES, {"package": "there is a {package} on the porch", "pin hole": "{}"})
    assert words.names == NAMES.names and words.prompts == ("stingray", "package", "pin hole")
    caption = build_caption(words)
    assert caption.text == "stingray. there is a package on the porch. pin hole"
    start, end = caption.phrases[1][0]
    assert caption.text[start:end] == "package"


def test_the_words_of_another_vocabulary() -> None:
    """ODinW's engineered prompts: renamed classes and contexts, in the order of the set's own names."""
    own = Vocabulary.builtin("odinw13/NorthAmericaMushrooms")
    words = reworded(own, Vocabulary.builtin("odinw35/NorthAmericaMushrooms"))
    assert words.names == own.names and build_caption(words).text == "flat mushroom. yellow mushroom"
    aquarium = reworded(Vocabulary.builtin("aquarium"), Vocabulary.builtin("odinw35/Aquarium"))
    assert "penguin , which is black and white. puffin with orange beaks" in build_caption(aquarium).text


@given(st.text("abc ", max_size=5), st.text("xyz ", max_size=5))
def test_contexts_are_what_stands_around_the_braces(prefix: str, suffix: str) -> None:
    caption = build_caption(reworded(NAMES.subset([0]), f"{prefix}{{}}{suffix}"))
    assert caption.text == f"{prefix}stingray{suffix}" and list(caption.names) == ["stingray"]


@pytest.mark.parametrize(
    ("wording", "message"),
    [
        ("a photo", "'a photo' is no template"),
        ("{} and {}", "is no template"),
        ({"stingrai": "{}"}, "'stingrai', which is not a name of the data set. Did you mean 'stingray'"),
        ({"stingray": 3}, "3 is no template"),
        (Vocabulary.from_names(["a"]), "a wording of 1 names cannot be that of 3"),
    ],
)
def test_what_is_no_wording_is_refused(wording: object, message: str) -> None:
    with pytest.raises(VocabularyError, match=message):
        reworded(NAMES, wording)
