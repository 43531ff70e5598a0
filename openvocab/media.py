"""Pictures, folders and videos that a user hands over, and the sample photos of the demo."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from openvocab.data.image import IMAGE_SUFFIXES, MAX_PIXELS, read_image
from openvocab.errors import InputError, missing

PICTURE_SUFFIXES = frozenset(IMAGE_SUFFIXES) | {".gif"}
VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".mpg", ".mpeg"})
SAMPLES = {
    "chelsea": ("chelsea.png", "cat."),
    "astronaut": ("astronaut.png", "person. helmet. flag"),
    "coffee": ("coffee.png", "cup. spoon. saucer"),
    "motorcycle": ("motorcycle_left.png", "motorcycle. wheel. bicycle"),
    "rocket": ("rocket.jpg", "rocket. tower"),
}
"""Sample photos of scikit-image by name: the file in its package, and a prompt that suits it."""

ImageLike = str | Path | Image.Image | np.ndarray


def to_rgb(image: ImageLike) -> np.ndarray:
    """Turn user input into pixels.

    Args:
        image: a path, a PIL picture (turned as its EXIF says), or an array: (H, W, 3) uint8 RGB, (H, W, 4) RGBA whose
            last channel is dropped, (H, W) or (H, W, 1) grey.

    Returns:
        (H, W, 3) uint8 RGB. An animation gives its first frame.

    Raises:
        InputError: if it cannot be read, is empty or too large, or an array of another type or shape.
    """
    if isinstance(image, (str, Path)):
        if Path(image).is_dir():
            raise InputError(f"{image} is a folder, not a picture; give one picture (tools/demo.py takes folders)")
        return np.ascontiguousarray(read_image(image))
    if isinstance(image, Image.Image):
        return _from_pil(image)
    if isinstance(image, np.ndarray):
        return _from_array(image)
    raise InputError(f"a picture must be a path, a PIL image or a uint8 array, not a {type(image).__name__}")


def _from_pil(image: Image.Image) -> np.ndarray:
    _check_pixels(image.height, image.width)
    try:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):
            grey = np.asarray(image).astype(np.int64)
            if grey.min() < 0 or grey.max() > 65535:
                raise InputError(f"the picture has values from {grey.min()} to {grey.max()}; convert it to 8 bits")
            return np.repeat(np.round(grey / 257).astype(np.uint8)[:, :, None], 3, axis=2)
        if image.mode == "F":
            raise InputError("the picture holds floats; convert it to 8 bits a channel, 0 to 255")
        return np.array(image.convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise InputError(f"the picture is damaged or cut short: {error}") from error


def _from_array(array: np.ndarray) -> np.ndarray:
    if array.dtype != np.uint8:
        raise InputError(f"a picture array must be uint8 with values 0 to 255, not {array.dtype}; convert and scale it")
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise InputError(f"a picture array must be (height, width, 3), not {array.shape}; channels come last")
    _check_pixels(*array.shape[:2])
    return np.repeat(array, 3, axis=2) if array.shape[2] == 1 else np.ascontiguousarray(array[:, :, :3])


def _check_pixels(height: int, width: int) -> None:
    if height < 1 or width < 1:
        raise InputError(f"the picture is empty: {width} x {height} pixels")
    if height * width > MAX_PIXELS:
        raise InputError(f"the picture has {width} x {height} pixels, more than {MAX_PIXELS}; make it smaller")


def is_video(path: str | Path) -> bool:
    """Whether a file's name ends as a video's does."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def find_inputs(paths: Sequence[str | Path]) -> list[Path]:
    """List the files behind `paths`: files, and the pictures and videos in folders (sorted, not deeper).

    Raises:
        InputError: if a path does not exist, or a folder holds nothing to look at.
    """
    found: list[Path] = []
    for path in (Path(p).expanduser() for p in paths):
        if path.is_dir():
            files = (f for f in sorted(path.iterdir()) if f.is_file() and not f.name.startswith("."))
            inside = [f for f in files if f.suffix.lower() in PICTURE_SUFFIXES | VIDEO_SUFFIXES]
            if not inside:
                known = ", ".join(sorted(PICTURE_SUFFIXES))
                raise InputError(f"the folder {path} holds no pictures or videos ({known})")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise InputError(f"there is no file or folder {path}")
    return found


