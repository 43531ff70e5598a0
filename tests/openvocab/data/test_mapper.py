"""From records to model inputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, PolygonMasks
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openvocab.data import DatasetMapper, PromptSampler, get_records, get_vocabulary, register_coco_folder
from openvocab.data.randomness import seeded
from openvocab.errors import ConfigError, DataError, InputError, VocabularyError
from openvocab.prompting import Caption, build_caption
from openvocab.vocabulary import Vocabulary


@pytest.fixture
def records(coco: Path) -> list[dict]:
    register_coco_folder("t_set", root=coco, annotations="train.json")
    return get_records("t_set")


def test_training_input(records: list[dict]) -> None:
    sample = DatasetMapper(is_train=True, augmentations=[T.Resize((96, 128))])(records[0])
    assert set(sample) == {
        "image", "height", "width", "image_id", "file_name", "dataset", "vocabulary", "instances", "ignore_boxes",
    }  # fmt: skip
    assert sample["image"].shape == (3, 96, 128) and sample["image"].dtype == torch.uint8
    assert (sample["height"], sample["width"], sample["dataset"]) == (48, 64, "t_set")
    assert sample["vocabulary"] == get_vocabulary("t_set")
    found = sample["instances"]
    assert found.image_size == (96, 128) and found.gt_classes.tolist() == [0, 1]
    assert found.gt_boxes.tensor.tolist() == [[4, 8, 44, 68], [10, 8, 50, 68]], "XYXY pixels of the resized picture"
    assert sample["ignore_boxes"].shape == (0, 4)


def test_test_input_has_no_annotations(records: list[dict]) -> None:
    sample = DatasetMapper(is_train=False, augmentations=[T.ResizeShortestEdge(24, 99)])(records[0])
    assert "instances" not in sample and "ignore_boxes" not in sample
    assert sample["image"].shape == (3, 24, 32) and sample["vocabulary"] is get_vocabulary("t_set")
    bare = {k: v for k, v in records[0].items() if k not in ("dataset_source", "annotations")}
    assert "vocabulary" not in DatasetMapper(is_train=False)(bare), "the model's own is used"


def test_record_is_left_alone_and_pixels_are_right(records: list[dict]) -> None:
    before = repr(records[0])
    rgb = DatasetMapper(is_train=True)(records[0])["image"]
    bgr = DatasetMapper(is_train=True, image_format="BGR")(records[0])["image"]
    assert torch.equal(rgb, bgr.flip(0)) and repr(records[0]) == before


def test_proposals_move_with_the_picture(records: list[dict]) -> None:
    boxes = np.array([[0, 0, 10, 10], [20, 10, 60, 40], [70, 0, 90, 9]])  # the last lies outside
    given = {"proposal_boxes": boxes, "proposal_objectness_logits": np.array([3.0, 2.0, 1.0]), "proposal_bbox_mode": 0}
    for is_train in (True, False):
        mapper = DatasetMapper(is_train=is_train, augmentations=[T.Resize((96, 128))], precomputed_proposal_topk=5)
        found = mapper({**records[0], **given})["proposals"]
        assert found.image_size == (96, 128) and found.objectness_logits.tolist() == [3, 2]
        assert found.proposal_boxes.tensor.tolist() == [[0, 0, 20, 20], [40, 20, 120, 80]]
        mapper.precomputed_proposal_topk = 1
        assert len(mapper({**records[0], **given})["proposals"]) == 1 and "proposals" not in mapper(records[0])
    assert len(given) == 3 and "proposals" not in DatasetMapper(is_train=False)({**records[0], **given})


def test_flip_moves_boxes(records: list[dict]) -> None:
    sample = DatasetMapper(is_train=True, augmentations=[T.RandomFlip(prob=1.0)])(records[0])
    assert sample["instances"].gt_boxes.tensor[0].tolist() == [64 - 22, 4, 64 - 2, 34]


def test_crowds_and_excluded_names_are_ignored_not_taught(records: list[dict]) -> None:
    records[0]["annotations"][0]["iscrowd"] = 1
    mapper = DatasetMapper(is_train=True, exclude_names=["Red_Car"], prompt=PromptSampler())
    sample = mapper(records[0])
    assert len(sample["instances"]) == 1 and sample["ignore_boxes"].tolist() == [[2, 4, 22, 34]]
    second = mapper(records[1])  # dog and red_car
    assert second["ignore_boxes"].tolist() == [[5, 4, 25, 34]]
    assert second["vocabulary"].names[second["instances"].gt_classes[0]] == "dog"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), generic=st.sampled_from([0.0, 0.3]), broad=st.sampled_from([0.0, 0.5]))
def test_excluded_names_never_stand_in_a_prompt(records: list[dict], seed: int, generic: float, broad: float) -> None:
    mapper = DatasetMapper(
        is_train=True,
        prompt=PromptSampler(max_names=2),
        exclude_names=["dog"],
        super_names={"cat": "animal", "dog": "animal"},
        super_name_prob=broad,
        generic_name_prob=generic,
    )
    for record in records:
        with seeded(seed):
            sample = mapper(record)
        words = sample["vocabulary"]
        assert "dog" not in words and len(sample["instances"]) >= 1
        assert sample["instances"].gt_classes.max() < len(words)
        excluded = sum(a["category_id"] == 1 for a in record["annotations"])
        assert len(sample["ignore_boxes"]) == excluded


def test_names_of_its_own_are_matched_by_name(records: list[dict]) -> None:
    words = Vocabulary.from_names(["plane", "red car", "dog", "cat"])
    sample = DatasetMapper(is_train=True, vocabulary=Vocabulary.from_names(["red_car", "dog", "cat"]))(records[1])
    assert sample["instances"].gt_classes.tolist() == [1, 0]
    sample = DatasetMapper(is_train=True, vocabulary=words)
    with pytest.raises(ValueError, match="'red_car' is not in this vocabulary"):
        sample(records[1])


def test_small_and_cut_boxes(records: list[dict]) -> None:
    record = records[0]
    record["annotations"] = [
        {"bbox": [2, 4, 0.4, 20], "bbox_mode": 1, "category_id": 0},
        {"bbox": [0, 0, 60, 20], "bbox_mode": 1, "category_id": 1},
        {"bbox": [0, 0, 20, 20], "bbox_mode": 1, "category_id": 2},
        {"bbox": [40, 30, 20, 15], "bbox_mode": 1, "category_id": 2},
        {"bbox": [-10, -10, 25, 25], "bbox_mode": 1, "category_id": 0},
    ]
    crop = T.CropTransform(0, 0, 10, 40)
    sample = DatasetMapper(is_train=True, augmentations=[crop])(record)
    assert sample["instances"].gt_boxes.tensor.tolist() == [[0, 0, 10, 20], [0, 0, 10, 15]]
    assert sample["ignore_boxes"].tolist() == [[0, 0, 10, 20]], "a sixth of the long box is left"


def test_what_lies_outside_the_picture_itself_is_not_missed(records: list[dict]) -> None:
    records[0]["annotations"] = [{"bbox": [-58, 0, 60, 20], "bbox_mode": 1, "category_id": 0}]
    sample = DatasetMapper(is_train=True, augmentations=[T.HFlipTransform(64)])(records[0])
    assert sample["instances"].gt_boxes.tensor.tolist() == [[62, 0, 64, 20]], "two pixels, but all that ever was there"


def test_nothing_to_teach(records: list[dict]) -> None:
    records[0]["annotations"] = []
    assert DatasetMapper(is_train=True)(records[0]) is None
    sample = DatasetMapper(is_train=True, keep_empty=True)(records[0])
    assert len(sample["instances"]) == 0 and sample["instances"].gt_boxes.tensor.shape == (0, 4)
    assert len(DatasetMapper(is_train=True, keep_empty=True, prompt=PromptSampler())(records[0])["vocabulary"]) >= 1


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6))
def test_boxes_stay_inside_whatever_the_augmentation(records: list[dict], seed: int) -> None:
    mapper = DatasetMapper(
        is_train=True,
        keep_empty=True,
        augmentations=[
            T.RandomCrop("relative_range", (0.3, 0.3)),
            T.RandomRotation([-20, 20]),
            T.ResizeShortestEdge((20, 70), 90, "range"),
            T.RandomFlip(),
            T.RandomBrightness(0.5, 1.5),
        ],
    )
    with seeded(seed):
        sample = mapper(records[seed % 6])
    height, width = sample["image"].shape[1:]
    assert sample["image"].dtype == torch.uint8 and sample["instances"].image_size == (height, width)
    for boxes in (sample["instances"].gt_boxes.tensor, sample["ignore_boxes"]):
        assert boxes.dtype == torch.float32
        if len(boxes):
            assert boxes.min() >= 0 and boxes[:, 2].max() <= width and boxes[:, 3].max() <= height
            assert ((boxes[:, 2:] - boxes[:, :2]) >= 1 - 1e-4).all()


def test_masks_move_with_the_picture(records: list[dict]) -> None:
    record = records[0]
    record["annotations"][0]["segmentation"] = [[2, 4, 22, 4, 22, 34, 2, 34]]
    flip = [T.HFlipTransform(64)]
    sample = DatasetMapper(is_train=True, with_masks=True, augmentations=flip)(record)["instances"]
    assert isinstance(sample.gt_masks, PolygonMasks) and sample.gt_is_box_mask.tolist() == [False, True]
    for polygon, box in zip(sample.gt_masks.polygons, sample.gt_boxes.tensor, strict=True):
        points = np.asarray(polygon[0]).reshape(-1, 2)
        assert np.allclose([*points.min(0), *points.max(0)], box)
    bits = DatasetMapper(is_train=True, with_masks=True, mask_format="bitmask", augmentations=flip)(record)["instances"]
    assert isinstance(bits.gt_masks, BitMasks) and bits.gt_is_box_mask.tolist() == [False, True]
    assert torch.allclose(bits.gt_masks.get_bounding_boxes().tensor, bits.gt_boxes.tensor, atol=1)


def test_run_length_masks(records: list[dict]) -> None:
    import pycocotools.mask as coco_mask

    bits = np.zeros((48, 64), dtype=np.uint8, order="F")
    bits[4:34, 2:22] = 1
    record = records[0]
    record["annotations"][0]["segmentation"] = coco_mask.encode(bits)
    with pytest.raises(DataError, match="mask_format='bitmask'"):
        DatasetMapper(is_train=True, with_masks=True)(record)
    found = DatasetMapper(is_train=True, with_masks=True, mask_format="bitmask")(record)["instances"]
    assert np.array_equal(found.gt_masks.tensor[0].numpy(), bits.astype(bool))
    record["annotations"][0]["segmentation"] = {"size": [48, 64], "counts": [4, "x"]}
    with pytest.raises(DataError, match="cannot be decoded"):
        DatasetMapper(is_train=True, with_masks=True, mask_format="bitmask")(record)


def test_grounding_records_give_captions(records: list[dict]) -> None:
    record = {**records[0], "caption": "A cat and a dog.", "phrases": [[[0, 5]], [[10, 15]]]}
    sample = DatasetMapper(is_train=True, prompt=PromptSampler(), generic_name_prob=1.0)(record)
    assert sample["caption"] == Caption("A cat and a dog.", (((0, 5),), ((10, 15),)))
    assert "vocabulary" not in sample and sample["instances"].gt_classes.tolist() == [0, 1]
    assert DatasetMapper(is_train=False)(record)["caption"].names == ("A cat", "a dog")
    assert DatasetMapper(is_train=True, exclude_names=["cat"])(record) is None
    assert DatasetMapper(is_train=True, exclude_names=["do"])(record) is not None, "whole words only"


def test_captions_are_kept(records: list[dict]) -> None:
    sample = DatasetMapper(is_train=True)({**records[0], "captions": ["one", "two"], "caption": "one"})
    assert sample["captions"] == ["one", "two"] and "vocabulary" in sample


def test_bad_files_and_sizes_raise(records: list[dict]) -> None:
    with pytest.raises(InputError, match="its record says 65 x 48"):
        DatasetMapper(is_train=True)({**records[0], "width": 65})
    with pytest.raises(InputError, match="there is no picture"):
        DatasetMapper(is_train=False)({**records[0], "file_name": "/nowhere.png"})


@pytest.mark.parametrize(
    "bad",
    [
        {"image_format": "HSV"},
        {"mask_format": "rle"},
        {"exclude_names": "cat"},
        {"generic_name_prob": 2},
        {"super_name_prob": -1},
    ],
)
def test_impossible_settings(bad: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        DatasetMapper(is_train=True, **bad)


def test_all_names_excluded(records: list[dict]) -> None:
    with pytest.raises(ConfigError, match="leaves no name of 't_set'"):
        DatasetMapper(is_train=True, exclude_names=["cat", "dog", "red_car"])(records[0])


def test_record_without_a_set_needs_a_vocabulary(records: list[dict], editor: Callable) -> None:
    bare = {k: v for k, v in records[0].items() if k != "dataset_source"}
    with pytest.raises(DataError, match="give the mapper a vocabulary"):
        DatasetMapper(is_train=True)(bare)
    words = Vocabulary.from_names(["a", "b", "c"])
    assert DatasetMapper(is_train=True, vocabulary=words)(bare)["vocabulary"] == words


def test_a_wording_for_each_set(records: list[dict]) -> None:
    """Names, boxes and their places stay; the caption says them otherwise, in evaluation and in training."""
    wording = {"t_set": {"dog": "a {small dog} at home"}, "another": "{} here"}
    for is_train in (True, False):
        asked = DatasetMapper(is_train=is_train, wording=wording)(records[0])["vocabulary"]
        assert asked.names == get_vocabulary("t_set").names
        assert build_caption(asked).text == "cat. a small dog at home. red car"
    plain = DatasetMapper(is_train=True, wording={"another": "{} here"})(records[0])
    assert plain["vocabulary"] == get_vocabulary("t_set")
    with pytest.raises(VocabularyError, match="'cow', which is not a name"):
        DatasetMapper(is_train=False, wording={"t_set": {"cow": "{}"}})(records[0])
    with pytest.raises(ConfigError, match="not both"):
        DatasetMapper(is_train=False, vocabulary=Vocabulary.from_names(["dog"]), wording=wording)
