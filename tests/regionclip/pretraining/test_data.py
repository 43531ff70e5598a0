"""Pairs as model inputs: captions, proposals that move with the picture, proposals from a file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from PIL import Image

from openvocab.data import TrainSource, build_train_loader, get_records
from openvocab.errors import ConfigError, DataError, InputError
from openvocab.testing.quick import shapes_dataset
from openvocab.text import HashedTextEncoder
from regionclip.pretraining import PairMapper, captions_of, load_caption_records
from regionclip.pretraining.captions import fitted
from regionclip.pretraining.proposals import ClassFreeBoxes, add_proposals, cache_proposals

from .pairs import picture


@pytest.fixture
def record(tmp_path: Path) -> dict:
    Image.fromarray(np.arange(40 * 60 * 3, dtype=np.uint8).reshape(40, 60, 3)).save(tmp_path / "a.png")
    return {
        "file_name": str(tmp_path / "a.png"), "height": 40, "width": 60, "image_id": 7, "captions": ["one", "two"],
        "annotations": [{"bbox": [5, 5, 10, 20], "bbox_mode": 1, "category_id": 3}],
        "proposal_boxes": np.array([[0.0, 0, 30, 40], [10, 10, 11, 11], [20, 0, 60, 20]]),
        "proposal_objectness_logits": np.array([0.9, 0.8, 0.7]), "proposal_bbox_mode": 0,
        "teacher_vectors": np.eye(3, 5, dtype=np.float16),
    }  # fmt: skip


def test_proposals_move_with_the_picture_and_keep_what_is_known_of_them(record: dict) -> None:
    mapper = PairMapper(is_train=True, augmentations=[T.Resize((80, 120)), T.HFlipTransform(120)], min_size=3)
    found = mapper(record)
    assert found["image"].shape == (3, 80, 120) and found["text"] in ("one", "two")
    assert found["proposals"].proposal_boxes.tensor.tolist() == [[60, 0, 120, 80], [0, 0, 80, 40]]
    assert found["proposals"].objectness_logits.tolist() == pytest.approx([0.9, 0.7])
    assert torch.equal(found["proposals"].teacher_vectors, torch.eye(3, 5)[[0, 2]])
    assert len(PairMapper(is_train=True, max_regions=1)(record)["proposals"]) == 1


def test_true_boxes_whole_pictures_or_nothing(record: dict) -> None:
    own = PairMapper(is_train=True, given="annotations")(record)["proposals"]
    assert own.proposal_boxes.tensor.tolist() == [[5, 5, 15, 25]] and own.gt_classes.tolist() == [3]
    whole = PairMapper(is_train=False, given="whole")(record)
    assert whole["proposals"].proposal_boxes.tensor.tolist() == [[0, 0, 60, 40]] and "text" not in whole
    assert "proposals" not in PairMapper(is_train=True, given=None)(record)
    assert "proposals" not in PairMapper(is_train=True)({k: v for k, v in record.items() if "proposal" not in k})
    with pytest.raises(ConfigError, match="given='boxes'"):
        PairMapper(is_train=True, given="boxes")


def test_streamed_pictures_are_read_from_their_bytes() -> None:
    found = PairMapper(is_train=True)({"key": "a.tar/1", "content": picture(9), "captions": []})
    assert found["image"].unique().tolist() == [9] and found["image_id"] == "a.tar/1" and "text" not in found
    with pytest.raises(InputError, match="a.tar/2"):
        PairMapper(is_train=True)({"key": "a.tar/2", "content": b"nothing", "captions": []})


def write_captions(folder: Path, annotations: list) -> Path:
    (folder / "1.png").write_bytes(picture(1))
    images = [{"id": i, "file_name": f"{i}.png", "height": 12, "width": 16} for i in (1, 2)]
    (folder / "captions.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return folder / "captions.json"


def test_coco_captions_are_records_for_the_houses_loader(tmp_path: Path) -> None:
    rows = [{"image_id": 1, "caption": " a  dog\n"}, {"image_id": 1, "caption": "a cat"}]
    records = load_caption_records(write_captions(tmp_path, rows), tmp_path, "mine")
    assert [r["captions"] for r in records] == [["a dog", "a cat"]] and captions_of(records) == ["a dog", "a cat"]
    source = TrainSource(name="mine", records=records, mapper=PairMapper(is_train=True))
    batch = next(iter(build_train_loader(sources=[source], total_batch_size=2)))
    assert [x["image_id"] for x in batch] == [1, 1] and {x["text"] for x in batch} <= {"a dog", "a cat"}


def test_broken_captions_are_skipped_up_to_a_budget(tmp_path: Path, caplog) -> None:
    good = {"image_id": 1, "caption": "a dog"}
    path = write_captions(tmp_path, [good, {"image_id": 9, "caption": "nowhere"}])
    assert len(load_caption_records(path, tmp_path, "mine")) == 1 and "caption number 1" in caplog.text
    with pytest.raises(DataError, match="2 of 3"):
        load_caption_records(write_captions(tmp_path, [good, {}, {"image_id": 1, "caption": 3}]), tmp_path, "mine")
    with pytest.raises(DataError, match="no picture with a caption"):
        load_caption_records(write_captions(tmp_path, []), tmp_path, "mine")


def test_captions_are_cut_to_what_the_encoder_takes() -> None:
    encoder = HashedTextEncoder(dim=4, max_tokens=5)
    assert fitted(encoder, ["a b c", "one two  three four five"]) == ["a b c", "one two  three"]
    assert fitted(encoder, []) == []
    encoder.encode(fitted(encoder, ["one two three, four"]))


def detect(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    height, width = image.shape[1:]
    return torch.tensor([[0.0, 0, width, height], [1, 1, 9, 9], [2, 2, 4, 4]]), torch.tensor([0.9, 0.5, 0.1])


class Eyes:
    """Stands for the bridge: a crop's vector is its corner."""

    dim = 4

    def crop(self, image: torch.Tensor, boxes: torch.Tensor, context: float) -> torch.Tensor:
        return boxes

    def encode_pixels(self, boxes: torch.Tensor) -> torch.Tensor:
        return boxes


