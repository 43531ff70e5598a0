"""Sets that are found by their name alone: where the common ones lie below $DETECTRON2_DATASETS, and the shared small
ones.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from openvocab.errors import nearest
from openvocab.vocabulary import Vocabulary

from .catalog import ROOT_ENV, Entry, datasets_root, ensure_registered, register

SHARED_ENV = "OPENVOCAB_SHARED_DATA"
SHARED_SETS = ("aquarium", "bccd", "coco_mini", "deeppcb", "pothole", "raccoon")
SPLITS = ("train", "val", "test")
ODINW_FILES = ("annotations_without_background.json", "_annotations.coco.json")
ODINW_SPLITS = {"train": "train", "valid": "val", "val": "val", "test": "test"}
_COCO = re.compile(r"coco_(2014|2017)_(train|val|minival|val_100)")
_LVIS = re.compile(r"lvis_v1_(train|val|minival)")
_OBJECTS365 = re.compile(r"objects365_(train|val)")
_OPENIMAGES = re.compile(r"oid_(train|val_expanded)")
_FLICKR = re.compile(r"flickr30k_(train|val|test)")
_REFCOCO = re.compile(r"(refcoco|refcoco\+|refcocog)_(train|val|test|testA|testB)(_masks)?")
_VQA = re.compile(r"vqa_v2_(train|val|test|test-dev)")
_CAPTIONS = re.compile(r"coco_(2014|2017)_(train|val)_captions")
_GOLDG_MIXED = "goldg_mixed_train"  # MDETR's mixture of Visual Genome, GQA and RefCOCO without COCO's pictures
_DETECTION = re.compile(r"(visual_genome|imagenet_boxes)_train")
_PSEUDO = re.compile(r"(cc3m|cc12m|sbu)_pseudo")
_PHRASECUT = re.compile(r"phrasecut_(train|val|test|miniv)")


def _shared_places() -> list[Path]:
    """Return where shared sets may lie: $OPENVOCAB_SHARED_DATA or ../shared/data beside the repo, then the root."""
    first = os.environ.get(SHARED_ENV) or Path(__file__).resolve().parents[3] / "shared" / "data"
    return [Path(first).expanduser(), datasets_root()]


def _shared_entry(name: str, root: Path | None = None) -> Entry | None:
    base, _, split = name.rpartition("_")
    if base not in SHARED_SETS or split not in SPLITS:
        return None
    folders = [place / base for place in (_shared_places() if root is None else [root])]
    folder = next((f for f in folders if (f / f"annotations/instances_{split}.json").is_file()), None)
    if folder is None:
        return None
    captions = folder / f"annotations/captions_{split}.json"
    return Entry(
        name=name,
        annotations=folder / f"annotations/instances_{split}.json",
        images=folder / "images",
        vocabulary=Vocabulary.builtin("coco" if base == "coco_mini" else base),
        captions=captions if captions.is_file() else None,
        automatic=root is None,
    )


def _benchmark_entry(name: str, root: Path) -> Entry | None:
    """Return the entry of a well-known benchmark, whether its files are there or not."""
    if match := _COCO.fullmatch(name):
        year, split = match.groups()
        file = {"minival": "instances_minival2014", "val_100": f"instances_val{year}_100"}.get(
            split, f"instances_{split}{year}"
        )
        folder = f"coco/{'val' if split != 'train' else 'train'}{year}"
        return _entry(name, root / f"coco/annotations/{file}.json", root / folder, "coco")
    if match := _LVIS.fullmatch(name):
        file = root / f"lvis/lvis_v1_{match[1]}.json"
        return _entry(name, file, root / "coco", "lvis", evaluator_type="lvis")
    if match := _OBJECTS365.fullmatch(name):
        folder = root / "objects365"
        return _entry(name, folder / f"annotations/zhiyuan_objv2_{match[1]}.json", folder / match[1], None)
    if match := _OPENIMAGES.fullmatch(name):  # as UniDet and Detic lay it out: the 500 classes of the 2019 challenge
        file = f"oid_challenge_2019_{'train_bbox' if match[1] == 'train' else match[1]}.json"
        images = root / ("oid/images" if match[1] == "train" else "oid/images/validation")
        return _entry(name, root / "oid/annotations" / file, images, "openimages")
    if match := _FLICKR.fullmatch(name):
        file = root / f"mdetr_annotations/final_flickr_separateGT_{match[1]}.json"
        return _entry(name, file, root / f"flickr30k/flickr30k_images/{match[1]}", None, reader="mdetr")
    if match := _REFCOCO.fullmatch(name):
        file = root / f"mdetr_annotations/finetune_{match[1]}_{match[2]}.json"
        masks = root / "coco/annotations/instances_train2014.json" if match[3] else None  # MDETR's files have boxes only
        return _entry(name, file, root / "coco/train2014", None, reader="mdetr", masks=masks)
    if match := _VQA.fullmatch(name):
        return _vqa_entry(name, match[1], root)
    if match := _CAPTIONS.fullmatch(name):
        year, split = match.groups()
        file = root / f"coco/annotations/captions_{split}{year}.json"
        return _entry(name, file, root / f"coco/{split}{year}", None, reader="captions")
    if match := _PHRASECUT.fullmatch(name):
        folder = root / "VGPhraseCut_v0"
        return _entry(name, folder / f"refer_{match[1]}.json", folder / "images", None, reader="phrasecut")
    return _pretraining_entry(name, root)


def _pretraining_entry(name: str, root: Path) -> Entry | None:
    """The sets of GLIP's pretraining that are no benchmarks."""
    if name == _GOLDG_MIXED:
        file = root / "mdetr_annotations/final_mixed_train_no_coco.json"
        return _entry(name, file, root / "gqa/images", None, reader="mdetr")
    if match := _DETECTION.fullmatch(name):  # as COCO json, each with its own names
        return _entry(name, root / match[1] / "annotations/instances_train.json", root / match[1] / "images", None)
    if match := _PSEUDO.fullmatch(name):  # as tools/pseudo_boxes.py writes it
        return _entry(name, root / match[1] / "pseudo_boxes.jsonl", root / match[1] / "images", None, reader="odvg")
    return None


