"""Boxes, names and masks drawn on a picture, with Pillow alone."""

from __future__ import annotations

import colorsys
import zlib
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from openvocab.detections import Detections

MASK_OPACITY = 0.4


def color_of(name: str) -> tuple[int, int, int]:
    """Return the colour of a name: bright, and the same in every run."""
    hue = (zlib.crc32(name.casefold().encode()) * 0.61803398875) % 1.0
    return tuple(round(255 * v) for v in colorsys.hsv_to_rgb(hue, 0.85, 0.95))


def _ink_on(color: tuple[int, int, int]) -> tuple[int, int, int]:
    luminance = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
    return (0, 0, 0) if luminance > 140 else (255, 255, 255)


def _blend_masks(canvas: Image.Image, detections: Detections) -> Image.Image:
    pixels = np.asarray(canvas).astype(np.float32)
    for name, mask in zip(detections.names, detections.masks, strict=True):
        pixels[mask] = (1 - MASK_OPACITY) * pixels[mask] + MASK_OPACITY * np.array(color_of(name))
    return Image.fromarray(pixels.astype(np.uint8))


def _label_place(box: list[float], width: float, height: float, size: tuple[int, int]) -> tuple[float, float]:
    """Top left corner of a label: above the box, else inside it; never outside the picture."""
    x = min(max(box[0], 0), max(size[0] - width, 0))
    y = box[1] - height if box[1] - height >= 0 else box[1]
    return x, min(max(y, 0), max(size[1] - height, 0))


def draw(image: np.ndarray | Image.Image, detections: Detections) -> Image.Image:
    """Draw detections on a copy of the picture; the weakest first, so that the best stay readable.

    Args:
        image: (H, W, 3) uint8 RGB, or a PIL picture, of the detections' size.
        detections: boxes in its pixels.
    """
    canvas = Image.fromarray(image) if isinstance(image, np.ndarray) else image.convert("RGB").copy()
    if detections.masks is not None and len(detections):
        canvas = _blend_masks(canvas, detections)
    scale = max(canvas.size) / 640
    line, font = max(2, round(2.5 * scale)), ImageFont.load_default(size=max(11, round(14 * scale)))
    pen = ImageDraw.Draw(canvas)
    rows = list(detections)[::-1]
    for name, _, box in rows:
        pen.rectangle(box.tolist(), outline=color_of(name), width=line)
    for name, score, box in rows:
        text, color = f"{name} {score:.2f}", color_of(name)
        left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
        width, height = right - left + 8, bottom - top + 6
        x, y = _label_place(box.tolist(), width, height, canvas.size)
        pen.rectangle([x, y, x + width, y + height], fill=color)
        pen.text((x + 4 - left, y + 3 - top), text, fill=_ink_on(color), font=font)
    return canvas
