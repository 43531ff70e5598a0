"""Where recorded files are looked for, and what a comparison reports."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from openvocab.errors import DataError
from openvocab.testing import golden
from openvocab.testing.golden import GOLDEN_ENV, assert_close, assert_near, golden_path


@pytest.fixture()
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository somewhere else: its module file, and no golden folder yet."""
    monkeypatch.delenv(GOLDEN_ENV, raising=False)
    monkeypatch.setattr(golden, "__file__", str(tmp_path / "repo" / "openvocab" / "testing" / "golden.py"))
    return tmp_path


def _put(folder: Path) -> Path:
    (folder / "glip").mkdir(parents=True)
    (folder / "glip" / "x.pt").write_bytes(b"x")
    return folder / "glip" / "x.pt"


def test_nothing_there_is_a_skip(places: Path) -> None:
    with pytest.raises(pytest.skip.Exception, match=GOLDEN_ENV):
        golden_path("glip/x.pt")


def test_the_own_folder_comes_before_the_shared_one(places: Path) -> None:
    shared = _put(places / "shared" / "golden")
    assert golden_path("glip/x.pt") == shared
    own = _put(places / "repo" / "tests" / "golden" / "data")
    assert golden_path("glip/x.pt") == own
    own.unlink()
    assert golden_path("glip/x.pt") == shared


def test_a_missing_file_fails_where_there_is_a_folder(places: Path) -> None:
    _put(places / "shared" / "golden")
    with pytest.raises(DataError, match="'glip/y.pt' is not in"):
        golden_path("glip/y.pt")


def test_the_variable_is_the_only_place(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _put(places / "shared" / "golden")
    mine = _put(places / "mine")
    monkeypatch.setenv(GOLDEN_ENV, str(places / "mine"))
    assert golden_path("glip/x.pt") == mine
    mine.unlink()
    with pytest.raises(DataError, match="glip/x.pt"):
        golden_path("glip/x.pt")
    monkeypatch.setenv(GOLDEN_ENV, str(places / "nowhere"))
    with pytest.raises(DataError, match="no folder"):
        golden_path("glip/x.pt")


def test_close_arrays_pass_whatever_they_are_made_of() -> None:
    a = torch.arange(6.0, requires_grad=True).reshape(2, 3)
    assert_close("tensor and array", a, np.arange(6).reshape(2, 3) + 5e-5, 1e-4)
    assert_close("numbers", 1, 1.00005, 1e-4)
    assert_close("bool", torch.tensor([True]), np.array([True]), 0.0)
    assert_close("bfloat16", torch.ones(3, dtype=torch.bfloat16), torch.ones(3), 0.0)
    assert_close("nothing", torch.zeros(0, 4), np.zeros((0, 4)), 0.0)
    assert_close("not finite", [math.inf, -math.inf, math.nan], [math.inf, -math.inf, math.nan], 0.0)
    assert_close("complex", torch.tensor([1 + 1j]), np.array([1 + 1.00001j]), 1e-4)
    assert_close("relative", [1000.0], [1000.5], 0.0, rtol=1e-3)


def test_the_report_names_sizes_and_places() -> None:
    theirs = np.full((2, 3), 10.0)
    theirs[0, 1] = 0.01
    ours = theirs.copy()
    ours[1, 2] += 0.5
    ours[0, 1] += 0.02
    with pytest.raises(AssertionError) as caught:
        assert_close("logits", ours, theirs, 1e-3)
    text = str(caught.value)
    assert text.startswith("logits: 2 of 6 entries")
    assert "absolute difference 5.000e-01 at [1, 2] (ours 10.5, theirs 10)" in text
    assert "relative difference 2.000e+00 at [0, 1] (ours 0.03, theirs 0.01)" in text


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ([1.0, math.nan], [1.0, 1.0]),
        ([1.0, 1.0], [1.0, math.nan]),
        ([math.inf], [-math.inf]),
        ([math.inf], [3.0]),
        ([3.0], [math.inf]),
        ([1.0], [1.0 + 1e-6]),
        ([True], [False]),
    ],
)
def test_what_differs_is_found(ours: list, theirs: list) -> None:
    with pytest.raises(AssertionError, match="x: 1 of"):
        assert_close("x", np.array(ours), np.array(theirs), 1e-9, rtol=1e-9)


def test_shapes_are_not_broadcast() -> None:
    with pytest.raises(AssertionError, match=r"shape \(1, 3\) .ours. is not \(3,\)"):
        assert_close("x", np.ones((1, 3)), np.ones(3), 1.0)


def test_a_tolerance_can_grow_with_the_array() -> None:
    """It is the largest entry that counts, and only above 1."""
    assert_close("large", [200.0, 0.01], [200.0, 0.0], 1e-4, by_scale=True)
    for ours, theirs in (([200.0, 0.03], [200.0, 0.0]), ([0.5, 0.001], [0.5, 0.0])):
        with pytest.raises(AssertionError):
            assert_close("x", ours, theirs, 1e-4, by_scale=True)


def test_gradients_are_compared_by_their_norm() -> None:
    theirs = np.ones(100)
    ours = theirs.copy()
    ours[7] += 0.009
    assert_near("gradient", ours, theirs, 1e-3)
    for wrong in (theirs * 1.002, -theirs, np.full(100, math.nan)):
        with pytest.raises(AssertionError, match="gradient: the difference"):
            assert_near("gradient", wrong, theirs, 1e-3)
    with pytest.raises(AssertionError, match="shape"):
        assert_near("gradient", theirs[None], theirs, 1e-3)