def write_samples(folder: str | Path) -> dict[str, tuple[Path, str]]:
    """Copy scikit-image's sample photos (free licences, see its data/README.txt) into `folder`.

    Returns:
        by name, the file and a prompt for it.

    Raises:
        MissingDependencyError: without scikit-image.
        InputError: if this release of it ships none of them.
    """
    try:
        import skimage
    except ImportError as error:
        raise missing("scikit-image", "dev") from error
    folder, source = Path(folder), Path(skimage.__file__).parent / "data"
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for name, (file, text) in SAMPLES.items():
        if (source / file).is_file():
            target = folder / f"{name}{Path(file).suffix}"
            target.write_bytes((source / file).read_bytes())
            written[name] = (target, text)
    if not written:
        raise InputError(f"this scikit-image ({skimage.__version__}) ships no sample photos; use --input")
    return written


# ---- video ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class VideoInfo:
    """What a video's header says: pictures a second, and how many pictures (0 where it says nothing)."""

    fps: float
    frames: int


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise missing("av", "video") from error
    return av


@contextmanager
def open_video(path: str | Path) -> Iterator[tuple[VideoInfo, Iterator[np.ndarray]]]:
    """Open a video; give its header and its frames, (H, W, 3) uint8 RGB, upright, one after the other.

    Raises:
        InputError: if it is missing, no video, too large, or damaged (also while frames are read).
        MissingDependencyError: without PyAV.
    """
    av, path = _av(), Path(path)
    if not path.is_file():
        raise InputError(f"there is no video {path}")
    try:
        container = av.open(str(path))
    except (av.FFmpegError, OSError, ValueError) as error:
        raise InputError(f"the file {path} is no video that can be read: {_reason(error)}") from error
    with container:
        if not container.streams.video:
            raise InputError(f"the file {path} holds no video")
        stream = container.streams.video[0]
        _check_pixels(stream.height, stream.width)
        fps = float(stream.average_rate or stream.guessed_rate or 25)
        yield VideoInfo(fps=fps, frames=int(stream.frames or 0)), _frames(container, av, path)


def _frames(container: Any, av: Any, path: Path) -> Iterator[np.ndarray]:
    count = 0
    try:
        for frame in container.decode(video=0):
            turns = round(getattr(frame, "rotation", 0) / 90) % 4  # counter-clockwise, as numpy's rot90
            yield np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))
            count += 1
    except av.FFmpegError as error:
        raise InputError(f"the video {path} is damaged after frame {count}: {_reason(error)}") from error
    if not count:
        raise InputError(f"the video {path} holds no frame")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


@contextmanager
def video_writer(path: str | Path, *, fps: float) -> Iterator[Callable[[np.ndarray], None]]:
    """Write an mp4 (H.264, or MPEG-4 where PyAV has no H.264): call the given function with frames (H, W, 3) uint8 RGB.

    All frames have the first one's size; an odd last row or column is left out, as the format asks for even sizes. If
    the block raises, or no frame comes, `path` stays as it was.
    """
    av, path = _av(), Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.partial.mp4")
    streams: list[Any] = []
    try:
        with av.open(str(partial), "w") as container:

            def write(frame: np.ndarray) -> None:
                frame = np.ascontiguousarray(frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2])
                if not streams:
                    streams.append(_new_stream(av, container, frame.shape, fps))
                for packet in streams[0].encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                    container.mux(packet)

            yield write
            for packet in streams[0].encode() if streams else ():
                container.mux(packet)
        if streams:
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _new_stream(av: Any, container: Any, shape: tuple[int, ...], fps: float) -> Any:
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
    stream.height, stream.width = shape[:2]
    stream.pix_fmt = "yuv420p"
    return stream
