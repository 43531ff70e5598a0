"""GLIP's tab-separated files: rows found by their offsets, pictures read from them, labels of both formats, and what is damaged."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from openvocab.data import (
    DatasetMapper,
    ScoredBoxes,
    TrainSource,
    build_train_loader,
    get_records,
    get_vocabulary,
    register_tsv_folder,
    tsv_rows,
)
from openvocab.data.budget import BadSampleBudget
from openvocab.data.captions import read_captions
from openvocab.data.image import read_image, stored_size
from openvocab.data.tsv import TsvCollection, load_tsv_records
from openvocab.data.tsv_rows import TsvRows, find_rows, main
from openvocab.errors import DataError, InputError

LINES = st.binary(max_size=9).map(lambda b: b.replace(b"\n", b"").replace(b"\t", b"") + b"x")
SIZES = [(32, 48), (40, 24), (32, 48)]  # height, width
TEXT = "a red car and two dogs"
BOXES = {"bboxes": [[1, 2, 20, 20], [4, 4, 12, 12]], "tokens_positive": [[[2, 5], [6, 9]], [[14, 22]]], "scores": [0.9, 0.4]}
NESTED = {"bboxes": [[[1, 2, 20, 20], [2, 2, 9, 9]], []], "tokens_positive": [[[2, 9]], [[14, 22]]], "scores": [[0.9, 0.3], []]}


def pixels(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 255, (*SIZES[number % 3], 3), dtype=np.uint8)


def encoded(number: int) -> str:
    stream = io.BytesIO()
    Image.fromarray(pixels(number)).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def label(number: int, **more: object) -> dict:
    height, width = SIZES[number % 3]
    return {"caption": TEXT, "img_h": height, "img_w": width, **more}


def write(folder: Path, labels: list, *, pictures: int = 3, **fields: object) -> Path:
    """Write pictures, labels (objects, or lines as they are) and the yaml; return it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "p.img.tsv").write_text("".join(f"k{i}\t{encoded(i)}\n" for i in range(pictures)))
    lines = [x if isinstance(x, str) else f"k{i}\t{json.dumps(x)}" for i, x in enumerate(labels)]
    (folder / "p.label.tsv").write_text("".join(f"{line}\n" for line in lines))
    names = {"img": "p.img.tsv", "label": "p.label.tsv", **fields}
    (folder / "p.yaml").write_text("".join(f"{k}: {v}\n" for k, v in names.items()))
    return folder / "p.yaml"


# ---- rows -------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(lines=st.lists(LINES, max_size=12), end=st.booleans(), block=st.integers(1, 7))
def test_rows_are_the_lines(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], end: bool, block: int) -> None:
    path = tmp_path_factory.mktemp("rows") / "a.tsv"
    path.write_bytes(b"\n".join(lines) + (b"\n" if end and lines else b""))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tsv_rows, "_BLOCK", block)
        rows = TsvRows(path)
        assert [rows[i] for i in range(len(rows))] == [[line.strip()] for line in lines]


def test_offsets_are_looked_for_once_and_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, [label(0)]).parent / "p.img.tsv"
    seen: list[Path] = []
    monkeypatch.setattr(tsv_rows, "find_rows", lambda p: seen.append(p) or find_rows(p))
    rows = TsvRows(path)
    assert seen == []
    assert [rows[i][0] for i in (2, 0, 1)] == [b"k2", b"k0", b"k1"] and seen == [path]


def test_the_index_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    path = write(tmp_path, [label(0)]).parent / "p.img.tsv"
    assert main([str(path)]) == 0 and "3 rows" in capsys.readouterr().out
    index = tmp_path / "p.img.lineidx"
    assert [int(n) for n in index.read_text().split()] == find_rows(path).tolist()
    monkeypatch.setattr(tsv_rows, "find_rows", lambda p: pytest.fail("the index says it"))
    assert TsvRows(path)[1][0] == b"k1"
    for wrong in ("0\n5\n", "3\n", "0\nx\n", "\n".join(index.read_text().split()[:2]), f"0\n{10**9}\n", f"0\n{10**30}\n"):
        index.write_text(wrong)
        with pytest.raises(DataError, match="p.img.lineidx"):
            len(TsvRows(path))
    with pytest.raises(DataError, match="no .tsv file"):
        main([str(tmp_path / "absent.tsv")])


