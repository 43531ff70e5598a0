"""The lists that ship with the package."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from openvocab.errors import VocabularyError
from openvocab.prompting import build_caption
from openvocab.vocabulary import Vocabulary

SHARED = Path(os.environ.get("OPENVOCAB_SHARED_DATA", Path(__file__).parents[4] / "shared/data"))
SIZES = {
    "coco": 80,
    "coco_mini": 80,
    "coco_ovd_48": 48,
    "coco_ovd_17": 17,
    "coco_ovd_65": 65,
    "lvis": 1203,
    "objects365": 365,
    "openimages": 500,
    "voc": 20,
    "bccd": 3,
    "aquarium": 7,
    "raccoon": 1,
    "pothole": 1,
    "deeppcb": 6,
}
# number of classes of each set (ODinW, arXiv 2204.08790)
ODINW13 = {
    "AerialMaritimeDrone_large": 5, "Aquarium": 7, "CottontailRabbits": 1, "EgoHands_generic": 1, "NorthAmericaMushrooms": 2,
    "Packages": 1, "PascalVOC": 20, "pistols": 1, "pothole": 1, "Raccoon": 1, "ShellfishOpenImages": 3, "thermalDogsAndPeople": 2,
    "VehiclesOpenImages": 5,
}  # fmt: skip
ODINW35 = {
    **ODINW13, "AerialMaritimeDrone_tiled": 5, "AmericanSignLanguageLetters": 26, "BCCD": 3, "ChessPieces": 13, "DroneControl": 8,
    "EgoHands_specific": 4, "HardHatWorkers": 3, "MaskWearing": 2, "MountainDewCommercial": 1, "OxfordPets_by-breed": 37,
    "OxfordPets_by-species": 2, "PKLot": 2, "ThermalCheetah": 2, "UnoCards": 15, "WildfireSmoke": 1, "boggleBoards": 36,
    "brackishUnderwater": 6, "dice": 6, "openPoetryVision": 43, "plantdoc": 30, "selfdrivingCar": 11, "websiteScreenshots": 8,
}  # fmt: skip


@pytest.mark.parametrize("name", Vocabulary.builtin_names())
def test_every_list_is_well_formed(name: str) -> None:
    v = Vocabulary.builtin(name)
    assert Vocabulary.from_dict(v.to_dict()) == v
    caption = build_caption(v)
    assert caption.names == v.prompts
    assert Vocabulary.builtin(name) is v, "read once"


def test_sizes() -> None:
    sizes = {**SIZES, **{f"odinw13/{k}": n for k, n in ODINW13.items()}, **{f"odinw35/{k}": n for k, n in ODINW35.items()}}
    assert {name: len(Vocabulary.builtin(name)) for name in Vocabulary.builtin_names()} == sizes
    assert len(ODINW13) == 13 and len(ODINW35) == 35


def test_coco_ovd() -> None:
    coco, base, novel, both = (Vocabulary.builtin(n) for n in ("coco", "coco_ovd_48", "coco_ovd_17", "coco_ovd_65"))
    assert Counter(coco.splits) == {"base": 48, "novel": 17, None: 15}
    assert set(base.splits) == {"base"} and set(novel.splits) == {"novel"}
    assert set(base) | set(novel) == set(both) and not set(base) & set(novel)
    assert novel.names == (
        "airplane", "bus", "cat", "dog", "cow", "elephant", "umbrella", "tie", "snowboard", "skateboard", "cup", "knife", "cake",
        "couch", "keyboard", "sink", "scissors",
    )  # fmt: skip
    assert [coco.index(n) for n in both] == sorted(coco.index(n) for n in both), "in category-id order"


def test_lvis() -> None:
    lvis = Vocabulary.builtin("lvis")
    assert Counter(lvis.frequencies) == {"f": 405, "c": 461, "r": 337}
    assert Counter(lvis.splits) == {"base": 866, "novel": 337}
    assert lvis.names[0] == "aerosol_can" and lvis.names[-1] == "zucchini", "ids 1 and 1203"
    assert lvis.prompts[lvis.index("bow_(weapon)")] == "bow"
    assert lvis.index("spray_can") == 0, "a synonym"


def test_objects365() -> None:
    v = Vocabulary.builtin("objects365")
    assert (v.names[0], v.names[9], v.names[-1]) == ("Person", "Desk", "Table Tennis")
    assert v.index("Hamimelon") == v.index("Hami melon"), "the original spelling is an alias"
    assert v.prompts[v.index("Cabinet/shelf")] == "cabinet or shelf"


def test_openimages() -> None:
    v = Vocabulary.builtin("openimages")
    assert (v.names[0], v.names[6], v.names[-1]) == ("Infant bed", "Animal", "Toilet")
    assert v.prompts[v.index("Mouse (2)")] == "computer mouse", "the data set has two mice, and two benches"
    assert v.prompts[v.index("Kitchen & dining room table")] == "kitchen and dining room table"
    assert all(p == p.casefold() and "&" not in p for p in v.prompts)


def test_odinw_engineered_prompts() -> None:
    def text(name: str) -> str:
        return build_caption(Vocabulary.builtin(name)).text

    assert text("odinw35/Packages") == "there is a package on the porch"
    assert text("odinw35/pothole") == "there are some holes on the road"
    assert text("odinw35/EgoHands_generic") == "hand of a person"
    assert "penguin , which is black and white. puffin with orange beaks . shark" in text("odinw35/Aquarium")
    assert text("odinw35/NorthAmericaMushrooms") == "flat mushroom. yellow mushroom"
    assert text("odinw13/NorthAmericaMushrooms") == "CoW. chanterelle", "the 13 have raw names"
    assert build_caption(Vocabulary.builtin("odinw35/Packages")).names == ("package",), "the context is not looked for"


def test_odd_names_follow_the_rule() -> None:
    chess, boggle = Vocabulary.builtin("odinw35/ChessPieces"), Vocabulary.builtin("odinw35/boggleBoards")
    assert chess.names[0] == "(unnamed)" and chess.prompts[0] == "unnamed"
    assert [boggle.index(n) for n in ("Q", "q", "o", "o (2)", "t\\")] == [0, 22, 19, 20, 27]


def test_readable_prompts() -> None:
    assert Vocabulary.builtin("bccd").prompts == ("red blood cell", "white blood cell", "platelet")
    assert Vocabulary.builtin("deeppcb").prompts[:3] == ("open circuit", "short circuit", "mouse bite")
    assert Vocabulary.builtin("voc").prompts[10] == "dining table"


LOCAL = {
    "aquarium": "fish jellyfish penguin puffin shark starfish stingray".split(),
    "bccd": ["RBC", "WBC", "Platelets"],
    "raccoon": ["raccoon"],
    "pothole": ["pothole"],
    "deeppcb": ["open", "short", "mousebite", "spur", "spurious copper", "pin hole"],
}


@pytest.mark.parametrize("name", LOCAL)
def test_local_sets(name: str) -> None:
    assert list(Vocabulary.builtin(name)) == LOCAL[name]


@pytest.mark.skipif(not (SHARED / "bccd").is_dir(), reason="the pictures of the local sets are not here")
@pytest.mark.parametrize("name", [*LOCAL, "coco_mini"])
def test_names_are_those_of_the_annotations(name: str) -> None:
    categories = json.loads((SHARED / name / "annotations/instances_val.json").read_text())["categories"]
    assert list(Vocabulary.builtin(name)) == [c["name"] for c in sorted(categories, key=lambda c: c["id"])]


@pytest.mark.parametrize(
    ("name", "hint"),
    [("cocoo", "Did you mean 'coco'"), ("odinw35/Aquariums", "Did you mean 'odinw35/Aquarium'"), (3, "Known: coco")],
)
def test_unknown_name(name: object, hint: str) -> None:
    with pytest.raises(VocabularyError, match=hint):
        Vocabulary.builtin(name)
