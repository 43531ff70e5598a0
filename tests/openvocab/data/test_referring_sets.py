"""Grounding sets with masks: PhraseCut's own files, RefCOCO's borrowed masks, registration, the way to the model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.structures import BitMasks, PolygonMasks
from PIL import Image

from openvocab.data import DatasetMapper, get_records, register_grounding_folder
from openvocab.data.annotations import decode_mask
from openvocab.data.budget import BadSampleBudget
from openvocab.data.grounding import load_mdetr_records
from openvocab.data.phrasecut import load_phrasecut_records
from openvocab.errors import DataError

SQUARE = [[[4, 6], [20, 6], [20, 30], [4, 30]]]
TWO_PARTS = [[[30, 6], [40, 6], [40, 16], [30, 16]], [[30, 20], [40, 20], [40, 30], [30, 30]], [[0, 0], [1, 1]]]


def task(**changes: object) -> dict:
    base = {"task_id": "7__1", "image_id": 7, "phrase": "walking people", "ann_ids": [1, 2]}
    base |= {"instance_boxes": [[4, 6, 16, 24], [30, 6, 10, 24]], "Polygons": [SQUARE, TWO_PARTS]}
    return {**base, **changes}


def phrasecut(folder: Path, *more: dict) -> Path:
    """A folder as PhraseCut's downloader leaves it."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((48, 64, 3), dtype=np.uint8)).save(folder / "images/7.jpg")
    (folder / "image_data_split.json").write_text(json.dumps([{"image_id": 7, "height": 48, "width": 64, "split": "miniv"}]))
    (folder / "refer_miniv.json").write_text(json.dumps([task(), *more]))
    return folder / "refer_miniv.json"


def test_phrasecut_by_its_name_up_to_the_model(tmp_path: Path) -> None:
    """A phrase is the whole sentence, and each of its instances has a mask."""
    phrasecut(tmp_path / "datasets/VGPhraseCut_v0", task(task_id="7__2", phrase="a wall"))
    first, second = get_records("phrasecut_miniv")
    assert (first["image_id"], second["image_id"]) == ("7__1", "7__2") and first["phrases"] == [[[0, 14]]]
    assert [len(a["segmentation"]) for a in first["annotations"]] == [1, 2], "what is no polygon is left out"
    for mask_format, kind in (("polygon", PolygonMasks), ("bitmask", BitMasks)):
        sample = DatasetMapper(is_train=True, with_masks=True, mask_format=mask_format)(first)
        masks = sample["instances"].gt_masks
        assert isinstance(masks, kind) and sample["caption"].names == ("walking people",)
        assert not sample["instances"].gt_is_box_mask.any() and sample["instances"].gt_classes.tolist() == [0, 0]
    assert masks.tensor[0, 6:30, 4:20].all() and masks.tensor[1].sum() == pytest.approx(200, abs=25)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"image_id": 8}, "picture 8 is not in the list"),
        ({"phrase": " "}, "no caption"),
        ({"Polygons": [SQUARE]}, "as many 'Polygons'"),
        ({"instance_boxes": [[1, 2, 3], [1, 2, 3, 4]]}, "not four numbers"),
        ({"Polygons": [SQUARE, [[1, 2, 3]]]}, r"lists of \[x, y\]"),
    ],
)
def test_broken_tasks_use_up_the_budget(tmp_path: Path, bad: dict, message: str) -> None:
    path = phrasecut(tmp_path, task(**bad))
    assert len(load_phrasecut_records(path, tmp_path / "images", "p")) == 1
    with pytest.raises(DataError, match=message):
        load_phrasecut_records(path, tmp_path / "images", "p", budget=BadSampleBudget(strict=True))


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = phrasecut(tmp_path)
    (tmp_path / "image_data_split.json").write_text('[{"id": 3}]')
    with pytest.raises(DataError, match="'image_id', 'height' and 'width'"):
        load_phrasecut_records(path, tmp_path, "p")
    path.write_text("{}")
    with pytest.raises(DataError, match="list of tasks"):
        load_phrasecut_records(path, tmp_path, "p")


def refcoco(folder: Path) -> None:
    """A sentence whose box has no mask of its own, and the COCO json that has it."""
    image = {"id": 1, "file_name": "a.jpg", "height": 48, "width": 64, "caption": "man on the left"}
    box = {"image_id": 1, "bbox": [4, 6, 16, 24], "tokens_positive": [[0, 3]], "original_id": 501}
    coco = {"images": [], "annotations": [{"id": 501, "segmentation": [[4, 6, 20, 6, 20, 30, 4, 30]]}]}
    for name, content in (("finetune_refcoco_val", {"images": [image], "annotations": [box]}), ("instances_train2014", coco)):
        place = folder / ("coco/annotations" if "instances" in name else "mdetr_annotations")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{name}.json").write_text(json.dumps(content))


def test_refcoco_borrows_the_masks_of_coco(tmp_path: Path) -> None:
    refcoco(tmp_path / "datasets")
    assert "segmentation" not in get_records("refcoco_val")[0]["annotations"][0]
    (annotation,) = get_records("refcoco_val_masks")[0]["annotations"]
    assert decode_mask(annotation["segmentation"], (48, 64)).sum() == 16 * 24


def test_a_mask_of_its_own_comes_first(tmp_path: Path) -> None:
    refcoco(tmp_path)
    path = tmp_path / "mdetr_annotations/finetune_refcoco_val.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["segmentation"] = own = [[0, 0, 5, 0, 5, 5]]
    path.write_text(json.dumps(content))
    masks = tmp_path / "coco/annotations/instances_train2014.json"
    assert load_mdetr_records(path, tmp_path, "r", masks=masks)[0]["annotations"][0]["segmentation"] == own


def test_folders_of_ones_own(tmp_path: Path) -> None:
    phrasecut(tmp_path / "mine")
    register_grounding_folder("my_phrases", root=tmp_path / "mine", annotations="refer_miniv.json", reader="phrasecut")
    register_grounding_folder("my_phrases", root=tmp_path / "mine", annotations="refer_miniv.json", reader="phrasecut")
    assert len(get_records("my_phrases")) == 1
    with pytest.raises(DataError, match="mdter.*mdetr"):
        register_grounding_folder("other", root=tmp_path, annotations="a.json", reader="mdter")
    with pytest.raises(DataError, match="reader='vqa' reads no phrases"):
        register_grounding_folder("other", root=tmp_path / "mine", annotations="refer_miniv.json", reader="vqa")
    with pytest.raises(DataError, match="there is no .*b.json"):
        register_grounding_folder("other", root=tmp_path / "mine", annotations="refer_miniv.json", masks="b.json")


def test_masks_of_another_size_are_refused() -> None:
    with pytest.raises(DataError, match=r"\(4, 5\).*\(5, 4\)"):
        decode_mask({"size": [4, 5], "counts": [20]}, (5, 4))
    assert decode_mask({"size": [4, 5], "counts": [0, 20]}, (4, 5)).all()
