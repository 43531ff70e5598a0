"""RegionCLIP's claims: the parts around the plugin do what they say, and a quick run writes all arms of the table."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch

from openvocab.data import get_records
from openvocab.data.catalog import unregister
from openvocab.errors import DataError
from openvocab.text import HashedTextEncoder
from regionclip.pretraining import LiteRegionFeatures


def test_kept_maps_give_what_the_regions_give(claims: ModuleType) -> None:
    photos = import_module("regionclip_photos")
    torch.manual_seed(0)
    lite = LiteRegionFeatures(text_encoder=HashedTextEncoder(dim=16), weights=None, names=["cat", "dog", "red bus"], topk=2).eval()
    torch.nn.init.normal_(lite.projection.weight)
    features = {"stage3": torch.randn(1, 112, 20, 30)}
    boxes = torch.tensor([[0.0, 0.0, 100.0, 90.0], [200.0, 40.0, 330.0, 300.0], [0.0, 0.0, 480.0, 320.0]])
    with torch.no_grad():
        expected = lite(features, [boxes])
        stacked = photos.stack(lite.maps(features, [boxes]))
        assert stacked.shape == (320, 21, 7)
        kept = torch.cat([photos.boxes_of_maps(2).flip(0), torch.tensor([[0.0, 0.0, 7.0, 21.0]])])
        padded = torch.nn.functional.pad(stacked, (0, 0, 0, 14))  # as a batch with a larger picture
        found = photos.KeptRegions(lite)({"kept": torch.stack([padded, padded])}, [kept, kept[:1]])
    torch.testing.assert_close(found, expected[[1, 0, 2, 1]], atol=1e-4, rtol=1e-5)  # cosines times 100


def test_surroundings_and_counting(claims: ModuleType) -> None:
    towers, fitting = import_module("regionclip_towers"), import_module("regionclip_fitting")
    wider = towers.Surroundings(torch.nn.Identity(), 2.0).widened(torch.tensor([[20.0, 20.0, 30.0, 40.0], [0.0, 50.0, 10.0, 64.0]]))
    assert wider.tolist() == [[15.0, 10.0, 35.0, 50.0], [0.0, 43.0, 15.0, 64.0]]
    pairs = [(0, 0), (1, 0), (2, 0), (3, 0), (1, 1), (5, 2)]
    assert fitting.share_right(pairs) == pytest.approx(100 * 2 / 6)
    assert fitting.mean_right(pairs) == pytest.approx((25 + 100 + 0) / 3)
    assert fitting.mean_right(pairs, [1, 0, 7]) == pytest.approx((25 + 100) / 2), "class 7 does not occur"


@pytest.mark.slow
def test_a_quick_run_measures_every_arm(claims: ModuleType, tmp_path: Path) -> None:
    options = ["--quick", "--seeds", "1", "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]
    assert claims.main(["regionclip", *options]) == 0
    result = json.loads((tmp_path / "out" / "regionclip.json").read_text())
    paper = claims.load_paper("regionclip")
    assert result["quick"] and result["seeds"] == [0] and list(result["arms"]) == list(paper.ARMS)
    every = [v for row in result["arms"].values() for m in row.values() for v in m["values"]]
    assert all(0 <= v <= 100 for v in every)
    photos = has_photos()
    for arm, row in result["arms"].items():
        assert {"shapes: picture", "shapes: region", "shapes: AP50 novel"} <= set(row)
        assert ("photos: macro" in row) == (photos and arm != "plain teacher")
        assert ("shapes: crop" in row) == (arm == paper.START)
    held = {c["text"]: c["held"] for c in result["claims"]}
    assert all((h is None) == ("photos" in text and not photos) for text, h in held.items())
    assert "A quick run" in (tmp_path / "out" / "regionclip.md").read_text()


def has_photos() -> bool:
    try:
        return bool(get_records("coco_mini_val"))
    except DataError:
        return False


def test_without_photos_their_part_is_left_out(claims: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    for variable in ("OPENVOCAB_SHARED_DATA", "DETECTRON2_DATASETS"):
        monkeypatch.setenv(variable, str(tmp_path))
    for name in ("coco_mini_train", "coco_mini_val"):
        unregister(name)  # an earlier test may have found it
    assert import_module("regionclip_photos").load_photos(True) is None
    assert "the part on photos is left out" in caplog.text and "OPENVOCAB_SHARED_DATA" in caplog.text
