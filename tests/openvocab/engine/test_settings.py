from __future__ import annotations

import dataclasses

import pytest

from openvocab.config import load_config
from openvocab.config.load import config_roots
from openvocab.engine import TrainSettings, read_settings
from openvocab.errors import ConfigError


def test_defaults_hold_for_what_is_left_out():
    settings = read_settings({"max_iter": 7, "ema": {"enabled": True}})
    assert (settings.max_iter, settings.ema.enabled, settings.ema.decay) == (7, True, 0.999)
    assert settings.checkpointer.period == TrainSettings().checkpointer.period


def test_the_common_config_lists_every_key_with_its_default():
    path = next(p for r in config_roots() if (p := r / "common" / "train.py").is_file())
    written = load_config(path).train
    expected = dataclasses.asdict(TrainSettings())
    assert set(written) == set(expected)
    assert read_settings(written) == read_settings(expected)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"max_itr": 3}, ["train.max_itr", "max_iter"]),
        ({"amp": {"enable": True}}, ["train.amp.enable", "enabled"]),
        ({"amp": {"dtype": "float8"}}, ["float8", "bfloat16"]),
        ({"amp": True}, ["train.amp", "group"]),
        ({"max_iter": 0}, ["max_iter", "at least 1"]),
        ({"max_iter": "many"}, ["max_iter='many'", "whole number"]),
        ({"max_iter": 2.5}, ["max_iter=2.5"]),
        ({"clip_grad": {"max_norm": "much"}}, ["wrong type"]),
        ({"seed": -1}, ["seed", "-1"]),
        ({"ema": {"decay": 1.0}}, ["ema.decay", "below 1"]),
        ({"clip_grad": {"max_norm": -2}}, ["clip_grad.max_norm", "-2"]),
        ({"checkpointer": {"max_to_keep": -1}}, ["max_to_keep"]),
        ({"accumulate": 0}, ["accumulate"]),
        ({"output_dir": ""}, ["output_dir"]),
        ({"expected_results": [["toy", "bbox", "AP50", 3]]}, ["expected_results", "tolerance"]),
    ],
)
def test_what_cannot_be_used_is_named(values, words):
    with pytest.raises(ConfigError) as error:
        read_settings(values)
    assert all(w in str(error.value) for w in words), str(error.value)
