"""Captions, referring expressions and questions against a second reader of pixels and text."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openvocab.testing import ANSWERS, RELATIONS, ShapesWorld, caption_of, held_out_pairs, questions_of, referring_of
from openvocab.testing.questions import KINDS
from openvocab.testing.relations import OPPOSITE, relations_of

from .reader import answer, clearly, fits, look, meant, number_of, on_side

SEEDS = st.integers(0, 10**9)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, number=st.integers(0, 5))
def test_caption_phrases_cut_out_the_right_words_and_objects(seed: int, number: int) -> None:
    scene = ShapesWorld(seed=seed, num_objects=(1, 8), repeat=0.5).scene(0)
    seen, text = look(scene), caption_of(scene, number)
    last = 0
    for phrase in text.phrases:
        assert phrase.start >= last, "phrases do not overlap and come in order"
        last = phrase.end
        words = text.text[phrase.start : phrase.end]
        assert sorted(phrase.objects) == fits(words, seen)
        assert len(phrase.objects) == number_of(text.text[: phrase.start])
    if number % 2 == 0:
        assert sorted(i for p in text.phrases for i in p.objects) == list(range(len(seen)))
    assert text.caption.names == tuple(text.text[p.start : p.end] for p in text.phrases)
    assert text.spans == [[[p.start, p.end]] for p in text.phrases]


def test_relation_captions_are_true_and_common() -> None:
    count = 0
    for scene in ShapesWorld(seed=1).scenes(80):
        text, seen = caption_of(scene, 1), look(scene)
        between = [w for w in RELATIONS if f" {w} " in text.text]
        if between:
            (i,), (j,) = text.phrases[0].objects, text.phrases[1].objects
            assert clearly(seen[i], between[0], seen[j])
            count += 1
    assert count > 30


def test_captions_differ_by_number_and_stay_the_same() -> None:
    scene = ShapesWorld(seed=3, num_objects=(4, 4)).scene(0)
    texts = [caption_of(scene, n).text for n in range(12)]
    assert len(set(texts)) > 4
    assert texts == [caption_of(scene, n).text for n in range(12)]


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, overlap=st.sampled_from([0.0, 0.3]))
def test_relations_are_antisymmetric_and_clear(seed: int, overlap: float) -> None:
    scene = ShapesWorld(seed=seed, num_objects=(2, 8), max_overlap=overlap).scene(0)
    seen, found = look(scene), relations_of(scene.objects)
    for i, words, j in found:
        assert clearly(seen[i], words, seen[j])
        assert (j, OPPOSITE[words], i) in found
    assert len({(i, j) for i, _, j in found}) == len(found)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, needs=st.booleans())
def test_referring_expressions_mean_one_thing_under_every_reading(seed: int, needs: bool) -> None:
    scene = ShapesWorld(seed=seed, needs_sentence=needs, num_objects=(3, 7), repeat=0.5).scene(0)
    seen, found = look(scene), referring_of(scene, most=9)
    for r in found:
        assert meant(r.text, seen, on_side) == [r.target], (r.text, seen)
        assert meant(r.text, seen, clearly) == [r.target]
        first = r.phrases[0]
        alone = fits(r.text[first.start : first.end], seen)
        assert first.objects == (r.target,) and r.target in alone
        assert r.needs_sentence == (len(alone) > 1) == bool(r.relation)
        for phrase in r.phrases[1:]:
            assert list(phrase.objects) == fits(r.text[phrase.start : phrase.end], seen)
    assert len({r.target for r in found}) == len(found)
    if needs:
        assert found[0].needs_sentence


def test_every_relation_is_used_to_tell_doubles_apart() -> None:
    scenes = ShapesWorld(seed=0, needs_sentence=True).scenes(80)
    used = Counter(referring_of(s)[0].relation for s in scenes)
    assert set(used) == set(RELATIONS) and min(used.values()) >= 8


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, overlap=st.sampled_from([0.0, 0.15, 0.4]))
def test_answers_agree_with_a_second_reader(seed: int, overlap: float) -> None:
    scene = ShapesWorld(seed=seed, num_objects=(1, 7), max_overlap=overlap).scene(0)
    seen, asked = look(scene), questions_of(scene, most=14)
    assert len({q.text for q in asked}) == len(asked) > 0
    for q in asked:
        assert answer(q.text, seen) == q.answer, (q, seen)
        assert q.answer in ANSWERS and q.kind in KINDS
        kind = "yes/no" if q.answer in ("yes", "no") else "number" if q.answer.isdigit() else "other"
        assert q.answer_type == kind


def test_yes_and_no_are_balanced_within_each_kind_of_sentence() -> None:
    """Whatever words the question is made of, its answer cannot be guessed: within 4 standard deviations of a half."""
    counts: dict[str, Counter] = defaultdict(Counter)
    for scene in ShapesWorld(seed=9, image_size=96).scenes(700):
        for q in questions_of(scene, most=20, kinds=("existence", "relation")):
            level = "thing" if " thing" in q.text else str(len(q.text.split()))
            counts[f"{q.kind} {level}"][q.answer] += 1
    assert len(counts) >= 4
    for kind, count in counts.items():
        total = sum(count.values())
        assert total > 100 and abs(count["yes"] / total - 0.5) < 4 * 0.5 / total**0.5, (kind, count)


def test_all_kinds_are_asked() -> None:
    kinds = Counter(q.kind for s in ShapesWorld(seed=2).scenes(100) for q in questions_of(s))
    assert set(kinds) == set(KINDS) and min(kinds.values()) > 15


def test_no_sentence_speaks_of_a_held_out_pair() -> None:
    pairs = held_out_pairs()
    world = ShapesWorld(seed=3, excluded_pairs=pairs)
    forbidden = [" ".join(p) for p in pairs]
    for scene in world.scenes(120):
        said = [caption_of(scene, 0).text, caption_of(scene, 1).text, *(r.text for r in referring_of(scene))]
        said += [q.text for q in questions_of(scene)]
        assert not [f for f in forbidden for text in said if f in text]


@pytest.mark.parametrize("most", [0, 1, 3])
def test_no_more_than_asked_for(most: int) -> None:
    scene = ShapesWorld(seed=0, num_objects=(5, 6)).scene(0)
    assert len(questions_of(scene, most)) == most and len(referring_of(scene, most)) <= most
