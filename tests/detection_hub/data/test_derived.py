"""Data sets made of others: parts, other names, larger boxes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detection_hub.data import DerivedSet
from openvocab.data import get_records, get_vocabulary
from openvocab.errors import ConfigError, DataError

from .conftest import shapes, truth


def test_parts_share_no_picture_and_leave_none_out() -> None:
    source = shapes("A")
    parts = [{r["image_id"] for r in get_records(DerivedSet(source=source, part=(k, 3)).register())} for k in (1, 2, 3)]
    assert set.union(*parts) == {r["image_id"] for r in get_records(source)}
    assert sum(map(len, parts)) == 12 and max(map(len, parts)) - min(map(len, parts)) <= 1


def test_other_names_and_boxes() -> None:
    source = shapes("A")
    made = DerivedSet(source=source, names={"box": "crate", "person": "man"}, box_scale=1.3)
    name = made.register()
    assert name == f"{source}__box=crate_person=man__x1.3" == made.register()
    assert get_vocabulary(name).names == ("crate", "man")
    old = {a["id"]: a for a in truth(source)["annotations"]}
    kept = {c["id"]: c["name"] for c in truth(source)["categories"] if c["name"] != "ball"}
    assert {a["id"] for a in truth(name)["annotations"]} == {i for i, a in old.items() if a["category_id"] in kept}
    inside = 0
    for new in truth(name)["annotations"]:
        before = old[new["id"]]
        assert new["category_id"] == {"box": 1, "person": 2}[kept[before["category_id"]]] and "segmentation" not in new
        (x, y, w, h), (a, b, c, d) = before["bbox"], new["bbox"]
        assert a >= 0 and b >= 0 and a + c <= 96 and b + d <= 96 and new["area"] == pytest.approx(c * d)
        if 0 < a and 0 < b and a + c < 96 and b + d < 96:
            inside += 1
            assert (a + c / 2, b + d / 2, c, d) == pytest.approx((x + w / 2, y + h / 2, 1.3 * w, 1.3 * h))
    assert inside > 3


@settings(max_examples=50, deadline=None)
@given(
    scale=st.floats(0.2, 4), corner=st.tuples(st.floats(0, 30), st.floats(0, 20)), size=st.tuples(st.floats(1, 9), st.floats(1, 9))
)
def test_boxes_stay_in_the_picture(scale: float, corner: tuple, size: tuple) -> None:
    content = {
        "images": [{"id": 1, "width": 40, "height": 30}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [*corner, *size]}],
        "categories": [{"id": 3, "name": "x"}],
    }
    (new,) = DerivedSet(source="any", box_scale=scale).derive(content)["annotations"]
    x, y, w, h = new["bbox"]
    assert x >= 0 and y >= 0 and w > 0 and h > 0 and x + w <= 40 + 1e-9 and y + h <= 30 + 1e-9 and new["category_id"] == 3


def test_what_cannot_be_derived() -> None:
    for fields in ({"part": (0, 2)}, {"part": (3, 2)}, {"part": (1,)}, {"box_scale": 0.0}):
        with pytest.raises(ConfigError, match="of 'a'"):
            DerivedSet(source="a", **fields)
    with pytest.raises(DataError, match="no name 'persn'.*Did you mean 'person'"):
        DerivedSet(source=shapes("A"), names={"persn": "x"}).register()
    with pytest.raises(DataError, match="no data set 'nowhere_train'"):
        DerivedSet(source="nowhere_train").register()
