"""Promise 3: unknown override keys are errors with suggestions; adding needs `+`."""

from __future__ import annotations

import pytest

from openvocab.config import load_config
from openvocab.errors import ConfigError
from tests.faults.traps import run_tool

TYPOS = [
    ("train.max_itr=5", "max_iter"),
    ("trian.max_iter=5", "train"),
    ("max_iter=5", "train.max_iter"),
    ("optimizer.learning_rate=1", None),
    ("optimizer.Lr=1", "lr"),
    ("model.head.num_level=5", "num_levels"),
    ("dataloader.train.total_batchsize=5", "total_batch_size"),
    ("train.amp={enable: true}", "enabled"),
]


@pytest.mark.parametrize(("override", "suggestion"), TYPOS)
def test_typos_are_errors_that_name_the_nearest_key(override: str, suggestion: str | None) -> None:
    with pytest.raises(ConfigError, match="is unknown") as caught:
        load_config("glipv2/default", [override])
    assert (f"Did you mean '{suggestion}'" in str(caught.value)) == (suggestion is not None)
    assert f"+{override.split('=')[0]}" in str(caught.value)  # how to add it, if it is meant


def test_a_typo_does_not_pass_because_another_override_is_right() -> None:
    with pytest.raises(ConfigError):
        load_config("glipv2/default", ["train.max_iter=5", "train.sed=1"])


def test_adding_needs_a_plus_and_only_adds() -> None:
    cfg = load_config("glipv2/default", ["+train.my_own.key=5"])
    assert cfg.train.my_own.key == 5
    with pytest.raises(ConfigError, match="add a key that exists"):
        load_config("glipv2/default", ["+train.max_iter=5"])


def test_values_of_another_kind() -> None:
    for override in ("train.max_iter=many", "train.seed=[1]", "train.amp.enabled=maybe", "train.amp=1"):
        with pytest.raises(ConfigError, match="is expected"):
            load_config("glipv2/default", [override])


def test_the_command_line_says_it_in_one_sentence(capsys: pytest.CaptureFixture) -> None:
    assert run_tool("train_net", "--config-file", "glipv2/default", "train.max_itr=5") == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and "Did you mean 'max_iter'" in error and "Traceback" not in error
    assert run_tool("train_net", "--config-file", "glipv2/defualt") == 2
    assert "Did you mean 'glipv2/default'" in capsys.readouterr().err