def _vqa_entry(name: str, split: str, root: Path) -> Entry:
    """VQAv2 on COCO's pictures; the test splits have no answers, and their pictures are listed in image_info_test2015.json."""
    known, year = split in ("train", "val"), "2014" if split in ("train", "val") else "2015"
    pictures = f"captions_{split}2014.json" if known else "image_info_test2015.json"
    answers = root / f"vqa/v2_mscoco_{split}2014_annotations.json" if known else None
    file = root / f"vqa/v2_OpenEnded_mscoco_{split}{year}_questions.json"
    images = root / f"coco/{split if known else 'test'}{year}"
    more = {"pictures": root / "coco/annotations" / pictures, "answers": answers, "reader": "vqa"}
    return _entry(name, file, images, None, **more)


def _entry(name: str, annotations: Path, images: Path, vocabulary: str | None, **more: str | Path | None) -> Entry:
    words = Vocabulary.builtin(vocabulary) if vocabulary else None
    return Entry(name=name, annotations=annotations, images=images, vocabulary=words, automatic=True, **more)


def _odinw_entries(root: Path) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for place, folders, files in os.walk(root):
        folder = Path(place)
        file = next((folder / f for f in ODINW_FILES if f in files), None)
        if folder.name in ODINW_SPLITS:
            folders.clear()
        if file is not None and folder.name in ODINW_SPLITS:
            base = re.sub(r"[^A-Za-z0-9]+", "_", "_".join(folder.relative_to(root).parts[:-1])).strip("_")
            name = f"odinw_{base}_{ODINW_SPLITS[folder.name]}"
            found[name] = Entry(name=name, annotations=file, images=folder, automatic=True)
    return found


def register_odinw(root: str | Path | None = None) -> list[str]:
    """Register ODinW folders laid out as `<set>/<split>/annotations_without_background.json` (or
    `_annotations.coco.json`).

    Args:
        root: the folder of the sets; default $DETECTRON2_DATASETS/odinw.

    Returns:
        names such as "odinw_Aquarium_test"; "valid" becomes "val", and a set in several folders joins them by "_".

    Raises:
        DataError: if a name is taken by another data set.
    """
    folder = Path(root).expanduser() if root is not None else datasets_root() / "odinw"
    entries = _odinw_entries(folder)
    for entry in entries.values():
        register(Entry(**{**entry.__dict__, "automatic": False}))
    return list(entries)


def register_shared(root: str | Path | None = None) -> list[str]:
    """Register every shared small set that is found, such as "bccd_train"; see `SHARED_SETS`.

    Args:
        root: their folder; default $OPENVOCAB_SHARED_DATA, ../shared/data beside the repository, or
            $DETECTRON2_DATASETS.

    Returns:
        the names.
    """
    folder = None if root is None else Path(root).expanduser()
    names = []
    for name in (f"{base}_{split}" for base in SHARED_SETS for split in SPLITS):
        entry = _shared_entry(name, folder)
        if entry is not None:
            ensure_registered(name) if entry.automatic else register(entry)
            names.append(name)
    return names


def resolve(name: str) -> Entry | None:
    """Return the entry of a set known by its name, for the environment as it is now; None for any other name."""
    entry = _shared_entry(name) or _benchmark_entry(name, datasets_root())
    if entry is None and name.startswith("odinw_") and (datasets_root() / "odinw").is_dir():
        entry = _odinw_entries(datasets_root() / "odinw").get(name)
    return entry


def explain_unknown(name: str) -> str:
    """Say where an unknown set was looked for."""
    from detectron2.data import DatasetCatalog

    shared = [f"{base}_{split}" for base in SHARED_SETS for split in SPLITS]
    hint = nearest(name, sorted({*shared, *DatasetCatalog.list()}))
    places = " and ".join(str(p) for p in _shared_places())
    return (
        f"there is no data set '{name}'.{hint} Looked in {places}; set {SHARED_ENV} or {ROOT_ENV}, "
        "or call openvocab.data.register_coco_folder"
    )
