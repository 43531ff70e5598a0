"""Reading pictures: upright, 8 bits, three channels, and nothing else."""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from openvocab.errors import InputError

from .tsv_rows import picture_in

MAX_PIXELS = 178_956_970
"""Most pixels of a picture: where Pillow itself calls a file a decompression bomb."""
FORMATS = ("RGB", "BGR")
DECODERS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
"""Formats that are read, whatever a file's name. Pillow knows more: for EPS it starts another program."""
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
_EXIF_ORIENTATION = 0x0112
_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    MemoryError,
    Image.DecompressionBombError,
)


@cache
def _decoders() -> list[str]:
    """Return those of `DECODERS` that this Pillow has."""
    Image.init()
    return [name for name in DECODERS if name in Image.OPEN]


def _open(path: Path) -> Image.Image:
    source = path if path.is_file() else _in_row(path)
    try:
        return Image.open(source, formats=_decoders())
    except Image.DecompressionBombError as error:
        raise InputError(f"the picture {path} is too large to be opened safely: {error}") from error
    except _UNREADABLE as error:
        raise InputError(f"the file {path} is no picture that can be read: {error}") from error


def _in_row(path: Path) -> io.BytesIO:
    content = picture_in(path)
    if content is None:
        raise InputError(f"there is no picture {path}")
    return io.BytesIO(content)


def _as_rgb(image: Image.Image, path: Path | str) -> np.ndarray:
    """Return (H, W, 3) uint8 RGB; 16 bits a channel are scaled to 8 (Pillow alone would clip them to 255)."""
    if image.mode.startswith("I") or image.mode == "F":
        grey = np.asarray(image).astype(np.float64)
        low, high = (float(grey.min()), float(grey.max())) if grey.size else (0.0, 0.0)
        if image.mode == "F" or low < 0 or high > 65535:
            raise InputError(
                f"the picture {path} has values from {low:g} to {high:g}; convert it to 8 or 16 bits a channel"
            )
        grey = np.round(grey / 257.0).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("P", "PA") and "transparency" in image.info:
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))


def _upright(image: Image.Image, size: tuple[int, int] | None) -> Image.Image:
    """Turn as EXIF says, unless a record's (height, width) fits only the pixels as they are stored."""
    turned = image.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
    if turned and size is not None and size == (image.height, image.width) and size != (image.width, image.height):
        return image
    return ImageOps.exif_transpose(image)


def stored_size(path: str | Path) -> tuple[int, int]:
    """Return (width, height) of a picture as it is stored, from its header alone.

    Raises:
        InputError: if the file is missing or no picture.
    """
    with _open(Path(path)) as image:
        return image.size


def upright_size(path: str | Path) -> tuple[int, int]:
    """Return (width, height) of a picture after turning it as EXIF says (a png is decoded for it: its EXIF may stand last).

    Raises:
        InputError: if the file is missing or no picture.
    """
    with _open(Path(path)) as image:
        try:
            turned = image.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
        except _UNREADABLE as error:
            raise InputError(f"the picture {path} is damaged: {error}") from error
        return (image.height, image.width) if turned else image.size


def read_image(path: str | Path, image_format: str = "RGB", *, size: tuple[int, int] | None = None) -> np.ndarray:
    """Read a picture, turned as its EXIF data says.

    Args:
        path: a file Pillow can read; or "FILE.tsv@BYTE", a row whose last column is such a file in base64 (see `tsv_rows`).
        image_format: "RGB" or "BGR", the order of the channels.
        size: (height, width) of the data set's record. Boxes made on the stored pixels of a turned photo (some tools
            ignore EXIF) are recognised by it, and then the photo is not turned.

    Returns:
        (H, W, 3) uint8. 16-bit grey is scaled, transparency is dropped.

    Raises:
        InputError: if the file is missing, damaged, cut short, too large, no picture, or not of the given size.
    """
    path = Path(path)
    _check_format(image_format)
    with _open(path) as image:
        pixels = _pixels(image, path, size)
    return pixels if image_format == "RGB" else pixels[:, :, ::-1]


def decode_image(content: bytes, name: str, image_format: str = "RGB") -> np.ndarray:
    """Read a picture from the bytes of its file, as `read_image` does.

    Args:
        content: the file, such as a member of a tar archive.
        name: for messages.
        image_format: "RGB" or "BGR".

    Returns:
        (H, W, 3) uint8.

    Raises:
        InputError: as `read_image`.
    """
    _check_format(image_format)
    try:
        image = Image.open(io.BytesIO(content), formats=_decoders())
    except Image.DecompressionBombError as error:
        raise InputError(f"the picture {name} is too large to be opened safely: {error}") from error
    except _UNREADABLE as error:
        raise InputError(f"{name} is no picture that can be read: {error}") from error
    with image:
        pixels = _pixels(image, name, None)
    return pixels if image_format == "RGB" else pixels[:, :, ::-1]


def _check_format(image_format: str) -> None:
    if image_format not in FORMATS:
        raise InputError(f"image_format {image_format!r} is not one of {FORMATS}")


def _pixels(image: Image.Image, path: Path | str, size: tuple[int, int] | None) -> np.ndarray:
    """Return (H, W, 3) uint8 RGB of an opened picture."""
    if image.width * image.height > MAX_PIXELS:
        raise InputError(f"the picture {path} has {image.width} x {image.height} pixels, more than {MAX_PIXELS}")
    try:
        pixels = _as_rgb(_upright(image, size), path)
    except InputError:
        raise
    except _UNREADABLE as error:
        raise InputError(f"the picture {path} is damaged or cut short: {error}") from error
    if size is not None and pixels.shape[:2] != tuple(size):
        found = f"{pixels.shape[1]} x {pixels.shape[0]}"
        raise InputError(f"the picture {path} is {found} (width x height), its record says {size[1]} x {size[0]}")
    return pixels
