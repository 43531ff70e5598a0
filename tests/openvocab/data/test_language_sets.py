"""Questions and captions from files in VQAv2's and COCO's form, and from ShapesWorld; the mappers; broken files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import transforms as T
from PIL import Image

from openvocab.data import (
    CaptionMapper,
    QuestionMapper,
    TrainSource,
    build_train_loader,
    get_records,
    get_vocabulary,
    register_captions_folder,
    register_vqa_folder,
)
from openvocab.data.catalog import unregister
from openvocab.data.questions import load_caption_records, load_vqa_records
from openvocab.errors import ConfigError, DataError
from openvocab.testing import ANSWERS
from openvocab.testing.quick_tasks import shapes_tasks, shapes_words


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One picture with two captions and a question that ten people answered, one that nobody did."""
    (tmp_path / "images").mkdir()
    Image.new("RGB", (40, 30), (200, 30, 30)).save(tmp_path / "images" / "a.png")
    image = {"id": 9, "file_name": "a.png", "height": 30, "width": 40}
    captions = [{"id": i, "image_id": 9, "caption": text} for i, text in enumerate(["a  red wall", "red"])]
    asked = {90: "what  color?", 91: "why?"}
    questions = [{"question_id": number, "image_id": 9, "question": text} for number, text in asked.items()]
    answers = [{"question_id": 90, "answers": [{"answer": "red"}] * 9 + [{"answer": "Wall"}], "answer_type": "other"}]
    answers.append({"question_id": 91, "answers": [], "answer_type": "other", "question_type": "why"})
    files = {
        "captions": {"images": [image], "annotations": captions},
        "questions": {"questions": questions},
        "answers": {"annotations": answers},
    }
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


def rewrite(path: Path, key: str, rows: list) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, key: rows}))


def test_questions_with_their_annotations(folder: Path) -> None:
    rows = load_vqa_records(
        folder / "questions.json", folder / "images", "x", pictures=folder / "captions.json", answers=folder / "answers.json"
    )
    assert [r["question"] for r in rows] == ["what color?", "why?"] and rows[0]["question_id"] == 90
    assert rows[0]["answers"] == ["red"] * 9 + ["Wall"] and rows[1]["answers"] == [] and rows[1]["question_type"] == "why"
    assert (rows[0]["height"], rows[0]["width"], rows[0]["image_id"]) == (30, 40, 9)
    bare = load_vqa_records(folder / "questions.json", folder / "images", "x", pictures=folder / "captions.json")
    assert [r["answers"] for r in bare] == [[], []]


def test_captions(folder: Path) -> None:
    (row,) = load_caption_records(folder / "captions.json", folder / "images", "x")
    assert row["captions"] == ["a red wall", "red"] and row["file_name"].endswith("images/a.png")


@pytest.mark.parametrize(
    ("file", "key", "rows", "message"),
    [
        ("questions", "questions", [{"question_id": 1, "image_id": 9}], "no 'question'"),
        ("questions", "questions", [{"question_id": 1, "image_id": 8, "question": "why?"}], "not among the pictures"),
        ("questions", "questions", [{"question_id": 5, "image_id": 9, "question": "why?"}], "has no annotation"),
        ("questions", "questions", "none", "no list 'questions'"),
        ("answers", "annotations", [{"question_id": 90, "answers": "red"}], "are no list"),
        ("captions", "images", [{"id": 9, "file_name": "../a.png", "height": 30, "width": 40}], "leaves the images folder"),
    ],
)
def test_broken_files_are_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, file: str, key: str, rows: object, message: str
) -> None:
    monkeypatch.setenv("OPENVOCAB_STRICT", "1")
    rewrite(folder / f"{file}.json", key, rows)
    with pytest.raises(DataError, match=message):
        load_vqa_records(
            folder / "questions.json", folder / "images", "x", pictures=folder / "captions.json", answers=folder / "answers.json"
        )


