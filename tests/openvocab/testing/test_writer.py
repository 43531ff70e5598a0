"""What is written loads elsewhere: pycocotools, our own readers, detectron2; and means the same as the scene."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from openvocab.data import build_test_loader, get_records, get_vocabulary
from openvocab.data.catalog import unregister
from openvocab.data.grounding import load_mdetr_records
from openvocab.data.mapper import DatasetMapper
from openvocab.errors import DataError
from openvocab.testing import (
    ANSWERS,
    ClipWorld,
    ShapesWorld,
    caption_of,
    get_taxonomy,
    held_out_pairs,
    questions_of,
    register_shapes,
    to_grounding_record,
    to_model_input,
    to_record,
    write_clips,
    write_coco,
    write_convention,
)
from openvocab.testing.writer import WrittenSet

NUM = 12


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> WrittenSet:
    return write_coco(tmp_path_factory.mktemp("shapes"), NUM, 7, taxonomy="color_shape", held_out="pairs")


@pytest.fixture()
def registered(written: WrittenSet) -> Iterator[str]:
    register_shapes("shapes_of_a_test", written)
    yield "shapes_of_a_test"
    unregister("shapes_of_a_test")


def world() -> ShapesWorld:
    return ShapesWorld(seed=7, excluded_pairs=held_out_pairs())


def test_pycocotools_loads_it_and_areas_and_boxes_agree(written: WrittenSet) -> None:
    coco = COCO(str(written.files["instances"]))
    assert len(coco.imgs) == NUM and len(coco.cats) == 100
    for image_id, image in coco.imgs.items():
        scene = world().scene(image_id - 1)
        pixels = np.asarray(Image.open(written.folder / "images" / image["file_name"]))
        assert (pixels == scene.image).all()
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=image_id))
        assert len(annotations) == len(scene.objects)
        for a, thing in zip(annotations, scene.objects, strict=True):
            mask = coco.annToMask(a).astype(bool)
            rows, columns = np.nonzero(mask)
            assert (mask == thing.visible).all() and a["area"] == mask.sum()
            x, y, w, h = a["bbox"]
            assert (x, y, x + w, y + h) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert coco.cats[a["category_id"]]["name"] == f"{thing.color} {thing.shape}"
            assert a["attributes"] == {"color": thing.color, "shape": thing.shape, "size": thing.size}


def test_relations_link_annotations_of_one_picture(written: WrittenSet) -> None:
    content = json.loads(written.files["instances"].read_text())
    by_id = {a["id"]: a for a in content["annotations"]}
    assert content["relations"]
    for relation in content["relations"]:
        a, b = by_id[relation["subject"]], by_id[relation["object"]]
        assert a["image_id"] == b["image_id"] == relation["image_id"]
        assert relation["predicate"] in content["predicates"]
        if relation["predicate"] == "left of":
            assert a["bbox"][0] < b["bbox"][0] + b["bbox"][2]


def test_pairs_are_kept_out_of_training_only(written: WrittenSet, tmp_path: Path) -> None:
    names = {" ".join(p) for p in held_out_pairs()}
    val = write_coco(tmp_path, 30, 7, split="val", held_out="pairs")

    def painted(files: dict[str, Path]) -> set[str]:
        annotations = json.loads(files["instances"].read_text())["annotations"]
        return {f"{a['attributes']['color']} {a['attributes']['shape']}" for a in annotations}

    assert not painted(written.files) & names
    assert painted(val.files) & names


def test_novel_classes_are_unlabelled_in_training_only(tmp_path: Path) -> None:
    options = {"taxonomy": "shape", "held_out": "classes"}
    for split, expected in (("train", False), ("val", True)):
        files = write_coco(tmp_path, 30, 1, split=split, **options).files
        content = json.loads(files["instances"].read_text())
        assert [c["name"] for c in content["categories"]] == list(get_taxonomy("shape").names)
        novel = {c["id"] for c in content["categories"] if c["split"] == "novel"}
        assert bool(novel & {a["category_id"] for a in content["annotations"]}) is expected
        assert "star" in files["captions"].read_text(), "captions speak of novel shapes, as in open-vocabulary COCO"


def test_registered_set_goes_through_our_loaders(written: WrittenSet, registered: str) -> None:
    vocabulary = get_vocabulary(registered)
    assert vocabulary.names == get_taxonomy("color_shape").names
    assert vocabulary.splits.count("novel") == 20
    records = get_records(registered)
    assert [r["caption"] for r in records] == [caption_of(s).text for s in world().scenes(NUM)]
    mapper = DatasetMapper(is_train=True, with_masks=True, mask_format="bitmask")
    for record, scene in zip(records, world().scenes(NUM), strict=True):
        mapped, ours = mapper(record), to_model_input(to_record(scene))
        assert torch.equal(mapped["image"], ours["image"])
        a, b = mapped["instances"], ours["instances"]
        assert torch.equal(a.gt_boxes.tensor, b.gt_boxes.tensor) and torch.equal(a.gt_classes, b.gt_classes)
        assert torch.equal(a.gt_masks.tensor, b.gt_masks.tensor)
        assert mapped["vocabulary"] == ours["vocabulary"]
    loader = build_test_loader(dataset=registered, mapper=DatasetMapper(is_train=False))
    assert sum(len(batch) for batch in loader) == NUM


def test_grounding_files_load_and_say_what_the_scene_says(written: WrittenSet) -> None:
    records = load_mdetr_records(written.files["grounding"], written.folder / "images", "g")
    expected = [t for s in world().scenes(NUM) for t in (caption_of(s, 0), caption_of(s, 1)) if t.phrases]
    assert [r["caption"] for r in records] == [t.text for t in expected]
    scene, text = world().scene(0), caption_of(world().scene(0))
    ours = to_grounding_record(scene, text)
    assert records[0]["phrases"] == ours["phrases"]
    read, made = records[0]["annotations"], ours["annotations"]
    keys = ("bbox", "category_id", "segmentation")
    assert [[a[k] for k in keys] for a in read] == [[a[k] for k in keys] for a in made]
    mapped = DatasetMapper(is_train=True)(records[0])
    assert mapped["caption"] == to_model_input(ours)["caption"] == text.caption


def test_referring_file_asks_for_one_box(tmp_path: Path) -> None:
    written = write_coco(tmp_path, 8, 7, world=ShapesWorld(needs_sentence=True))
    content = json.loads(written.files["referring"].read_text())
    assert {image["original_id"] for image in content["images"] if image["needs_sentence"]} == set(range(1, 9))
    for image in content["images"]:
        boxes = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        asked = [a for a in boxes if a["tokens_positive"] == image["tokens_positive_eval"][0]]
        assert len(asked) == 1 and len(boxes) == 1 + bool(image["relation"])
        (start, end) = asked[0]["tokens_positive"][0]
        assert image["caption"].startswith("the " + image["caption"][start:end])


def test_questions_file(written: WrittenSet) -> None:
    content = json.loads(written.files["questions"].read_text())
    expected = [(s.index + 1, q.text, q.answer) for s in world().scenes(NUM) for q in questions_of(s)]
    assert [(q["image_id"], q["question"], q["answer"]) for q in content["questions"]] == expected
    assert content["answers"] == list(ANSWERS)


def test_writing_twice_gives_the_same_bytes(written: WrittenSet, tmp_path: Path) -> None:
    again = write_coco(tmp_path, NUM, 7, taxonomy="color_shape", held_out="pairs")
    for kind, path in written.files.items():
        assert again.files[kind].read_bytes() == path.read_bytes()


def test_convention_sets_on_disk(tmp_path: Path) -> None:
    coco = COCO(str(write_convention(tmp_path, 6, 3, convention="C").files["instances"]))
    assert [c["name"] for c in coco.cats.values()] == ["ball", "cone"]
    for a in coco.anns.values():
        mask = coco.annToMask(a)
        assert mask.sum() == a["area"] < a["bbox"][2] * a["bbox"][3] * 0.9


def test_model_input_of_a_picture_without_labels() -> None:
    scene = ShapesWorld(num_objects=(0, 0)).scene(0)
    instances = to_model_input(to_record(scene))["instances"]
    assert instances.gt_boxes.tensor.shape == (0, 4) and instances.gt_masks.tensor.shape == (0, 128, 128)


def test_clips_on_disk(tmp_path: Path) -> None:
    clips = list(ClipWorld(seed=1, frames=5, image_size=48).clips(3))
    with np.load(write_clips(tmp_path / "c.npz", clips)) as file:
        assert (file["frames"] == np.stack([c.frames for c in clips])).all()
        assert [file["actions"][n] for n in file["labels"]] == [c.action for c in clips]
        assert file["boxes"].shape == (3, 5, 4) and list(file["texts"]) == [c.text for c in clips]
    with pytest.raises(DataError, match="no clips"):
        write_clips(tmp_path / "d.npz", [])


@pytest.mark.parametrize(
    ("options", "words"),
    [({"num": 0}, "num"), ({"held_out": "pears"}, "held_out"), ({"taxonomy": "x"}, "tax"), ({"rule": "x"}, "rule")],
)
def test_bad_arguments_are_refused_and_write_nothing(tmp_path: Path, options: dict, words: str) -> None:
    with pytest.raises(DataError, match=words):
        write_coco(tmp_path / "out", **{"num": 1, **options})
    assert not (tmp_path / "out").exists()