def test_rows_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, [label(0)]).parent / "p.img.tsv"
    with pytest.raises(DataError, match="has 3 rows, and row 3"):
        TsvRows(path)[3]
    monkeypatch.setattr(tsv_rows, "MAX_ROW", 40)
    with pytest.raises(DataError, match="longer than 40"):
        TsvRows(path)[0]


# ---- pictures ---------------------------------------------------------------------------------------------------------


def test_a_picture_in_a_row_is_read_as_a_file(tmp_path: Path) -> None:
    path = write(tmp_path, [label(0)]).parent / "p.img.tsv"
    for number, offset in enumerate(find_rows(path).tolist()):
        assert np.array_equal(read_image(f"{path}@{offset}"), pixels(number))
        assert stored_size(f"{path}@{offset}") == SIZES[number][::-1]
    with pytest.raises(InputError, match="its record says 9 x 9"):
        read_image(f"{path}@0", size=(9, 9))


@pytest.mark.parametrize(
    ("row", "place", "message"),
    [
        ("k\tno base64!", 0, "cannot be read"),
        ("k\tbm8gcGljdHVyZQ==", 0, "no picture that can be read"),
        ("k", 0, "1 columns"),
        ("k\t", 0, "2 columns"),
        ("k\tbm8=", 1, "no row begins at byte 1"),
        ("k\tbm8=", 999, "no row begins at byte 999"),
    ],
)
def test_damaged_pictures_are_named(tmp_path: Path, row: str, place: int, message: str) -> None:
    (tmp_path / "a.tsv").write_text(f"{row}\n")
    with pytest.raises(InputError, match=message) as error:
        read_image(tmp_path / f"a.tsv@{place}")
    assert "a.tsv@" in str(error.value)


def test_other_names_are_files(tmp_path: Path) -> None:
    for name in ("b.tsv@0", "a.png@0", "b.tsv@x"):
        with pytest.raises(InputError, match="there is no picture"):
            read_image(tmp_path / name)
    Image.fromarray(pixels(0)).save(tmp_path / "c.png")
    (tmp_path / "c.png").rename(tmp_path / "c.tsv@0")
    assert np.array_equal(read_image(tmp_path / "c.tsv@0"), pixels(0)), "a file of that name is that file"


# ---- captions ---------------------------------------------------------------------------------------------------------


def test_both_formats(tmp_path: Path) -> None:
    first, second, third = load_tsv_records(write(tmp_path, [label(0, **BOXES), label(1, **NESTED), label(2)]), tmp_path, "t")
    assert first["phrases"] == [[[2, 5], [6, 9]], [[14, 22]]] and [a["score"] for a in first["annotations"]] == [0.9, 0.4]
    assert second["phrases"] == [[[2, 9]]], "a phrase may have no box"
    assert [a["category_id"] for a in second["annotations"]] == [0, 0]
    assert [a["score"] for a in second["annotations"]] == [0.9, 0.3]
    assert third["phrases"] == third["annotations"] == [] and third["caption"] == TEXT
    assert [r["image_id"] for r in (first, second, third)] == [0, 1, 2] and (second["height"], second["width"]) == SIZES[1]
    assert np.array_equal(read_image(second["file_name"]), pixels(1))


