"""Image-text pairs in large files: webdataset tar shards, and tsv files as RegionCLIP's CC3M.

A set of shards is walked through in order (`scan`, which reads no picture), and any sample can be read by its place (`read`).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from glob import glob
from pathlib import Path
from typing import Protocol

from openvocab.errors import DataError

Place = tuple[int, ...]
"""(shard, byte offsets ...) of a sample."""
Cursor = tuple[int, ...]
"""Byte offsets inside a shard at which the next sample begins."""
IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
MAX_BYTES = 200_000_000
"""Largest picture or caption that is read."""
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


class Shards(Protocol):
    """What a stream needs of its files."""

    names: list[str]

    def scan(self, shard: int, cursor: Cursor | None) -> Iterator[tuple[Place, Cursor]]:
        """Yield the place of each sample from `cursor` (None: the beginning) on, and the cursor behind it."""

    def read(self, place: Place) -> dict:
        """Return {"key", "content": bytes of the picture's file, "captions": [str]}; DataError if it cannot be read."""


def expand(patterns: str | Path | Sequence[str | Path]) -> list[str]:
    """Return the files that patterns name: "cc3m-{00000..00331}.tar", "*.tar", or plain paths.

    Raises:
        DataError: for a pattern or path without a file.
    """
    found: list[str] = []
    for pattern in [patterns] if isinstance(patterns, (str, Path)) else list(patterns):
        names = _unbraced(str(Path(pattern).expanduser()))
        files = [f for n in names for f in (sorted(glob(n)) if any(c in n for c in "*?[") else [n])]
        lacking = [f for f in files if not Path(f).is_file()]
        if lacking or not files:
            raise DataError(f"there is no shard {lacking[0] if lacking else pattern}")
        found += files
    if not found:
        raise DataError("no shards were named")
    return list(dict.fromkeys(found))


def _unbraced(name: str) -> list[str]:
    match = _BRACES.search(name)
    if match is None:
        return [name]
    first, last = match.groups()
    numbers = range(int(first), int(last) + 1)
    return [n for i in numbers for n in _unbraced(f"{name[: match.start()]}{i:0{len(first)}d}{name[match.end() :]}")]


class TarShards:
    """webdataset shards: uncompressed tars in which consecutive files of one name, up to its first dot, are a sample.

    A sample is a picture (.jpg, .jpeg, .png, .webp) with a caption: .txt, or .json with "caption", "text" or "captions".

    Args:
        paths: see `expand`.

    Raises:
        DataError: for a file that is not there.
    """

    def __init__(self, paths: str | Path | Sequence[str | Path]) -> None:
        self.names = expand(paths)

    def scan(self, shard: int, cursor: Cursor | None) -> Iterator[tuple[Place, Cursor]]:
        """See `Shards`.

        Raises:
            DataError: at the place where a tar is damaged.
        """
        key, start = None, 0
        for member, name in self._members(shard, cursor[0] if cursor else 0):
            if name == key:
                continue
            if key is not None:
                yield (shard, start), (member.offset,)
            key, start = name, member.offset
        if key is not None:
            yield (shard, start), (Path(self.names[shard]).stat().st_size,)

    def _members(self, shard: int, offset: int) -> Iterator[tuple[tarfile.TarInfo, str]]:
        """Files of a tar from a header on, each with the name of its sample."""
        path = self.names[shard]
        try:
            with open(path, "rb") as file:
                size = Path(path).stat().st_size
                if offset >= size:
                    return
                file.seek(offset)
                with tarfile.open(fileobj=file, mode="r:") as tar:
                    while (member := tar.next()) is not None:
                        tar.members = []  # else a large shard's headers stay in memory
                        if member.isfile():
                            yield member, _sample_name(member.name)
        except (tarfile.TarError, OSError, EOFError, ValueError) as error:
            raise DataError(f"{path} is damaged, compressed or no tar file, from byte {offset} on: {error}") from error

    def read(self, place: Place) -> dict:
        """See `Shards`."""
        shard, start = place
        path, parts, key = self.names[shard], {}, None
        for member, name in self._members(shard, start):
            if key is not None and name != key:
                break
            key = name
            suffix = member.name.rsplit("/", 1)[-1].partition(".")[2].casefold().rsplit(".", 1)[-1]
            if member.size > MAX_BYTES:
                raise DataError(f"{path}: {member.name} has {member.size} bytes, more than {MAX_BYTES}")
            parts.setdefault(suffix, _bytes(path, member))
        content = next((parts[s] for s in IMAGE_SUFFIXES if s in parts), None)
        if content is None:
            raise DataError(f"{path}: sample '{key}' has no picture ({', '.join(parts) or 'nothing'})")
        return {"key": f"{Path(path).name}/{key}", "content": content, "captions": _tar_captions(parts, f"{path}: '{key}'")}


def _sample_name(member: str) -> str:
    folder, _, base = member.rpartition("/")
    return f"{folder}/{base.partition('.')[0]}" if folder else base.partition(".")[0]


def _bytes(path: str, member: tarfile.TarInfo) -> bytes:
    with open(path, "rb") as file:
        file.seek(member.offset_data)
        content = file.read(member.size)
    if len(content) < member.size:
        raise DataError(f"{path} is cut short inside {member.name}")
    return content


def _tar_captions(parts: dict[str, bytes], where: str) -> list[str]:
    try:
        if "txt" in parts:
            return _texts(parts["txt"].decode("utf-8"), where)
        return _texts(json.loads(parts["json"]), where) if "json" in parts else []
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} has a caption that cannot be read: {error}") from error


