"""The tuning configs judge what they say they judge; three pictures stand in for COCO's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image

from openvocab.config import instantiate, load_config
from openvocab.prompting import phrases_of_caption
from openvocab.vocabulary import Vocabulary


@pytest.fixture
def coco_2014(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    folder = tmp_path / "coco"
    (folder / "annotations").mkdir(parents=True)
    (folder / "val2014").mkdir()
    images = [{"id": i, "file_name": f"COCO_val2014_{i:012d}.jpg", "width": 64, "height": 48} for i in (7, 8, 9)]
    for image in images:
        Image.new("RGB", (64, 48), (90, 120, 90)).save(folder / "val2014" / image["file_name"])
    from detectron2.data import MetadataCatalog
    from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

    names = [{"id": c["id"], "name": c["name"]} for c in COCO_CATEGORIES if c["isthing"]]
    box = {"bbox": [10, 10, 20, 20], "area": 400, "iscrowd": 0}
    boxes = [{"id": i, "image_id": i, "category_id": {7: 17, 8: 18}[i], **box} for i in (7, 8)]  # a cat, a dog; 9 has none
    texts = [{"id": i, "image_id": i, "caption": t} for i, t in ((7, "a cat sits"), (8, "a dog runs"), (9, "grass"))]
    instances = {"images": images, "annotations": boxes, "categories": names}
    (folder / "annotations/instances_val2014.json").write_text(json.dumps(instances))
    (folder / "annotations/captions_val2014.json").write_text(json.dumps({"images": images, "annotations": texts}))
    assert MetadataCatalog.get("coco_2014_val").evaluator_type == "coco"
    return tmp_path


def said(text: str, box: tuple[float, ...] | None) -> dict:
    """What `GLIPv2Tasks` returns for a caption: the words, and where they are."""
    found = Instances((48, 64), pred_boxes=Boxes(torch.tensor([box] if box else []).reshape(-1, 4)))
    found.scores, found.pred_classes = torch.ones(len(found)), torch.zeros(len(found), dtype=torch.int64)
    return {"caption": text, "score": 1.0, "linked": phrases_of_caption(text), "instances": found}


def test_captions_are_judged_with_their_boxes(coco_2014: Path) -> None:
    row = load_config("glipv2/tasks/caption").dataloader.test.coco_2014_val_captions
    pytest.importorskip("pycocoevalcap")
    row.loader.num_workers = 0
    batches = list(instantiate(row.loader))
    inputs = {x["image_id"]: x for batch in batches for x in batch}
    assert set(inputs) == {7, 8, 9} and all(x["links"] and x["task"] == "caption" for x in inputs.values())
    evaluator = instantiate(row.evaluator)
    evaluator.reset()
    outputs = {7: said("a cat sits", (10, 10, 30, 30)), 8: said("a dog runs", (40, 10, 60, 30)), 9: said("grass", None)}
    for key, x in inputs.items():
        evaluator.process([x], [outputs[key]])
    result = evaluator.evaluate()
    assert set(result) == {"caption", "links"} and result["caption"]["BLEU4"] >= 0
    assert result["links"]["F1_loc"] == 50.0, "the dog's box is elsewhere"
    assert "cat" in Vocabulary.builtin("coco").names