def test_it_is_training_data(tmp_path: Path) -> None:
    write(tmp_path / "set", [label(0, **BOXES), label(1, **NESTED), label(2)])
    register_tsv_folder("t_tsv", collection="p.yaml", root=tmp_path / "set")
    source = TrainSource(name="t_tsv", mapper=DatasetMapper(is_train=True), select=ScoredBoxes(min_score=0.5))
    loader = iter(build_train_loader(sources=[source], total_batch_size=2, aspect_ratio_grouping=False))
    samples = [x for _ in range(2) for x in next(loader)]
    assert {x["image_id"] for x in samples} == {0, 1}, "a sentence without a box teaches nothing"
    assert {x["caption"].names for x in samples} == {("red car",)}, "a phrase whose box is not sure is none"
    for x in samples:
        assert x["image"].permute(1, 2, 0).numpy().tolist() == pixels(x["image_id"]).tolist() and len(x["instances"]) == 1


def test_rows_that_are_chosen_and_pictures_that_are_shared(tmp_path: Path) -> None:
    (tmp_path / "some.linelist").write_text("1\n0\n1\n")
    (tmp_path / "where.json").write_text(json.dumps({"a": 2, "b": 1}))
    labels = [label(2, img_id="a"), label(1, img_id="b")]
    path = write(tmp_path, labels, linelist="some.linelist", imageid2idx="where.json")
    records = load_tsv_records(path, tmp_path, "t")
    assert [r["image_id"] for r in records] == [0, 1, 2] and records[0]["file_name"] == records[2]["file_name"]
    assert [np.array_equal(read_image(r["file_name"]), pixels(n)) for r, n in zip(records, (1, 2, 1), strict=True)] == [True] * 3


@pytest.mark.parametrize("rows", ["k\t32 48", 'k\t{"height": 32, "width": 48}', 'k\t[{"height": 32, "width": 48}]'])
def test_sizes_may_stand_apart(tmp_path: Path, rows: str) -> None:
    (tmp_path / "p.hw.tsv").write_text(f"{rows}\n")
    (record,) = load_tsv_records(write(tmp_path, [{"captions": ["a car", "a dog"]}], hw="p.hw.tsv"), tmp_path, "t")
    assert (record["height"], record["width"]) == (32, 48) and record["caption"] == "a car a dog"


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        ("k", "1 column"),
        ("k\t{", "the label is no json"),
        ("k\t3", "neither an object nor a list"),
        (label(0, bboxes=[[1, 2, 3, 4]], tokens_positive=[[[0, 5]], [[2, 5]]]), "2 phrases, 1 boxes"),
        (label(0, bboxes=[], tokens_positive=[[[0, 5]]]), "1 phrases, 0 boxes"),
        (label(0, bboxes=[[1, 2, 3, 4]], tokens_positive=[[[0, 99]]]), "outside the caption"),
        (label(0, bboxes=[[1, 2, 3]], tokens_positive=[[[0, 5]]]), "not four numbers"),
        (label(0, bboxes=[[1, 2, 3, 4]], tokens_positive=[[[0, 5]]], scores=[1.5]), "score 1.5 is no number from 0 to 1"),
        (label(0, bboxes=[[[1, 2, 3, 4]]], tokens_positive=[[[0, 5]]], scores=[[]]), "1 boxes and the scores"),
        (label(0, bboxes=3), "must be lists"),
        ({"caption": TEXT}, "name a file of sizes as 'hw'"),
        (label(0, caption=" "), "no caption"),
    ],
)
def test_damaged_rows_use_up_the_budget(tmp_path: Path, damaged: object, message: str) -> None:
    path = write(tmp_path, [damaged, label(1, **BOXES)])
    (record,) = load_tsv_records(path, tmp_path, "t")
    assert record["image_id"] == 1, "one bad row is skipped"
    with pytest.raises(DataError, match=rf"row 0.*{message}"):
        load_tsv_records(path, tmp_path, "t", budget=BadSampleBudget(strict=True))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"img": "absent.tsv"}, "no .tsv file"),
        ({"img": "../p.img.tsv"}, "leaves"),
        ({"img": None}, "has no 'img'"),
        ({"labeled": "p.label.tsv"}, "Did you mean 'label'"),
        ({"linelist": "absent"}, "line list"),
        ({"imageid2idx": "p.yaml"}, "no json"),
        ({"labelmap": "p.yaml"}, "no json"),
    ],
)
def test_a_yaml_that_cannot_be_used(tmp_path: Path, fields: dict, message: str) -> None:
    path = write(tmp_path, [label(0)], **{k: "null" if v is None else v for k, v in fields.items()})
    with pytest.raises(DataError, match=message):
        load_tsv_records(path, tmp_path, "t", budget=BadSampleBudget(strict=True))
    path.write_text("- no table")
    with pytest.raises(DataError, match="must hold lines like"):
        TsvCollection(path)


