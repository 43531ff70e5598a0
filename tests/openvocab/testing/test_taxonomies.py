"""Names, box rules and ConventionShapes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openvocab.errors import DataError
from openvocab.testing import (
    COLORS,
    CONVENTION_SETS,
    RULES,
    SAME_NAMES_SETS,
    SHAPES,
    TAXONOMIES,
    BoxRule,
    ConventionWorld,
    ShapesWorld,
    annotate,
    get_rule,
    get_taxonomy,
    held_out_pairs,
)
from openvocab.testing.convention_shapes import iou_of_rules


def test_every_object_has_a_name_in_every_taxonomy_of_the_world() -> None:
    for scene in ShapesWorld(seed=1).scenes(20):
        for thing in scene.objects:
            expected = {
                "shape": thing.shape,
                "color": thing.color,
                "color_shape": f"{thing.color} {thing.shape}",
                "size_shape": f"{thing.size} {thing.shape}",
                "coarse": "round" if thing.shape in ("circle", "ring", "heart", "crescent") else "angular",
            }
            for name, word in expected.items():
                taxonomy = get_taxonomy(name)
                assert taxonomy.names[taxonomy.label(thing)] == taxonomy.name_of(thing) == word
            assert get_taxonomy("figures").label(thing) is None


def test_base_leaves_the_novel_names_unlabelled() -> None:
    full = get_taxonomy("shape")
    base = full.base()
    assert set(base.names) | full.novel == set(full.names) and not set(base.names) & full.novel
    assert full.vocabulary().splits == tuple("novel" if n in ("star", "hexagon") else "base" for n in SHAPES)
    scenes = list(ShapesWorld(seed=2).scenes(60))
    for scene in scenes:
        for a in annotate(scene, base):
            assert base.names[a["category_id"]] == a["attributes"]["shape"] not in full.novel
    kept, every = (sum(len(annotate(s, t)) for s in scenes) for t in (base, full))
    assert 0 < kept < every


def test_with_novel_and_keep_check_their_names() -> None:
    taxonomy = get_taxonomy("coarse").with_novel(["round"])
    assert taxonomy.base().names == ("angular",)
    for wrong in ("base", "keep", "with_novel"):
        with pytest.raises(DataError, match="coarse"):
            getattr(get_taxonomy("coarse"), wrong)(*([] if wrong == "base" else [["rund"]]))
    with pytest.raises(DataError, match="Did you mean 'color_shape'"):
        get_taxonomy("colour_shape")


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), tenths=st.integers(1, 5))
def test_held_out_pairs_leave_every_color_and_shape_the_same_number(seed: int, tenths: int) -> None:
    pairs = held_out_pairs(tenths / 10, seed)
    assert len(pairs) == 10 * tenths
    for place, words in ((0, COLORS), (1, SHAPES)):
        assert Counter(p[place] for p in pairs) == dict.fromkeys(words, tenths)
    assert pairs == held_out_pairs(tenths / 10, seed)


def test_held_out_pairs_refuses_useless_fractions_and_is_the_taxonomys_novel_set() -> None:
    for fraction in (0, 0.01, 0.7, -1):
        with pytest.raises(DataError, match="fraction"):
            held_out_pairs(fraction)
    assert held_out_pairs(seed=0) != held_out_pairs(seed=1)
    assert TAXONOMIES["color_shape"].novel == {" ".join(p) for p in held_out_pairs()}


FULL, SEEN, SIZE = (10, 20, 30, 60), (10, 30, 30, 60), (64, 100)


@pytest.mark.parametrize(
    ("rule", "box"),
    [
        ("tight", (10, 20, 30, 60)),
        ("visible", (10, 30, 30, 60)),
        ("loose", (7, 14, 33, 64)),  # 66 is below the picture
        ("loose:1.2", (8, 16, 32, 64)),
        ("center_half", (15, 30, 25, 50)),
        ("square", (0, 20, 40, 60)),
        ("upper", (10, 20, 30, 42)),
        ("upper:0.25", (10, 20, 30, 30)),
    ],
)
def test_rules(rule: str, box: tuple) -> None:
    assert get_rule(rule)(FULL, SEEN, SIZE) == pytest.approx(box)
    assert get_rule(rule).flags


@pytest.mark.parametrize("rule", ["tigh", "loose:x", "loose:0", "loose:-2", "loose:nan", "tight:2", ""])
def test_bad_rules_are_refused(rule: str) -> None:
    with pytest.raises(DataError):
        get_rule(rule)


def test_annotations_follow_the_rule_and_the_mask_does_not() -> None:
    hidden = 0
    for scene in ShapesWorld(seed=3, num_objects=(6, 9), max_overlap=0.5).scenes(10):
        by_rule = {rule: annotate(scene, "shape", rule) for rule in RULES}
        for rule, found in by_rule.items():
            for a, visible in zip(found, by_rule["visible"], strict=True):
                thing = scene.objects[a["object"]]
                x, y, w, h = a["bbox"]
                box = get_rule(rule)(thing.full_box, thing.visible_box, (128, 128))
                assert (x, y, x + w, y + h) == pytest.approx(box)
                assert a["segmentation"] == visible["segmentation"] and a["area"] == thing.visible.sum()
        hidden += sum(a["bbox"] != b["bbox"] for a, b in zip(by_rule["visible"], by_rule["tight"], strict=True))
    assert hidden > 3


def test_convention_sets_label_and_box_as_the_table_says() -> None:
    """Three sets that share names and disagree about them."""
    table = {
        "A": ({"person", "ball", "box"}, {}),
        "B": ({"person", "box", "cone"}, {"person": "upper"}),
        "C": ({"ball", "cone"}, {"ball": "loose", "cone": "loose"}),
        "full": ({"person", "ball", "box"}, {}),
        "upper": ({"person", "ball", "box"}, {"person": "upper", "box": "loose"}),
    }
    for name, (classes, special) in table.items():
        chosen = {**CONVENTION_SETS, **SAME_NAMES_SETS}[name]
        assert set(chosen.classes) == classes
        world = ConventionWorld(convention=name, seed=1)
        for index in range(25):
            scene = world.scene(index)
            annotations = annotate(scene, chosen.taxonomy, chosen.rule_of)
            labelled = [o for o in scene.objects if o.shape in classes]
            assert len(annotations) == len(labelled) > 0, "pictures without a label are drawn again"
            for a, thing in zip(annotations, labelled, strict=True):
                x0, y0, x1, y1 = thing.full_box
                x, y, w, h = a["bbox"]
                assert chosen.taxonomy.names[a["category_id"]] == thing.shape
                rule = special.get(thing.shape)
                if rule == "upper":
                    assert (x, y, w, h) == pytest.approx((x0, y0, x1 - x0, 0.55 * (y1 - y0)))
                elif rule == "loose":
                    assert w * h > 1.05 * (x1 - x0) * (y1 - y0) and x <= x0 and y <= y0
                else:
                    assert (x, y, x + w, y + h) == (x0, y0, x1, y1)
    assert CONVENTION_SETS["B"].flags == ("amodal", "parts", "tight")


def test_convention_pictures_are_as_the_sheet_describes_them() -> None:
    scenes = [ConventionWorld(seed=0).scene(i) for i in range(150)]
    kinds = Counter(o.shape for s in scenes for o in s.objects)
    total = sum(kinds.values())
    assert kinds["person"] / total == pytest.approx(0.4, abs=0.08)
    assert {len(s.objects) for s in scenes} <= {1, 2, 3, 4}
    for scene in scenes:
        assert scene.image.shape == (96, 96, 3)
        for thing in scene.objects:
            x0, y0, x1, y1 = thing.full_box
            w, h = x1 - x0, y1 - y0
            low, high = (11, 23) if thing.shape == "person" else (13, 29)
            assert low <= w <= high
            assert (1.8 < h / w < 2.8) if thing.shape == "person" else (0.75 < h / w < 1.3)
            assert (np.array(thing.rgb) == scene.image[thing.visible]).all()
        assert sum(o.full.astype(int) for o in scene.objects).max() == 1, "no overlap"


def test_rules_conflict_by_as_much_as_the_sheet_says() -> None:
    """IoU(full, upper) = .55 and IoU(tight, x1.4) = 1 / 1.96 = .51, away from the border."""
    scenes = [ConventionWorld(seed=0).scene(i) for i in range(80)]
    inner = [o for s in scenes for o in s.objects if min(o.full_box[:2]) > 15 and max(o.full_box[2:]) < 81]
    assert len(inner) > 10
    for thing in inner:
        assert iou_of_rules(BoxRule("tight"), BoxRule("upper"), thing) == pytest.approx(0.55)
        assert iou_of_rules(BoxRule("tight"), BoxRule("loose", 1.4), thing) == pytest.approx(1 / 1.96)


def test_an_unknown_convention_set_is_refused() -> None:
    with pytest.raises(DataError, match="Known: A, B, C"):
        ConventionWorld(convention="D")