def test_a_caption_of_no_picture_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENVOCAB_STRICT", "1")
    rewrite(folder / "captions.json", "annotations", [{"image_id": 3, "caption": "red"}])
    with pytest.raises(DataError, match="caption number 0"):
        load_caption_records(folder / "captions.json", folder / "images", "x")


def test_registered_folders(folder: Path) -> None:
    try:
        register_vqa_folder("my_vqa", root=folder, questions="questions.json", pictures="captions.json", answers="answers.json")
        register_captions_folder("my_captions", root=folder, annotations="captions.json")
        assert len(get_records("my_vqa")) == 2 and len(get_records("my_captions")) == 1
        with pytest.raises(DataError, match="no list of names"):
            get_vocabulary("my_vqa")
        with pytest.raises(DataError, match="absent.json"):
            register_captions_folder("other", root=folder, annotations="absent.json")
    finally:
        unregister("my_vqa")
        unregister("my_captions")


def test_known_sets_say_where_they_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for name, file in (("vqa_v2_val", "v2_OpenEnded_mscoco_val2014"), ("coco_2014_val_captions", "captions_val2014.json")):
        with pytest.raises(DataError, match=file):
            get_records(name)


def test_mappers(folder: Path) -> None:
    double = [T.Resize((60, 80))]
    record = load_vqa_records(
        folder / "questions.json", folder / "images", "x", pictures=folder / "captions.json", answers=folder / "answers.json"
    )
    trained = QuestionMapper(is_train=True, augmentations=double, image_format="BGR")
    x = trained(record[0])
    assert x["task"] == "vqa" and x["image"].shape == (3, 60, 80) and (x["height"], x["width"]) == (30, 40)
    assert x["image"][:, 5, 5].tolist() == [30, 30, 200] and x["answers"] == pytest.approx({"red": 1.0, "wall": 1 / 3})
    assert trained(record[1]) is None, "a question that nobody answered teaches nothing"
    assert "answers" not in QuestionMapper(is_train=False)(record[1])
    (row,) = load_caption_records(folder / "captions.json", folder / "images", "x")
    drawn = {CaptionMapper(is_train=True)(row)["sentence"] for _ in range(30)}
    assert drawn == {"a red wall", "red"} and "sentence" not in CaptionMapper(is_train=False)(row)
    with pytest.raises(ConfigError, match="GRB"):
        CaptionMapper(is_train=True, image_format="GRB")


def test_shapes_in_one_loader() -> None:
    """Boxes, questions and captions of the same pictures, mixed; the same arguments give the same sets."""
    from openvocab.data import DatasetMapper

    names = shapes_tasks(num=4, image_size=64)
    assert shapes_tasks(num=4, image_size=64) == names
    mappers = {"detection": DatasetMapper, "vqa": QuestionMapper, "caption": CaptionMapper}
    sources = [TrainSource(name=names[t], mapper=m(is_train=True)) for t, m in mappers.items()]
    batch = next(iter(build_train_loader(sources=sources, total_batch_size=24, num_workers=0)))
    kinds = [x.get("task", "detection") for x in batch]
    assert set(kinds) == set(mappers) and all(np.isfinite(x["image"].numpy()).all() for x in batch)
    answers = {a for x in batch if x.get("task") == "vqa" for a in x["answers"]}
    assert answers <= set(ANSWERS), "what is learned can be answered"


def test_the_words_of_shapes_are_known_to_its_tokenizer() -> None:
    from openvocab.testing import ShapesWorld, caption_of, questions_of
    from openvocab.text import BertTextEncoder

    path, count = shapes_words()
    config = {"vocab_size": count, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    encoder = BertTextEncoder(source=None, config=config, vocab_file=path)
    scenes = list(ShapesWorld(image_size=64).scenes(12))
    texts = [caption_of(s, n).text for s in scenes for n in range(2)] + [q.text for s in scenes for q in questions_of(s)]
    for text, row in zip(texts, encoder.split(texts), strict=True):
        assert encoder._tokenizer.token_to_id("[UNK]") not in row.ids, text
        assert encoder.join(row.ids).replace(" ", "") == text.replace(" ", "")