def test_proposals_are_kept_in_a_file(tmp_path: Path, caplog) -> None:
    records = get_records(shapes_dataset(num=3))
    records.append({**records[0], "image_id": "gone", "file_name": str(tmp_path / "gone.png")})
    path = cache_proposals(records, tmp_path / "p.safetensors", detect=detect, max_boxes=2, bridge=Eyes(), made_by="me")
    assert "gone.png" in caplog.text
    found = add_proposals(records, path, made_by="me")
    assert [len(r["proposal_boxes"]) for r in found] == [2, 2, 2, 0]
    assert found[1]["proposal_boxes"][1].tolist() == [1, 1, 9, 9] == found[1]["teacher_vectors"][1].tolist()
    sample = PairMapper(is_train=True)(found[2])
    assert sample["proposals"].objectness_logits.tolist() == pytest.approx([0.9, 0.5])
    with pytest.raises(DataError, match="made by 'me', not 'you'"):
        add_proposals(records, path, made_by="you")
    with pytest.raises(DataError, match="of another data set"):
        add_proposals([{**records[0], "image_id": 12345}], path)


def test_boxes_of_the_shipped_detector() -> None:
    find = ClassFreeBoxes()
    image = torch.full((3, 160, 200), 90, dtype=torch.uint8)
    image[:, 40:110, 50:130] = torch.tensor([230, 40, 30], dtype=torch.uint8)[:, None, None]
    boxes, scores = find(image)
    assert len(boxes) and torch.equal(scores.sort(descending=True).values, scores)
    assert (boxes[:, 2:] <= torch.tensor([200.0, 160.0])).all()
    with pytest.raises(ConfigError, match="list of names"):
        ClassFreeBoxes(names="object")
