"""The small world of a user, written once a run."""

from __future__ import annotations

import pytest

from .user_files import make_world
from .user_world import UserWorld


@pytest.fixture(scope="session")
def user_world(tmp_path_factory: pytest.TempPathFactory) -> UserWorld:
    return make_world(tmp_path_factory.mktemp("user_world"))


@pytest.fixture
def user(user_world: UserWorld, monkeypatch: pytest.MonkeyPatch) -> UserWorld:
    """The world, with $DETECTRON2_DATASETS pointing there."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(user_world.root))
    return user_world