def test_a_teacher_takes_captions_and_their_pictures(tmp_path: Path) -> None:
    path = write(tmp_path / "below", [label(0), {"captions": ["a dog", "a  cat"]}, [{"caption": "a tree"}]])
    found = read_captions(path, tmp_path)
    assert [c.caption for c in found] == [TEXT, "a dog", "a cat", "a tree"]
    for one, number in zip(found, (0, 1, 1, 2), strict=True):
        assert np.array_equal(read_image(tmp_path / one.file_name), pixels(number))
    with pytest.raises(DataError, match="their folder is"):
        read_captions(path, tmp_path / "other")
    with pytest.raises(DataError, match="row 0 .*no json"):
        read_captions(write(tmp_path / "below", ["k\t{"]), tmp_path)


# ---- detection --------------------------------------------------------------------------------------------------------

THINGS = [
    {"class": "dog", "rect": [1, 2, 20, 20]},
    {"class": "cat", "rect": [2, 2, 9, 9], "conf": 0.25},
    {"class": "cat", "rect": [5, 5, 5, 9]},
]


@pytest.mark.parametrize("names", ['{"cat": 1, "dog": 2}', '{"label_to_idx": {"dog": 7, "cat": 3}}', "cat\ndog\n"])
def test_detection_labels(tmp_path: Path, names: str) -> None:
    file = "names.tsv" if names.startswith("cat") else "names.json"
    (tmp_path / file).write_text(names)
    (tmp_path / "p.hw.tsv").write_text("k\t32 48\nk\t40 24\n")
    write(tmp_path, [THINGS, {"objects": THINGS[:1]}], labelmap=file, hw="p.hw.tsv")
    register_tsv_folder("t_things", collection="p.yaml", root=tmp_path)
    assert get_vocabulary("t_things").names == ("cat", "dog")
    first, second = get_records("t_things")
    assert [a["category_id"] for a in first["annotations"]] == [1, 0] and first["annotations"][1]["score"] == 0.25
    sample = DatasetMapper(is_train=True)(second)
    assert sample["vocabulary"].names == ("cat", "dog") and sample["instances"].gt_classes.tolist() == [1]


def test_detection_labels_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "names.json").write_text('{"cat": 1}')
    path = write(tmp_path, [{"objects": [{"class": "cta", "rect": [0, 0, 1, 1]}], "img_h": 32, "img_w": 48}], labelmap="names.json")
    with pytest.raises(DataError, match="no class of the label map. Did you mean 'cat'"):
        load_tsv_records(path, tmp_path, "t", budget=BadSampleBudget(strict=True))
    for thing in ({"class": ["cat"], "rect": [0, 0, 1, 1]}, {"rect": [0, 0, 1, 1]}, 3):
        write(tmp_path, [{"objects": [thing], "img_h": 32, "img_w": 48}], labelmap="names.json")
        with pytest.raises(DataError, match="row 0.*no class of the label map"):
            load_tsv_records(path, tmp_path, "t", budget=BadSampleBudget(strict=True))
    (tmp_path / "names.json").write_text('{"cat": "first"}')
    with pytest.raises(DataError, match="no label map"):
        load_tsv_records(path, tmp_path, "t")
    captions = write(tmp_path / "c", [label(0)])
    register_tsv_folder("t_captions", collection=captions.name, root=tmp_path / "c")
    with pytest.raises(DataError, match="grounding set"):
        get_vocabulary("t_captions")