def _texts(value: object, where: str) -> list[str]:
    """Captions of a text, or of json: {"captions": [...]}, {"caption": ...}, {"text": ...}, {"tags": ...}."""
    if isinstance(value, dict):
        value = next((value[k] for k in ("captions", "caption", "text", "tags") if value.get(k)), [])
    rows = [value] if isinstance(value, str) else value
    if not isinstance(rows, list) or not all(isinstance(r, str) for r in rows):
        raise DataError(f"{where} has captions that are no texts: {value!r:.80}")
    return [t for r in rows if (t := " ".join(r.split()))]


class TsvShards:
    """Pairs of tsv files: `key<TAB>base64 of a picture`, and beside it `key<TAB>captions`, row by row.

    Captions are json with "captions" (a list) or "tags" (a text), or a plain text. A `.lineidx` file (byte offsets of the rows)
    beside the pictures is used if it is there; without it each row is passed over once more.

    Args:
        images: picture files, see `expand`.
        texts: caption files in the same order; None: named as RegionCLIP's, "images" or "image" -> "text", "img" -> "caption".

    Raises:
        DataError: for files that are missing or do not pair.
    """

    def __init__(
        self, images: str | Path | Sequence[str | Path], texts: str | Path | Sequence[str | Path] | None = None
    ) -> None:
        self.names = expand(images)
        self.texts = expand([_text_file(n) for n in self.names] if texts is None else texts)
        if len(self.texts) != len(self.names):
            raise DataError(f"{len(self.names)} picture files and {len(self.texts)} caption files do not pair")

    def scan(self, shard: int, cursor: Cursor | None) -> Iterator[tuple[Place, Cursor]]:
        """See `Shards`."""
        image, text = cursor or (0, 0)
        offsets = _line_offsets(self.names[shard], image)
        with open(self.texts[shard], "rb") as texts:
            texts.seek(text)
            here = next(offsets, None)
            while here is not None:
                if not texts.readline():
                    raise DataError(f"{self.texts[shard]} has fewer rows than {self.names[shard]}")
                after = next(offsets, None)
                end = Path(self.names[shard]).stat().st_size if after is None else after
                yield (shard, here, text), (end, texts.tell())
                here, text = after, texts.tell()

    def read(self, place: Place) -> dict:
        """See `Shards`."""
        shard, image, text = place
        key, encoded = _row(self.names[shard], image)
        other, caption = _row(self.texts[shard], text)
        where = f"{self.names[shard]}: row '{key[:60]}'"
        if other != key:
            raise DataError(f"{where} stands beside '{other[:60]}' in {self.texts[shard]}: the files are not in one order")
        try:
            content = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError) as error:
            raise DataError(f"{where} holds no base64: {error}") from error
        try:
            value: object = json.loads(caption)
        except (ValueError, RecursionError):
            value = caption.decode("utf-8", "replace")
        value = value if isinstance(value, (dict, list, str)) else caption.decode("utf-8", "replace")
        return {"key": f"{Path(self.names[shard]).name}/{key}", "content": content, "captions": _texts(value, where)}


def _text_file(image_file: str) -> str:
    path = Path(image_file)
    for old, new in (("images", "text"), ("image", "text"), ("img", "caption")):
        if old in path.name:
            return str(path.with_name(path.name.replace(old, new)))
    raise DataError(f"the captions of {path} are not known: its name has neither 'image' nor 'img'; pass texts=")


def _line_offsets(path: str, start: int) -> Iterator[int]:
    """Offsets of the rows of a tsv file from the one at `start` on."""
    index = Path(path).with_suffix(".lineidx")
    if index.is_file():
        with open(index, encoding="ascii") as lines:
            try:
                yield from (offset for line in lines if line.strip() and (offset := int(line)) >= start)
            except ValueError as error:
                raise DataError(f"{index} holds something else than byte offsets: {error}") from error
        return
    with open(path, "rb") as file:
        file.seek(start)
        while True:
            here = file.tell()
            if not file.readline():
                return
            yield here


def _row(path: str, offset: int) -> tuple[str, bytes]:
    with open(path, "rb") as file:
        file.seek(offset)
        line = file.readline(MAX_BYTES)
    key, tab, value = line.rstrip(b"\r\n").partition(b"\t")
    if not tab:
        raise DataError(f"{path}: the row at byte {offset} is not 'key<TAB>value'")
    return key.decode("utf-8", "replace"), value
