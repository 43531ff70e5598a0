"""Boxes, names and masks drawn on a picture, with Pillow alone."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from openvocab.errors import ConfigError, DataError

if TYPE_CHECKING:
    from openvocab.detections import Detections
    from openvocab.media import ImageLike

    Color = tuple[int, int, int]
    Rect = tuple[int, int, int, int]

PALETTE = (
    "#ff3b30", "#ff9500", "#ffd60a", "#b4f000", "#30d158", "#00d1b2", "#40c8ff", "#0a84ff", "#6e62ff", "#bf5af2",
    "#ff2dd1", "#ff7a90",
)  # fmt: skip
"""Colours that stand out on dark and bright photos."""
SALT = 1367  # spreads names that often meet (person, dog, cat, car; the sample prompts) over the palette
INK, PAPER, SHADE = (20, 20, 24), (255, 255, 255), (0, 0, 0, 120)


def color_of(name: str) -> Color:
    """Return the RGB colour of a name: the same in every run and on every machine, whatever its case."""
    digest = hashlib.sha256(f"{name.casefold()}{SALT}".encode("utf-8", "replace")).digest()
    code = PALETTE[int.from_bytes(digest[:4], "big") % len(PALETTE)]
    return tuple(int(code[i : i + 2], 16) for i in (1, 3, 5))


def draw(
    image: ImageLike,
    detections: Detections,
    *,
    threshold: float = 0.0,
    most: int | None = None,
    fill: float = 0.15,
    mask_opacity: float = 0.45,
    scores: bool = True,
    font: str | Path | None = None,
) -> Image.Image:
    """Draw detections on a copy of a picture; the best lies on top, labels stay inside and, where they can, apart.

    Args:
        image: (H, W, 3) uint8 RGB, a PIL picture, or a path, of the detections' size.
        detections: N boxes in its pixels.
        threshold: weaker ones are left out.
        most: draw the best `most` only.
        fill: how opaque the inside of a box is tinted, 0 to 1; less in large boxes and among many; not with masks.
        mask_opacity: of masks, 0 to 1.
        scores: write scores beside names.
        font: a TrueType file for scripts that Pillow's own font (Latin) does not have.

    Raises:
        DataError: if the picture is not of the detections' size.
        ConfigError: for a font that cannot be read.
    """
    from openvocab.media import to_rgb

    pixels = to_rgb(image)
    if pixels.shape[:2] != detections.size:
        found, wanted = pixels.shape[1::-1], detections.size[::-1]
        raise DataError(f"the picture is {found} (width, height), the detections belong to one of {wanted}")
    shown = detections.filter(threshold)[:most]
    canvas = Image.fromarray(_with_masks(pixels, shown, mask_opacity))
    unit = max(canvas.width, canvas.height) / 640
    face = _font(font, round(min(max(14 * unit, 12), canvas.height / 3)))
    pen = ImageDraw.Draw(canvas, "RGBA")
    tint = fill * min(1.0, 4 / max(len(shown), 1)) if shown.masks is None else 0.0
    for name, _, box in reversed(list(shown)):
        _frame(pen, _rounded(box, canvas.size), color_of(name), max(2, round(2.2 * unit)), tint, canvas.size)
    taken: list[Rect] = []
    for name, score, box in shown:  # the best choose their places first
        text = " ".join(f"{name} {score:.2f}".split() if scores else name.split())
        _label(pen, text, _rounded(box, canvas.size), color_of(name), face, taken, canvas.size)
    return canvas


def with_line(image: Image.Image, text: str) -> Image.Image:
    """Return a picture with a text below it, cut into as many lines as its width asks for."""
    face = _font(None, round(min(max(14 * max(image.size) / 640, 12), max(image.height / 3, 8))))
    pad, step = round(face.size / 2), sum(face.getmetrics()) + 2
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], longer] if face.getlength(longer) <= image.width - 2 * pad or not lines[-1] else [*lines, word]
    result = Image.new("RGB", (image.width, image.height + step * len(lines) + 2 * pad), PAPER)
    result.paste(image, (0, 0))
    pen = ImageDraw.Draw(result)
    for number, line in enumerate(lines):
        pen.text((pad, image.height + pad + step * number), line, fill=INK, font=face)
    return result


def _font(path: str | Path | None, size: int) -> ImageFont.FreeTypeFont:
    if path is None:
        return ImageFont.load_default(size=max(size, 6))
    try:
        return ImageFont.truetype(str(path), size=max(size, 6))
    except OSError as error:
        raise ConfigError(f"the font {path} cannot be read: {error}") from error


def _rounded(box: tuple[float, ...], size: tuple[int, int]) -> Rect:
    """Whole pixels inside a picture of (width, height); the last ones belong to the box."""
    x1, y1, x2, y2 = (round(v) for v in box)
    left, top = min(max(x1, 0), size[0] - 1), min(max(y1, 0), size[1] - 1)
    return left, top, max(min(x2, size[0]) - 1, left), max(min(y2, size[1]) - 1, top)


def _with_masks(pixels: np.ndarray, shown: Detections, opacity: float) -> np.ndarray:
    """Blend masks in; the best last."""
    pixels = pixels.copy()
    for i in reversed(range(len(shown) if shown.masks is not None else 0)):
        color, region = np.array(color_of(shown.names[i]), dtype=np.float32), shown.masks[i]
        pixels[region] = np.round(pixels[region] * (1 - opacity) + color * opacity).astype(np.uint8)
    return pixels


def _frame(pen: ImageDraw.ImageDraw, box: Rect, color: Color, line: int, tint: float, size: tuple[int, int]) -> None:
    """A coloured line with a thin shade on both sides, which keeps it readable on any ground, and a tinted inside.

    The tint fades as the box grows: one over the whole picture would only dull it.
    """
    x1, y1, x2, y2 = box
    share = (x2 - x1 + 1) * (y2 - y1 + 1) / (size[0] * size[1])
    pen.rectangle(box, outline=SHADE, fill=(*color, round(255 * tint * (1 - share))))
    if min(x2 - x1, y2 - y1) > 2:
        pen.rectangle((x1 + 1, y1 + 1, x2 - 1, y2 - 1), outline=color, width=min(line, min(x2 - x1, y2 - y1) // 2))
    if min(x2 - x1, y2 - y1) > 4 * (line + 1):
        pen.rectangle((x1 + line + 1, y1 + line + 1, x2 - line - 1, y2 - line - 1), outline=SHADE)


def _shortened(text: str, face: ImageFont.FreeTypeFont, width: float) -> str:
    """Cut letters out of the name, not the score, until the text fits."""
    if face.getlength(text) <= width:
        return text
    name, blank, score = text.rpartition(" ")
    if not blank:
        name, score = text, ""
    while name and face.getlength(f"{name}…{blank}{score}") > width:
        name = name[:-1]
    return f"{name}…{blank}{score}" if name else ""


def _label(
    pen: ImageDraw.ImageDraw,
    text: str,
    box: Rect,
    color: Color,
    face: ImageFont.FreeTypeFont,
    taken: list[Rect],
    size: tuple[int, int],
) -> None:
    """Write a label at the emptiest place by its box, inside the picture; none if the picture is too small for it."""
    pad = max(2, round(face.size / 4))
    ascent, descent = face.getmetrics()
    text = _shortened(text, face, size[0] - 2 * pad)
    width, height = round(face.getlength(text)) + 2 * pad, ascent + descent + pad // 2
    if not text or width > size[0] or height > size[1]:
        return
    place = min(_places(box, width, height, size), key=lambda r: sum(_overlap(r, other) for other in taken))
    taken.append(place)
    x, y = place[:2]
    pen.rectangle((x, y, x + width - 1, y + height - 1), fill=color)
    luminance = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
    pen.text((x + pad, y + pad // 4), text, fill=INK if luminance > 135 else PAPER, font=face)


def _places(box: Rect, width: int, height: int, size: tuple[int, int]) -> list[Rect]:
    """Candidate places, the nicest first: above the box, inside its top, below it, inside its bottom; left, right."""
    x1, y1, x2, y2 = box
    result = []
    for y in (y1 - height + 1, y1, y2, y2 - height + 1):
        for x in (x1, x2 - width + 1):
            inside_x, inside_y = min(max(x, 0), size[0] - width), min(max(y, 0), size[1] - height)
            if inside_y == y or y == y1:
                result.append((inside_x, inside_y, inside_x + width, inside_y + height))
    return result


def _overlap(a: Rect, b: Rect) -> int:
    return max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
