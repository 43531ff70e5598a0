"""Recorded tensors: where they lie, and a comparison that says where two arrays part."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from openvocab.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

GOLDEN_ENV = "OPENVOCAB_GOLDEN"


def golden_folders() -> list[Path]:
    """Return the folders to look in: the one $OPENVOCAB_GOLDEN names; else tests/golden/data and ../shared/golden.

    Without the variable only folders that exist are returned.

    Raises:
        DataError: if the variable names a folder that is not there.
    """
    named = os.environ.get(GOLDEN_ENV, "").strip()
    if named:
        folder = Path(named).expanduser()
        if not folder.is_dir():
            raise DataError(f"{GOLDEN_ENV}='{named}' is no folder; correct it, or unset it to use the default places")
        return [folder]
    repo = Path(__file__).resolve().parents[2]
    return [f for f in (repo / "tests" / "golden" / "data", repo.parent / "shared" / "golden") if f.is_dir()]


def golden_path(name: str) -> Path:
    """Return the path of a recorded file, `name` relative to the golden folder ("glip/golden_tiny.pt").

    Where $OPENVOCAB_GOLDEN is not set and there is no golden folder at all, the running test is skipped.

    Raises:
        DataError: if there is a golden folder but not this file in it.
    """
    folders = golden_folders()
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    if not folders:
        import pytest

        pytest.skip(f"no golden folder: set {GOLDEN_ENV}, or put the files into tests/golden/data")
    raise DataError(
        f"the recorded file '{name}' is not in {' or '.join(str(f) for f in folders)};"
        f" set {GOLDEN_ENV} to the folder that has it"
    )


def _array(value: Tensor | np.ndarray | float | Any) -> np.ndarray:
    """As a numpy array of float64 (complex128 for complex values)."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().resolve_conj().resolve_neg()
        value = (value if value.is_complex() else value.double()).numpy()
    array = np.asarray(value)
    return array.astype(np.complex128 if np.iscomplexobj(array) else np.float64)


def _different(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """|ours - theirs|; 0 where both are the same infinity or both NaN, infinite where only one is not finite."""
    with np.errstate(invalid="ignore"):
        difference = np.abs(ours - theirs)
    same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
    difference = np.where(same, 0.0, difference)
    return np.where(np.isnan(difference), math.inf, difference)


def assert_close(
    name: str,
    ours: Tensor | np.ndarray | float,
    theirs: Tensor | np.ndarray | float,
    atol: float,
    rtol: float = 0.0,
    by_scale: bool = False,
) -> None:
    """Check that two arrays have one shape and |ours - theirs| <= atol + rtol * |theirs| everywhere.

    NaN equals NaN, and an infinity equals itself. Compared in float64.

    Args:
        by_scale: atol is a share of the largest finite entry of `theirs` where that is above 1. For what has gone through many
            float32 layers: there the recorded values themselves are that far from a float64 run, and another processor rounds
            otherwise.

    Raises:
        AssertionError: with the largest absolute and relative difference, their places, both values there, and how
            many entries are out of bounds.
    """
    mine, other = _array(ours), _array(theirs)
    if mine.shape != other.shape:
        raise AssertionError(f"{name}: shape {mine.shape} (ours) is not {other.shape} (theirs)")
    if mine.size == 0:
        return
    difference = _different(mine, other)
    finite = np.where(np.isfinite(other), np.abs(other), 0.0)
    if by_scale:
        atol *= max(1.0, float(finite.max()))
    wrong = difference > atol + rtol * finite
    if not wrong.any():
        return
    relative = np.divide(difference, finite, out=np.full(finite.shape, math.inf), where=finite > 0)
    relative = np.where(difference == 0, 0.0, relative)
    worst = np.unravel_index(int(difference.argmax()), difference.shape)
    steepest = np.unravel_index(int(relative.argmax()), relative.shape)
    raise AssertionError(
        f"{name}: {int(wrong.sum())} of {wrong.size} entries differ by more than atol={atol:g}, rtol={rtol:g};"
        f" largest absolute difference {difference[worst]:.3e} at {_place(worst)}"
        f" (ours {mine[worst]:.8g}, theirs {other[worst]:.8g});"
        f" largest relative difference {relative[steepest]:.3e} at {_place(steepest)}"
        f" (ours {mine[steepest]:.8g}, theirs {other[steepest]:.8g})"
    )


def assert_near(name: str, ours: Tensor, theirs: Tensor, share: float) -> None:
    """Check that two arrays have one shape and |ours - theirs| <= share * |theirs|, of whole arrays (Frobenius).

    For gradients. A ReLU at zero and a sampling point on a cell's border have two one-sided derivatives, and the last bit of the
    forward pass, which differs between processors, chooses one: single entries then part, their norm hardly.

    Raises:
        AssertionError: with both norms.
    """
    mine, other = _array(ours), _array(theirs)
    if mine.shape != other.shape:
        raise AssertionError(f"{name}: shape {mine.shape} (ours) is not {other.shape} (theirs)")
    apart, size = float(np.linalg.norm(mine - other)), float(np.linalg.norm(other))
    if not apart <= share * size:
        raise AssertionError(f"{name}: the difference has a norm of {apart:.3e}, theirs {size:.3e}; allowed are {share:g} of that")


def _place(index: tuple[Any, ...]) -> str:
    return "[" + ", ".join(str(int(i)) for i in index) + "]"
