"""Pictures, folders and videos: what is read, and what is refused with a sentence."""

from __future__ import annotations

import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from openvocab.errors import InputError, MissingDependencyError
from openvocab.media import SAMPLES, find_inputs, is_video, open_video, to_rgb, video_writer, write_samples

SIDES = st.integers(1, 9)


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([(), (1,), (3,), (4,)]).flatmap(
    lambda tail: st.tuples(SIDES, SIDES).flatmap(lambda hw: hnp.arrays(np.uint8, hw + tail))))  # fmt: skip
def test_arrays_keep_their_values(array: np.ndarray) -> None:
    image = to_rgb(array)
    assert image.shape == (*array.shape[:2], 3) and image.dtype == np.uint8
    colour = array.ndim == 3 and array.shape[2] > 1
    expected = array[:, :, :3] if colour else np.broadcast_to(array.reshape(*array.shape[:2], 1), image.shape)
    assert np.array_equal(image, expected)


def test_path_pil_and_array_agree(tmp_path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for value in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.open(tmp_path / "a.png"), pixels):
        assert np.array_equal(to_rgb(value), pixels)


def test_pil_is_turned_as_exif_says(pixels: np.ndarray, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(to_rgb(image), np.rot90(pixels, -1))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1", "HSV", "YCbCr"])
def test_pil_modes(pixels: np.ndarray, mode: str) -> None:
    assert to_rgb(Image.fromarray(pixels).convert(mode)).shape == (20, 30, 3)


def test_sixteen_bits_are_scaled(tmp_path: Path) -> None:
    grey = np.linspace(0, 65535, 600).astype(np.uint16).reshape(20, 30)
    Image.fromarray(grey).save(tmp_path / "a.png")
    expected = np.round(grey / 257.0).astype(np.uint8)
    with Image.open(tmp_path / "a.png") as image:
        for value in (tmp_path / "a.png", image):
            assert np.array_equal(to_rgb(value)[:, :, 1], expected)


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_first_frame_of_an_animation(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (30, 20), c) for c in ("red", "blue")]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    image = to_rgb(tmp_path / f"a.{suffix}")
    assert image.shape == (20, 30, 3) and image[..., 0].min() > 200 and image[..., 2].max() < 60


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), "uint8 .* not float32"),
        (np.zeros((4, 4, 3), np.uint16), "uint8 .* not uint16"),
        (np.zeros((3, 4, 5), np.uint8), "channels come last"),
        (np.zeros((4, 4, 3, 1), np.uint8), "channels come last"),
        (np.zeros((0, 4, 3), np.uint8), "empty"),
        (np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (20_000, 20_000, 3)), "20000 x 20000 pixels, more than"),
        (Image.new("F", (3, 3)), "floats"),
        (Image.fromarray(np.array([[-5, 9]], dtype=np.int32)), "values from -5 to 9"),
        (b"bytes", "not a bytes"),
        (None, "not a NoneType"),
    ],
)
def test_refused_values(value: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        to_rgb(value)


def test_refused_files(tmp_path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels.repeat(8, 0).repeat(8, 1)).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:3000])
    (tmp_path / "empty.jpg").write_bytes(b"")
    for name in ("cut.jpg", "empty.jpg", "none.jpg"):
        with pytest.raises(InputError, match=name):
            to_rgb(tmp_path / name)
    with pytest.raises(InputError, match="is a folder, not a picture"):
        to_rgb(tmp_path)


def test_decompression_bomb(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    with pytest.raises(InputError, match="too large|more than"):
        to_rgb(tmp_path / "a.png")


def test_folders(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.PNG", "c.gif", "v.mp4", ".hidden.jpg", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "d.jpg").write_bytes(b"x")
    assert [p.name for p in find_inputs([tmp_path])] == ["a.PNG", "b.jpg", "c.gif", "v.mp4"]
    assert [p.name for p in find_inputs([tmp_path / "notes.txt", tmp_path / "deeper"])] == ["notes.txt", "d.jpg"]
    assert is_video("x/A.MP4") and not is_video("a.jpg")
    (tmp_path / "deeper" / "d.jpg").unlink()
    with pytest.raises(InputError, match="deeper holds no pictures"):
        find_inputs([tmp_path / "deeper"])
    with pytest.raises(InputError, match="no file or folder .*missing"):
        find_inputs([tmp_path / "missing"])


def test_samples(tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    written = write_samples(tmp_path / "s")
    assert "chelsea" in written and set(written) <= set(SAMPLES)
    for path, text in written.values():
        assert min(to_rgb(path).shape[:2]) >= 300 and text.strip()


# ---- video ---------------------------------------------------------------------------------------------------------


def moving(count: int = 8, size: tuple[int, int] = (61, 81)) -> list[np.ndarray]:
    """Grey frames with a red bar that moves 5 px a frame."""
    frames = [np.full((*size, 3), 90, np.uint8) for _ in range(count)]
    for i, frame in enumerate(frames):
        frame[:, 5 * i : 5 * i + 20] = (255, 0, 0)
    return frames


def test_video_round_trip(tmp_path: Path) -> None:
    pytest.importorskip("av")
    with video_writer(tmp_path / "a.mp4", fps=29.97) as write:
        for frame in moving():
            write(frame)
    with open_video(tmp_path / "a.mp4") as (info, frames):
        read = list(frames)
    assert len(read) == 8 == info.frames and info.fps == pytest.approx(29.97, abs=0.01)
    assert read[0].shape == (60, 80, 3)  # even sides
    for i, frame in enumerate(read):
        assert frame[30, 5 * i + 10, 0] > 180 and frame[30, (5 * i + 50) % 80, 0] < 150


def test_writer_leaves_nothing_behind(tmp_path: Path) -> None:
    pytest.importorskip("av")
    with pytest.raises(KeyError), video_writer(tmp_path / "a.mp4", fps=10) as write:
        write(moving(1)[0])
        raise KeyError
    with video_writer(tmp_path / "b.mp4", fps=10):
        pass
    assert list(tmp_path.iterdir()) == []


def test_refused_videos(tmp_path: Path) -> None:
    pytest.importorskip("av")
    (tmp_path / "a.mp4").write_bytes(b"no video at all" * 50)
    for name in ("a.mp4", "missing.mp4"):
        with pytest.raises(InputError, match=name), open_video(tmp_path / name):
            pass


def test_without_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingDependencyError, match=r"openvocab-detectron2\[video\]"), open_video(tmp_path / "a.mp4"):
        pass
