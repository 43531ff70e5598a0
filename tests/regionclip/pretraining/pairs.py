"""Shards of small pictures, sound and broken."""

from __future__ import annotations

import base64
import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image


def picture(number: int) -> bytes:
    """A grey picture whose shade is its number."""
    file = io.BytesIO()
    Image.fromarray(np.full((12, 16, 3), number % 256, dtype=np.uint8)).save(file, format="PNG")
    return file.getvalue()


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def tar_shards(folder: Path, count: int, each: int) -> str:
    """Write `count` shards of `each` pairs; return their pattern."""
    for s in range(count):
        members = []
        for i in range(each):
            n = s * each + i
            members += [(f"dir/{n:05d}.png", picture(n)), (f"dir/{n:05d}.txt", f"picture  number {n}\n".encode())]
            members += [(f"dir/{n:05d}.json", json.dumps({"caption": "unused"}).encode())]
        write_tar(folder / f"part-{s:03d}.tar", members)
    return str(folder / f"part-{{000..{count - 1:03d}}}.tar")


def tsv_shards(folder: Path, count: int, each: int, *, index: bool) -> str:
    """Write `count` pairs of files with `each` rows; return the pattern of the pictures."""
    for s in range(count):
        rows = [(f"k{s * each + i}", picture(s * each + i)) for i in range(each)]
        lines = [f"{k}\t{base64.b64encode(c).decode()}\n".encode() for k, c in rows]
        (folder / f"train_image_{s}.tsv").write_bytes(b"".join(lines))
        texts = [f"{k}\t{json.dumps({'captions': [f'picture number {k[1:]}', 'a picture']})}\n" for k, _ in rows]
        (folder / f"train_text_{s}.tsv").write_text("".join(texts))
        if index:
            offsets = np.cumsum([0, *map(len, lines[:-1])])
            (folder / f"train_image_{s}.lineidx").write_text("".join(f"{o}\n" for o in offsets))
    return str(folder / "train_image_*.tsv")


def number_of(sample: dict) -> int:
    """The number of the picture in a sample, from its pixels."""
    return int(sample["image"][0, 0, 0])
