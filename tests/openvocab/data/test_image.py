"""Reading pictures: what is turned, scaled, and refused."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openvocab.data import image as reading
from openvocab.data import read_image
from openvocab.data.image import decode_image, stored_size, upright_size
from openvocab.errors import InputError


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)


def test_order_of_channels(tmp_path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), pixels)
    assert np.array_equal(read_image(tmp_path / "a.png", "BGR"), pixels[:, :, ::-1])
    with pytest.raises(InputError, match="'XYZ'"):
        read_image(tmp_path / "a.png", "XYZ")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_picture(tmp_path: Path, pixels: np.ndarray, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    turned = orientation >= 5
    image = read_image(tmp_path / "a.png")
    assert image.shape[:2] == ((30, 20) if turned else (20, 30))
    assert np.array_equal(image, pixels) == (orientation == 1)
    assert upright_size(tmp_path / "a.png") == image.shape[1::-1]
    # boxes that were made on the stored pixels: the json's size tells
    raw = read_image(tmp_path / "a.png", size=(20, 30))
    assert raw.shape[:2] == (20, 30) and np.array_equal(raw, pixels) == (orientation in (1, 5, 6, 7, 8))
    with pytest.raises(InputError, match="its record says 31 x 20"):
        read_image(tmp_path / "a.png", size=(20, 31))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    grey = np.linspace(0, 65535, 600).astype(np.uint16).reshape(20, 30)
    Image.fromarray(grey).save(tmp_path / f"a.{suffix}")
    image = read_image(tmp_path / f"a.{suffix}")
    assert image.dtype == np.uint8 and image.shape == (20, 30, 3)
    assert np.array_equal(image[:, :, 0], np.round(grey / 257.0).astype(np.uint8)) and image.max() == 255


def test_values_of_no_known_range_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 3.5, dtype=np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match="convert it to 8 or 16 bits"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1"])
def test_other_modes_become_three_channels(tmp_path: Path, pixels: np.ndarray, mode: str) -> None:
    suffix = "jpg" if mode == "CMYK" else "png"
    Image.fromarray(pixels).convert(mode).save(tmp_path / f"a.{suffix}")
    assert read_image(tmp_path / f"a.{suffix}").shape == (20, 30, 3)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp"])
def test_cut_short(tmp_path: Path, pixels: np.ndarray, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(pixels.repeat(8, 0).repeat(8, 1)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=f"a.{suffix}"):
        read_image(path)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_no_picture(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match="a.png"):
        read_image(tmp_path / "a.png")


def test_a_format_that_starts_another_program_is_not_read(tmp_path: Path, pixels: np.ndarray) -> None:
    """Pillow hands EPS to Ghostscript, also under the name of a png; ours never gets so far."""
    Image.fromarray(pixels).save(tmp_path / "a.eps")
    content = (tmp_path / "a.eps").read_bytes()
    (tmp_path / "a.png").write_bytes(content)
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "EPS"  # so the test shows something
    for read in (lambda: read_image(tmp_path / "a.png"), lambda: decode_image(content, "a.png")):
        with pytest.raises(InputError, match="a.png is no picture"):
            read()
    assert {"JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF"} <= set(reading._decoders())


def test_the_stored_size_comes_from_the_header(tmp_path: Path, pixels: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif)
    assert stored_size(tmp_path / "a.jpg") == (30, 20) and upright_size(tmp_path / "a.jpg") == (20, 30)
    Image.fromarray(pixels.repeat(8, 0).repeat(8, 1)).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:200])
    assert stored_size(tmp_path / "a.png") == (240, 160)
    with pytest.raises(InputError, match="a.png"):
        upright_size(tmp_path / "a.png")


def test_missing_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.jpg"):
        with pytest.raises(InputError, match="there is no picture"):
            read_image(path)


@pytest.mark.parametrize("pillow_refuses", [True, False])
def test_decompression_bomb(tmp_path: Path, pillow_refuses: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A header of 50,000 x 50,000 pixels in a file of some bytes; also where somebody turned Pillow's own limit off."""
    if not pillow_refuses:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    side = 50_000

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    )
    with pytest.raises(InputError, match="too large" if pillow_refuses else "more than"):
        read_image(tmp_path / "a.png")
