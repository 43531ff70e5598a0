"""Registration by call, by yaml line and by name; names and records."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from openvocab.data import (
    ensure_registered,
    get_records,
    get_vocabulary,
    register_coco_folder,
    register_from_yaml,
    register_odinw,
    register_shared,
)
from openvocab.errors import DataError
from openvocab.vocabulary import Vocabulary


def test_folder_registers_into_detectron2(coco: Path) -> None:
    register_coco_folder("t_set", root=coco, annotations="train.json")
    meta = MetadataCatalog.get("t_set")
    assert meta.json_file == str(coco / "train.json") and meta.image_root == str(coco / "images")
    assert meta.evaluator_type == "coco" and meta.thing_dataset_id_to_contiguous_id == {3: 0, 7: 1, 11: 2}
    assert meta.get("thing_classes") is None
    assert get_vocabulary("t_set").names == ("cat", "dog", "red_car")
    records = DatasetCatalog.get("t_set")
    assert records == get_records("t_set") and len(records) == 6
    assert [a["category_id"] for a in records[1]["annotations"]] == [1, 2]
    assert records[0]["dataset_source"] == "t_set" and records[0]["height"] == 48 and records[0]["width"] == 64


def test_same_call_again_is_nothing_and_another_is_refused(coco: Path, writer: Callable[..., Path]) -> None:
    register_coco_folder("t_set", root=coco, annotations="train.json")
    register_coco_folder("t_set", root=coco, annotations="train.json")
    other = writer(coco.parent / "other")
    with pytest.raises(DataError, match="'t_set' is taken by .*train.json"):
        register_coco_folder("t_set", root=other, annotations="train.json")


@pytest.mark.parametrize("found", [False, True], ids=["never_asked_for", "asked_for_before"])
def test_a_name_of_detectron2_is_refused_whatever_was_asked_before(coco: Path, found: bool) -> None:
    if found:
        get_vocabulary("coco_2017_val")
    with pytest.raises(DataError, match="'coco_2017_val' is taken"):
        register_coco_folder("coco_2017_val", root=coco, annotations="train.json")


def test_relative_root_follows_the_variable_at_call_time(
    tmp_path: Path, writer: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("a", "b"):
        writer(tmp_path / place / "pets", names=("cat", place))
        monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / place))
        register_coco_folder(f"t_{place}", root="pets", annotations="train.json")
        assert get_vocabulary(f"t_{place}").names == ("cat", place)


def test_missing_files_are_named_with_the_variable(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no .*nowhere/train.json.*DETECTRON2_DATASETS"):
        register_coco_folder("t_set", root=tmp_path / "nowhere", annotations="train.json")
    with pytest.raises(DataError, match="no data set 't_set'"):
        ensure_registered("t_set")


def test_vocabulary_of_ones_own(coco: Path) -> None:
    register_coco_folder("t_set", root=coco, annotations="train.json", vocabulary=["kitten", "puppy", "car"])
    assert get_vocabulary("t_set").names == ("kitten", "puppy", "car")
    words = Vocabulary.from_names(["a", "b"])
    with pytest.raises(DataError, match="2 names, the json 3 categories"):
        register_coco_folder("t_two", root=coco, annotations="train.json", vocabulary=words)
    with pytest.raises(DataError, match="'dog' is name 0 of the vocabulary, but 1 of the json"):
        register_coco_folder("t_two", root=coco, annotations="train.json", vocabulary=["dog", "kitten", "car"])
    assert "t_two" not in DatasetCatalog.list()


def test_names_that_form_no_vocabulary_say_what_to_do(coco: Path, editor: Callable) -> None:
    editor(coco, lambda c: c["categories"][0].update(name="cat"))
    with pytest.raises(DataError, match="cat.*give vocabulary="):
        register_coco_folder("t_set", root=coco, annotations="train.json")
    register_coco_folder("t_set", root=coco, annotations="train.json", vocabulary=["cat", "dog", "car"])


def test_captions_come_along(coco: Path) -> None:
    texts = [{"id": i, "image_id": 100, "caption": t} for i, t in enumerate(["A cat  sits.\n", "Two pets"])]
    (coco / "captions.json").write_text(json.dumps({"images": [], "annotations": texts}))
    register_coco_folder("t_set", root=coco, annotations="train.json", captions="captions.json")
    records = get_records("t_set")
    assert records[0]["captions"] == ["A cat sits.", "Two pets"] and records[0]["caption"] == "A cat sits."
    assert "captions" not in records[1]


def test_yaml_lines(coco: Path, tmp_path: Path) -> None:
    line = f"t_set: {{root: {coco}, annotations: train.json, vocabulary: [a, b, c]}}\n"
    (tmp_path / "sets.yaml").write_text(line)
    assert register_from_yaml(tmp_path / "sets.yaml") == ["t_set"]
    assert register_from_yaml(tmp_path / "sets.yaml") == ["t_set"]
    assert get_vocabulary("t_set").names == ("a", "b", "c")
    (coco / "names.txt").write_text("x\ny: why\nz\n")
    for name, words in (("t_file", "names.txt"), ("t_built_in", "coco_ovd_17")):
        (tmp_path / "more.yaml").write_text(f"{name}: {{root: {coco}, annotations: train.json, vocabulary: {words}}}")
        if name == "t_file":
            assert register_from_yaml(tmp_path / "more.yaml") and get_vocabulary(name).prompts == ("x", "why", "z")
        else:
            with pytest.raises(DataError, match="has 17 names, the json 3"):
                register_from_yaml(tmp_path / "more.yaml")
    (tmp_path / "sets.yaml").write_text(line.replace("annotations", "anotations"))
    with pytest.raises(DataError, match="unknown field 'anotations'.* Did you mean 'annotations'"):
        register_from_yaml(tmp_path / "sets.yaml")


def test_yaml_runs_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    (tmp_path / "sets.yaml").write_text(f'a: !!python/object/apply:os.system ["touch {mark}"]\n')
    with pytest.raises(DataError, match="cannot be read"):
        register_from_yaml(tmp_path / "sets.yaml")
    assert not mark.exists()


def test_shared_sets_by_name(tmp_path: Path, writer: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("one", "two"):
        folder = writer(tmp_path / place / "bccd", names=("RBC", "WBC", "Platelets"))
        (folder / "annotations").mkdir()
        (folder / "train.json").rename(folder / "annotations/instances_train.json")
    monkeypatch.setenv("OPENVOCAB_SHARED_DATA", str(tmp_path / "one"))
    assert get_vocabulary("bccd_train").names == ("RBC", "WBC", "Platelets")
    assert get_vocabulary("bccd_train").prompts == ("red blood cell", "white blood cell", "platelet")
    assert "/one/bccd/images/" in get_records("bccd_train")[0]["file_name"]
    monkeypatch.setenv("OPENVOCAB_SHARED_DATA", str(tmp_path / "two"))
    assert "/two/bccd/images/" in get_records("bccd_train")[0]["file_name"]
    assert "bccd_train" in register_shared(tmp_path / "one")
    assert "/one/bccd/images/" in get_records("bccd_train")[0]["file_name"]
    with pytest.raises(DataError, match=r"no data set 'bccd_tran'.*Did you mean 'bccd_train'.*OPENVOCAB_SHARED_DATA"):
        get_records("bccd_tran")


def test_benchmarks_have_names_without_files() -> None:
    assert (
        get_vocabulary("coco_2017_val").names[:2] == ("person", "bicycle")
        and len(get_vocabulary("coco_2017_val")) == 80
    )
    assert len(get_vocabulary("lvis_v1_val")) == 1203
    with pytest.raises(DataError, match=r"instances_val2017.json; set DETECTRON2_DATASETS"):
        get_records("coco_2017_val")
    with pytest.raises(DataError, match="grounding set"):
        get_vocabulary("refcoco_val")


def test_benchmark_is_read_where_the_variable_points(
    tmp_path: Path, writer: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "moved"
    folder = writer(root / "coco", names=("person", "bicycle", "car"), first_id=1, step=1)
    (folder / "annotations").mkdir()
    (folder / "train.json").rename(folder / "annotations/instances_val2017.json")
    (folder / "images").rename(folder / "val2017")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    records = get_records("coco_2017_val")
    assert len(records) == 6 and Path(records[0]["file_name"]).is_file()
    assert MetadataCatalog.get("coco_2017_val").json_file == str(folder / "annotations/instances_val2017.json")
    assert len(MetadataCatalog.get("coco_2017_val").thing_classes) == 80, "detectron2's own metadata is kept"
    assert get_vocabulary("coco_2017_val").names == ("person", "bicycle", "car")


def test_odinw_folders(tmp_path: Path, writer: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "datasets/odinw"
    for place, file in (
        ("pets/valid", "annotations_without_background.json"),
        ("boats/small-ones/test", "_annotations.coco.json"),
    ):
        folder = writer(root / place)
        (folder / "train.json").rename(folder / file)
        for picture in (folder / "images").iterdir():
            picture.rename(folder / picture.name)
    assert sorted(register_odinw(root)) == ["odinw_boats_small_ones_test", "odinw_pets_val"]
    assert Path(get_records("odinw_pets_val")[0]["file_name"]).is_file()
    from openvocab.data import catalog

    catalog.unregister("odinw_pets_val")
    assert len(get_vocabulary("odinw_pets_val")) == 3, "below $DETECTRON2_DATASETS/odinw the name alone is enough"


def test_the_real_shared_sets_when_they_are_there() -> None:
    root = Path(__file__).resolve().parents[4] / "shared/data"
    if not root.is_dir():
        pytest.skip("no ../shared/data")
    sizes = {n: len(get_records(n)) for n in register_shared(root)}
    assert sizes["bccd_train"] == 205 and sizes["coco_mini_val"] == 328 and len(sizes) == 14
    assert len(get_vocabulary("coco_mini_val")) == 80
