"""Converting and checking data sets, and the tool that does both."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openvocab.data import get_records, get_vocabulary, register_from_yaml
from openvocab.data.convert import read_names, voc_to_coco, yolo_to_coco
from openvocab.data.verify import verify_coco
from openvocab.data.xml_input import read_xml
from openvocab.errors import DataError, cli_main

TOOL = Path(__file__).resolve().parents[3] / "tools/prepare_dataset.py"
OBJECT = (
    "<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax>"
    "</bndbox></object>"
)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.png"):
        Image.fromarray(np.zeros((40, 80, 3), dtype=np.uint8)).save(folder / name)
    return folder


def voc(tmp_path: Path, *objects: tuple) -> Path:
    (tmp_path / "xml").mkdir(exist_ok=True)
    body = "".join(OBJECT.format(*o) for o in objects)
    (tmp_path / "xml/a.xml").write_text(f"<annotation>{body}</annotation>")
    return tmp_path / "xml"


def test_voc(tmp_path: Path, pictures: Path) -> None:
    folder = voc(tmp_path, ("dog", 0, 1, 1, 80, 40), ("cat", 1, 11, 6, 20, 15), ("cat", 0, 30, 30, 29, 35))
    result = voc_to_coco(folder, pictures)
    assert [i["file_name"] for i in result["images"]] == ["a.png", "sub/b.png"]
    assert result["images"][0]["width"] == 80 and result["images"][0]["height"] == 40
    assert [a["bbox"] for a in result["annotations"]] == [[0, 0, 80, 40], [10, 5, 10, 10]], "VOC counts pixels from 1"
    assert result["annotations"][1]["difficult"] == 1 and result["categories"] == [
        {"id": 1, "name": "dog"},
        {"id": 2, "name": "cat"},
    ]
    assert voc_to_coco(folder, pictures, one_based=False)["annotations"][1]["bbox"] == [11, 6, 9, 9]
    assert voc_to_coco(folder, pictures, names=["cat", "dog"])["annotations"][0]["category_id"] == 2
    with pytest.raises(DataError, match="'dog' is not among the names"):
        voc_to_coco(folder, pictures, names=["cat"])


def test_voc_without_numbers(tmp_path: Path, pictures: Path) -> None:
    for bad in ("x", "nan", ""):
        with pytest.raises(DataError, match="a.xml"):
            voc_to_coco(voc(tmp_path, ("dog", 0, bad, 1, 2, 3)), pictures)


LAUGHS = '<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;&x;&x;&x;">]><a>&y;</a>'
EXTERNAL = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>'
PARAMETER = '<!DOCTYPE a [<!ENTITY % x SYSTEM "http://localhost/x.dtd"> %x;]><a/>'


@pytest.mark.parametrize("text", [LAUGHS, EXTERNAL, PARAMETER, '<!DOCTYPE a SYSTEM "http://localhost/a.dtd"><a/>'])
def test_xml_that_attacks_the_parser_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(DataError, match="declares a document type"):
        read_xml(tmp_path / "a.xml")


@pytest.mark.parametrize(
    "text", ["", "<a>", "<a></b>", "<a>\0</a>", "<a>&undefined;</a>", '<?xml version="1.0" encoding="zz"?><a/>']
)
def test_xml_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(DataError, match="a.xml is no XML"):
        read_xml(tmp_path / "a.xml")


def test_xml_too_deep_or_missing(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text("<a>" * 5000 + "</a>" * 5000)
    with pytest.raises(DataError, match="nested more than"):
        read_xml(tmp_path / "a.xml")
    with pytest.raises(DataError, match="there is no file"):
        read_xml(tmp_path / "b.xml")
    (tmp_path / "c.xml").write_text("<a><b x='1'>text</b></a>")
    assert read_xml(tmp_path / "c.xml").findtext("b") == "text"


def test_yolo(tmp_path: Path, pictures: Path) -> None:
    (tmp_path / "labels/sub").mkdir(parents=True)
    (tmp_path / "labels/a.txt").write_text("1 0.5 0.5 0.25 0.5\n\n0 0.1 0.1 0.3 0.1 0.3 0.4\n")
    result = yolo_to_coco(tmp_path / "labels", pictures, names=["cat", "dog"])
    assert [a["bbox"] for a in result["annotations"]] == [[30, 10, 20, 20], [8, 4, 16, 12]]
    assert [a["category_id"] for a in result["annotations"]] == [2, 1]
    assert result["annotations"][1]["segmentation"] == [[8, 4, 24, 4, 24, 16]]
    assert all(a["image_id"] == 1 for a in result["annotations"]) and len(result["images"]) == 2


@pytest.mark.parametrize(
    "line",
    ["cat 0.5 0.5 0.1 0.1", "0 0.5 0.5 0.1", "2 0.5 0.5 0.1 0.1", "0 0.5 0.5 nan 0.1", "0 50 50 10 10", "-1 0 0 1 1"],
)
def test_yolo_lines_that_are_none(tmp_path: Path, pictures: Path, line: str) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text(line)
    with pytest.raises(DataError, match="a.txt, line 1"):
        yolo_to_coco(tmp_path / "labels", pictures, names=["cat", "dog"])


def test_names(tmp_path: Path) -> None:
    (tmp_path / "n.txt").write_text("cat\n\n dog \n")
    (tmp_path / "list.yaml").write_text("nc: 2\nnames: [cat, dog]\n")
    (tmp_path / "table.yaml").write_text("names:\n  1: dog\n  0: cat\n")
    for file in ("n.txt", "list.yaml", "table.yaml"):
        assert read_names(tmp_path / file) == ["cat", "dog"]
    (tmp_path / "bad.yaml").write_text("names: !!python/object/apply:os.getcwd []")
    (tmp_path / "empty.txt").write_text("\n")
    for file in ("bad.yaml", "empty.txt", "none.txt"):
        with pytest.raises(DataError, match=file):
            read_names(tmp_path / file)


def test_a_good_set_has_no_problem(coco: Path) -> None:
    report = verify_coco(coco / "train.json", coco / "images", decode=True)
    assert report.ok and not report.remarks and report.boxes == {"cat": 4, "dog": 4, "red_car": 4}
    assert report.lines()[0] == "6 images, 12 annotations, 3 classes"


def change_all(content: dict) -> None:
    content["images"][0]["file_name"] = "gone.png"
    content["images"][1]["width"] = 41
    content["images"][2]["file_name"] = "../2.png"
    content["images"].append({**content["images"][3], "file_name": "3.png"})
    notes = content["annotations"]
    notes[0]["id"] = 2
    notes[2]["category_id"] = 99
    notes[3]["image_id"] = 99
    notes[4]["bbox"] = [100, 100, 5, 5]
    notes[5]["bbox"] = [1, 2, None, 4]
    notes[6]["bbox"] = [1, 2, 500, 4]
    notes[7]["bbox"] = [1, 2, 0, 4]
    content["annotations"] = [a for a in notes if a["image_id"] != 105]
    content["categories"][0]["name"] = "cat"


def test_every_problem_is_found(coco: Path, editor: Callable) -> None:
    editor(coco, change_all)
    report = verify_coco(coco / "train.json", coco / "images")
    assert {k: len(v) for k, v in report.problems.items()} == {
        "missing files": 1,
        "sizes that differ from the file": 1,
        "file names that leave the folder": 1,
        "image ids that are there twice": 1,
        "annotation ids that are missing or there twice": 1,
        "unknown categories": 1,
        "annotations of unknown images": 1,
        "boxes wholly outside their picture": 1,
        "unusable boxes": 1,
        "names that cannot form a vocabulary (give vocabulary=[...] when registering)": 1,
    }
    assert set(report.remarks) == {
        "boxes that reach over the edge (clipped in training)",
        "boxes without area (left out in training)",
        "images without annotations (not trained on)",
    }
    assert any(line.startswith("PROBLEM: missing files: 1") for line in report.lines())


def test_truncated_photos_are_found_by_decoding_only(coco: Path, editor: Callable) -> None:
    path = coco / "images/0.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-600])
    editor(coco, lambda c: c["images"][0].update(file_name="0.jpg"))
    assert verify_coco(coco / "train.json", coco / "images").ok
    report = verify_coco(coco / "train.json", coco / "images", decode=True)
    assert list(report.problems) == ["unreadable pictures, or of another size"]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Call the tool in this process, as its last line does; return exit code, standard output and standard error."""
    spec = importlib.util.spec_from_file_location("prepare_dataset_tool", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)

    def call(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            cli_main(lambda: tool.main([str(w) for w in words]))
        return (left.value.code, *capsys.readouterr())

    return call


def test_tool_from_yolo_to_a_registered_set(tmp_path: Path, pictures: Path, run: Callable) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text("1 0.5 0.5 0.25 0.5\n")
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    out, sets = tmp_path / "out/train.json", tmp_path / "sets.yaml"
    names = ("--names", tmp_path / "names.txt")
    code, said, _ = run("from-yolo", tmp_path / "labels", "--images", pictures, *names, "--output", out)
    assert code == 0 and "2 images, 1 annotations, 2 classes" in said
    register = ("verify", out, "--images", pictures, "--write-yaml", sets, "--name", "t_yolo")
    assert run(*register)[0] == 0
    assert len(sets.read_text().splitlines()) == 1, "one line a set"
    assert register_from_yaml(sets) == ["t_yolo"] and get_vocabulary("t_yolo").names == ("cat", "dog")
    assert Path(get_records("t_yolo")[0]["file_name"]).is_file()
    code, _, error = run(*register)
    assert code == 2 and "already has a set 't_yolo'" in error


def test_tool_from_voc(tmp_path: Path, pictures: Path, run: Callable) -> None:
    out = tmp_path / "train.json"
    folder = voc(tmp_path, ("dog", 0, 1, 1, 80, 40))
    assert run("from-voc", folder, "--images", pictures, "--output", out, "--zero-based")[0] == 0
    assert json.loads(out.read_text())["annotations"][0]["bbox"] == [1, 1, 79, 39]
    (folder / "a.xml").write_text(LAUGHS)
    code, _, error = run("from-voc", folder, "--images", pictures, "--output", tmp_path / "no.json")
    assert code == 2 and "declares a document type" in error and not (tmp_path / "no.json").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["verify", "{coco}/none.json", "--images", "{coco}"], "no annotation file"),
        (["from-voc", "{coco}/none", "--images", "{coco}/images", "--output", "{coco}/o.json"], "no folder"),
        (["verify", "{coco}/train.json", "--images", "{coco}/images", "--write-yaml", "{coco}/s.yaml"], "needs --name"),
    ],
)
def test_tool_says_a_sentence(coco: Path, run: Callable, words: list[str], message: str) -> None:
    code, _, error = run(*(w.format(coco=coco) for w in words))
    assert code == 2 and error.startswith("error: ") and len(error.splitlines()) == 1 and message in error


def test_tool_leaves_with_1_on_problems(coco: Path, editor: Callable, run: Callable) -> None:
    editor(coco, lambda c: c["images"][0].update(file_name="gone.png"))
    words = ("--write-yaml", coco / "sets.yaml", "--name", "t")
    code, said, _ = run("verify", coco / "train.json", "--images", coco / "images", *words)
    assert code == 1 and "PROBLEM: missing files: 1" in said and not (coco / "sets.yaml").exists()
