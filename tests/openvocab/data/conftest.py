"""Tiny data sets in a temporary folder, as stand-ins for real ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from openvocab.data import catalog

NAMES = ("cat", "dog", "red_car")


def write_coco(
    folder: Path, *, count: int = 6, names: tuple[str, ...] = NAMES, first_id: int = 3, step: int = 4, seed: int = 0
) -> Path:
    """Write `count` noisy pictures, lying and standing by turns, two boxes each; return the folder.

    Category ids are spread (3, 7, 11, ...) and written in reverse order, so that mixing up ids and positions shows.
    """
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for i in range(count):
        width, height = (64, 48) if i % 2 == 0 else (40, 56)
        pixels = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"images/{i}.png")
        images.append({"id": 100 + i, "file_name": f"{i}.png", "width": width, "height": height})
        for k in range(2):
            box = [float(2 + 3 * k), 4.0, 20.0, 30.0]
            category = first_id + step * ((i + k) % len(names))
            base = {
                "id": len(annotations) + 1,
                "image_id": 100 + i,
                "category_id": category,
                "bbox": box,
                "area": 600.0,
            }
            annotations.append({**base, "iscrowd": 0})
    categories = [{"id": first_id + step * i, "name": n} for i, n in enumerate(names)]
    content = {"images": images, "annotations": annotations, "categories": categories[::-1]}
    (folder / "train.json").write_text(json.dumps(content))
    return folder


def edit(folder: Path, change: Callable[[dict], object]) -> None:
    """Change a folder's json in place."""
    content = json.loads((folder / "train.json").read_text())
    change(content)
    (folder / "train.json").write_text(json.dumps(content))


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """A folder with six pictures, `train.json` and `images/`."""
    return write_coco(tmp_path / "set")


@pytest.fixture(autouse=True)
def clean_catalog(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No environment from outside, and none of a test's data sets left behind."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    monkeypatch.delenv("OPENVOCAB_SHARED_DATA", raising=False)
    tables = (catalog._ENTRIES, catalog._VOCABULARIES, DatasetCatalog.data)
    before = [dict(t) for t in tables]
    of_others = set(catalog._OF_OTHERS)
    metadata = {name: MetadataCatalog.get(name).as_dict() for name in MetadataCatalog.list()}
    yield
    for table, old in zip(tables, before, strict=True):
        table.clear()
        table.update(old)
    catalog._OF_OTHERS.intersection_update(of_others)
    for name in MetadataCatalog.list():
        if name not in metadata or MetadataCatalog.get(name).as_dict() != metadata[name]:
            MetadataCatalog.remove(name)
            if name in metadata:
                MetadataCatalog.get(name).set(**{k: v for k, v in metadata[name].items() if k != "name"})


@pytest.fixture
def writer() -> Callable[..., Path]:
    """`write_coco`."""
    return write_coco


@pytest.fixture
def editor() -> Callable[[Path, Callable[[dict], object]], None]:
    """`edit`."""
    return edit
