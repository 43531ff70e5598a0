"""Drawing: what is drawn, where, and in which colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from openvocab import viz
from openvocab.detections import Detections
from openvocab.errors import ConfigError, DataError
from openvocab.viz import PALETTE, color_of, draw

GREY = np.full((200, 300, 3), 128, np.uint8)


def found(*rows: tuple[str, float, tuple[float, ...]], size: tuple[int, int] = (200, 300), **fields: object) -> Detections:
    return Detections(boxes=[r[2] for r in rows], scores=[r[1] for r in rows], names=[r[0] for r in rows], size=size, **fields)


def drawn(*args: object, **options: object) -> np.ndarray:
    return np.asarray(draw(*args, **options)).astype(int)


def test_colours_are_stable() -> None:
    """Pinned: a name keeps its colour between releases, too."""
    assert [color_of(n) for n in ("cat", "dog", "remote control")] == [color_of(n) for n in ("CAT", "dog", "Remote Control")]
    assert {"#{:02x}{:02x}{:02x}".format(*color_of(n)) for n in map(str, range(500))} == set(PALETTE)
    assert color_of("cat") == (255, 59, 48)
    assert len({color_of(n) for n in ("person", "dog", "cat", "car")}) == 4


def test_the_box_is_where_it_was_found() -> None:
    image = drawn(GREY, found(("cat", 0.9, (100, 80, 200, 160))), fill=0.0)
    changed = np.abs(image - 128).sum(2) > 30
    ys, xs = changed[60:].nonzero()
    assert (xs.min(), xs.max(), ys.max() + 60) == (100, 199, 159)
    red = (image == color_of("cat")).all(2)
    assert red[81, 110:190].all() and red[158, 110:190].all() and red[100:150, 101].all() and red[100:150, 198].all()
    assert not changed[100:140, 110:190].any()


def test_nothing_to_draw_leaves_the_picture_alone() -> None:
    assert np.array_equal(drawn(GREY, found()), GREY)
    d = found(("cat", 0.4, (10, 10, 50, 50)))
    assert np.array_equal(drawn(GREY, d, threshold=0.5), GREY) and np.array_equal(drawn(GREY, d, most=0), GREY)
    before = GREY.copy()
    draw(GREY, d)
    assert np.array_equal(GREY, before)


def test_inside_is_tinted_less_in_large_boxes() -> None:
    small = drawn(GREY, found(("cat", 0.9, (100, 80, 150, 120))), scores=False)[110, 125]
    large = drawn(GREY, found(("cat", 0.9, (0, 0, 300, 200))), scores=False)[110, 125]
    assert small[0] > 128 + 10 and abs(large[0] - 128) <= 1


def test_many_boxes_do_not_drown_the_picture() -> None:
    d = found(*((n, 0.5, (100 - i, 60 - i, 200 + i, 160 + i)) for i, n in enumerate(["cat"] * 40)))
    assert np.abs(drawn(GREY, d, scores=False)[110, 150] - 128).max() < 0.55 * (255 - 128)


def test_masks() -> None:
    masks = np.zeros((1, 200, 300), bool)
    masks[0, 120:150, 50:250] = True
    image = drawn(GREY, found(("cat", 0.9, (40, 90, 260, 160)), masks=masks), mask_opacity=0.5)
    assert np.abs(image[135, 100] - (np.array(color_of("cat")) + 128) / 2).max() <= 1
    assert (image[110, 100] == 128).all()  # the box's inside outside the mask
    assert (drawn(GREY, found(("cat", 0.9, (40, 90, 260, 160)), masks=masks), mask_opacity=0.0)[135, 100] == 128).all()


def test_the_best_lies_on_top() -> None:
    d = found(("dog", 0.3, (50, 50, 150, 150)), ("cat", 0.9, (50, 50, 150, 150)))
    image = drawn(GREY, d)
    assert (image[100, 51] == color_of("cat")).all()


BOXES = st.tuples(*[st.floats(-40, 340, width=32)] * 4).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.text(min_size=1, max_size=60), BOXES), max_size=6), st.tuples(st.integers(1, 200), st.integers(1, 300))
)
def test_labels_stay_inside_and_nothing_fails(rows: list, size: tuple[int, int]) -> None:
    texts: list[tuple[float, ...]] = []
    original = ImageDraw.ImageDraw.text

    def text(self: ImageDraw.ImageDraw, xy: tuple[float, float], text: str, **options: object) -> None:
        texts.append(self.textbbox(xy, text, font=options["font"]))
        original(self, xy, text, **options)

    picture = GREY[: size[0], : size[1]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageDraw.ImageDraw, "text", text)
        image = draw(picture, found(*((name, 0.5, box) for name, box in rows), size=size))
    assert image.size == size[::-1] and len(texts) <= len(rows)
    for x1, y1, x2, y2 in texts:
        assert x1 >= 0 and y1 >= -1 and x2 <= size[1] + 1 and y2 <= size[0] + 1


def test_labels_keep_apart() -> None:
    boxes = [(100, 100, 200, 180), (102, 101, 198, 178), (101, 99, 203, 182)]
    names = ("cat", "flag", "helmet")
    image = drawn(GREY, found(*((n, 0.9 - i / 10, b) for i, (n, b) in enumerate(zip(names, boxes, strict=True)))), fill=0.0)
    for name in names:  # each label's ground is seen
        assert (image == color_of(name)).all(2).sum() > 300


def test_names_with_line_ends() -> None:
    d = found(("a\ncat", 0.9, (20, 60, 200, 160)))
    assert np.array_equal(drawn(GREY, d)[100:], drawn(GREY, d, scores=False)[100:])


def test_long_names_are_cut_before_the_score() -> None:
    face = viz._font(None, 14)
    assert viz._shortened("cat 0.50", face, 200) == "cat 0.50"
    short = viz._shortened("a very long name of a thing 0.50", face, 120)
    assert short.endswith("… 0.50") and short.startswith("a very") and face.getlength(short) <= 120
    assert viz._shortened("cat 0.50", face, 3) == ""


@pytest.mark.parametrize("size", [(480, 640), (1700, 2560)])
def test_line_and_letters_grow_with_the_picture(size: tuple[int, int]) -> None:
    height, width = size
    d = found(("cat", 0.9, (width / 4, height / 4, width / 2, height / 2)), size=size)
    image = drawn(np.full((*size, 3), 128, np.uint8), d, fill=0.0)
    row = (image[height * 3 // 8] == color_of("cat")).all(1)
    assert row.sum() // 2 == pytest.approx(2.2 * width / 640, abs=1)


def test_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\(100, 50\).*\(300, 200\)"):
        draw(GREY[:50, :100], found())
    (tmp_path / "no.ttf").write_bytes(b"no font")
    for name in ("no.ttf", "absent.ttf"):
        with pytest.raises(ConfigError, match=name):
            draw(GREY, found(("cat", 0.9, (0, 0, 9, 9))), font=tmp_path / name)


def test_pictures_of_any_form(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.png")
    d = found(("cat", 0.9, (20, 60, 200, 160)), image=GREY)
    expected = np.asarray(d.draw())
    for image in (GREY, Image.fromarray(GREY), tmp_path / "a.png"):
        assert np.array_equal(drawn(image, d), expected)
