"""A contact sheet: pictures in rows with their boxes and words, to look at."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from openvocab.errors import DataError

Box = Sequence[float]
_LINE = 12  # pixels of a line of text


@dataclass(frozen=True)
class Tile:
    """One picture of a sheet.

    Attributes:
        image: (H, W, 3) uint8.
        boxes: XYXY pixels.
        lines: what stands below it.
    """

    image: np.ndarray
    boxes: Sequence[Box] = ()
    lines: Sequence[str] = ()


def _draw(tile: Tile, size: tuple[int, int], scale: int, lines: int) -> Image.Image:
    """Return the tile as a picture of `size` (W, H) plus its words."""
    picture = Image.new("RGB", (size[0], size[1] + lines * _LINE + 6), "white")
    height, width = tile.image.shape[:2]
    picture.paste(Image.fromarray(tile.image).resize((width * scale, height * scale), Image.Resampling.NEAREST))
    draw = ImageDraw.Draw(picture)
    for box in tile.boxes:
        x0, y0, x1, y1 = (round(v * scale) for v in box)
        draw.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=(255, 0, 255))
    letters = max(10, size[0] // 6)
    wrapped = [part for line in tile.lines for part in textwrap.wrap(line, letters)]
    for i, line in enumerate(wrapped[:lines]):
        draw.text((2, size[1] + 2 + i * _LINE), line, fill="black")
    return picture


def contact_sheet(tiles: Sequence[Tile], *, columns: int = 6, scale: int = 2, lines: int = 4) -> Image.Image:
    """Put tiles side by side.

    Args:
        tiles: the pictures.
        columns: tiles in a row.
        scale: how many pixels a pixel becomes.
        lines: lines of text below each.

    Raises:
        DataError: for no tiles.
    """
    if not tiles:
        raise DataError("a contact sheet needs at least one picture")
    size = (max(t.image.shape[1] for t in tiles) * scale, max(t.image.shape[0] for t in tiles) * scale)
    drawn = [_draw(t, size, scale, lines) for t in tiles]
    width, height = drawn[0].size
    rows = -(-len(drawn) // columns)
    sheet = Image.new("RGB", (min(columns, len(drawn)) * (width + 4), rows * (height + 4)), "white")
    for i, picture in enumerate(drawn):
        sheet.paste(picture, ((i % columns) * (width + 4), (i // columns) * (height + 4)))
    return sheet
