"""Clips: the label is what the pixels do."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openvocab.errors import DataError
from openvocab.testing import ACTIONS, COLORS, Clip, ClipWorld


def action_of(masks: np.ndarray) -> str:
    """Tell from the masks (T, H, W) alone what happens."""
    on = masks.any(axis=(1, 2))
    if not on.all():
        return "blink"
    areas = masks.sum(axis=(1, 2)).astype(float)
    if areas[-1] > 2 * areas[0] or areas[0] > 2 * areas[-1]:
        return "grow" if areas[-1] > areas[0] else "shrink"
    centers = np.array([[np.nonzero(m)[1].mean(), np.nonzero(m)[0].mean()] for m in masks])
    dx, dy = centers[-1] - centers[0]
    if max(abs(dx), abs(dy)) > 0.25 * masks.shape[1]:
        if abs(dx) > abs(dy):
            return "move left" if dx < 0 else "move right"
        return "move up" if dy < 0 else "move down"
    steps = [(a & b).sum() / (a | b).sum() for a, b in zip(masks[:-1], masks[1:], strict=True)]
    return "rotate" if min(steps) < 0.97 else "nothing"


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    index=st.integers(0, 10**4),
    frames=st.integers(4, 24),
    side=st.integers(48, 112),
)
def test_labels_match_the_motion(seed: int, index: int, frames: int, side: int) -> None:
    clip = ClipWorld(seed=seed, frames=frames, image_size=side).clip(index)
    assert clip.frames.shape == (frames, side, side, 3) and clip.frames.dtype == np.uint8
    assert action_of(clip.masks) == clip.action == tuple(ACTIONS)[clip.label]
    assert clip.text.endswith(f" {clip.color} {clip.shape} {ACTIONS[clip.action]}")


def _check_pixels(clip: Clip) -> None:
    """Where the mask is, the actor's color is; where it never is, nothing changes but noise."""
    color = np.array(COLORS[clip.color])
    for frame, mask in zip(clip.frames.astype(int), clip.masks, strict=True):
        assert (np.abs(frame[mask] - color) <= 6).all()
    still = ~clip.masks.any(axis=0)
    change = clip.frames[:, still].astype(int)
    assert (np.ptp(change, axis=0) <= 12).all()


def test_pixels_masks_and_boxes_belong_together() -> None:
    for clip in ClipWorld(seed=2).clips(24):
        _check_pixels(clip)
        for box, mask in zip(clip.boxes, clip.masks, strict=True):
            rows, columns = np.nonzero(mask)
            if len(rows) == 0:
                assert (box == 0).all() and clip.action == "blink"
                continue
            assert tuple(box) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert box.min() >= 0 and box.max() <= 64


def test_the_actor_stays_whole() -> None:
    """While it moves or turns, its area stays the same: it is never cut off by the border."""
    for clip in ClipWorld(seed=3, actions=("move left", "move right", "move up", "move down", "rotate")).clips(60):
        areas = clip.masks.sum(axis=(1, 2))
        assert areas.min() > 0.85 * areas.max()


def test_a_resting_clip_would_not_pass_for_a_rotation() -> None:
    clip = next(c for c in ClipWorld(seed=1, actions=("rotate",)).clips(1))
    assert action_of(np.repeat(clip.masks[:1], 8, axis=0)) == "nothing"


def test_actions_are_balanced_and_their_order_is_not_fixed() -> None:
    clips = [c.action for c in ClipWorld(seed=4, frames=4, image_size=48).clips(32)]
    assert Counter(clips) == dict.fromkeys(ACTIONS, 4)
    assert clips[:8] != clips[8:16]
    assert {c.action for c in ClipWorld(actions=("grow", "blink"), frames=4).clips(4)} == {"grow", "blink"}


@pytest.mark.parametrize(
    "options",
    [{"frames": 3}, {"image_size": 8}, {"actions": ("x",)}, {"actions": "grow"}, {"distractors": (3, 1)}, {"seed": -1}],
)
def test_bad_settings_are_refused(options: dict) -> None:
    with pytest.raises(DataError):
        ClipWorld(**options)
