"""Streams and loaders of pairs: every sample once an epoch, one order whatever reads it, an exact resume."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest
import torch

from openvocab.errors import ConfigError, DataError
from openvocab.testing.gloo import run_gloo
from regionclip.pretraining import PairMapper
from regionclip.pretraining.loader import PairLoader, build_pair_loader
from regionclip.pretraining.shards import TarShards, TsvShards
from regionclip.pretraining.stream import PairStream

from .pairs import number_of, picture, tar_shards, tsv_shards, write_tar


def loader(shards, batch: int = 2, **options) -> PairLoader:
    return build_pair_loader(
        shards=shards, mapper=PairMapper(is_train=True), total_batch_size=batch, **{"buffer_size": 6, **options}
    )


def take(pairs: PairLoader, batches: int) -> list[list[int]]:
    return [[number_of(s) for s in batch] for batch in islice(iter(pairs), batches)]


def numbers(batches: list[list[int]]) -> list[int]:
    return [n for batch in batches for n in batch]


@pytest.mark.parametrize("lanes", [1, 2, 5])
def test_every_sample_comes_once_before_any_comes_a_third_time(tmp_path: Path, lanes: int) -> None:
    """With three shards five lanes take every fifth sample of each."""
    drawn = numbers(take(loader(TarShards(tar_shards(tmp_path, 3, 10)), lanes=lanes, buffer_size=lanes), 30))
    counts = [drawn.count(n) for n in range(30)]
    assert sum(counts) == 60 and min(counts) >= 1 and max(counts) <= 3


def test_the_buffer_shuffles_and_a_seed_repeats(tmp_path: Path) -> None:
    shards = TarShards(tar_shards(tmp_path, 2, 10))
    orders = [take(loader(shards, seed=s, buffer_size=8), 8) for s in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    files = numbers(take(loader(shards, buffer_size=1), 5))
    assert files == list(range(files[0], files[0] + 10))  # a buffer of one keeps the order of a file


@pytest.mark.parametrize("kind", ["tar", "tsv"])
@pytest.mark.parametrize("workers", [0, 2])
def test_resume_continues_exactly(tmp_path: Path, kind: str, workers: int) -> None:
    shards = TarShards(tar_shards(tmp_path, 3, 7)) if kind == "tar" else TsvShards(tsv_shards(tmp_path, 3, 7, index=True))
    whole = take(loader(shards, lanes=2), 24)
    first = loader(shards, lanes=2, num_workers=workers)
    assert take(first, 9) == whole[:9]
    state = json.loads(json.dumps(first.state_dict()))  # plain values
    second = loader(shards, lanes=2)
    second.load_state_dict(state)
    assert take(second, 15) == whole[9:]


def test_captions_are_drawn_by_the_sample_number_alone(tmp_path: Path) -> None:
    shards = TsvShards(tsv_shards(tmp_path, 2, 8, index=True))
    texts = []
    for workers in (0, 2):
        torch.manual_seed(workers)
        texts.append([s["text"] for batch in islice(iter(loader(shards, num_workers=workers)), 6) for s in batch])
    assert texts[0] == texts[1] and len(set(texts[0])) > 2


def rank_numbers(pattern: str, lanes: int | None) -> tuple[list[int], dict]:
    own = loader(TarShards(pattern), batch=4, lanes=lanes)
    drawn = numbers(take(own, 6))
    return drawn, own.state_dict()


@pytest.mark.slow
def test_processes_share_the_stream_and_their_number_may_change(tmp_path: Path) -> None:
    pattern = tar_shards(tmp_path, 4, 6)
    alone = take(loader(TarShards(pattern), batch=4, lanes=2), 12)
    results = run_gloo(rank_numbers, pattern, 2)
    together = [results[n % 2][0][(i * 4 + n) // 2] for i in range(6) for n in range(4)]
    assert together == numbers(alone[:6])
    assert results[0][1] == results[1][1]  # rank 0 saves the positions of all
    onwards = loader(TarShards(pattern), batch=4, lanes=2)
    onwards.load_state_dict(results[0][1])
    assert take(onwards, 6) == alone[6:]


def test_broken_samples_are_counted_and_replaced(tmp_path: Path, caplog) -> None:
    members = []
    for i in range(12):
        members += [(f"{i}.png", b"no picture" if i % 4 == 0 else picture(i)), (f"{i}.txt", b"a picture")]
    pairs = loader(TarShards(write_tar(tmp_path / "a.tar", members)), batch=4)
    drawn = take(pairs, 9)
    assert all(len(batch) == 4 for batch in drawn) and not set(numbers(drawn)) & {0, 4, 8}
    assert pairs.broken >= 9 and "broken sample number 1" in caplog.text
    assert pairs.state_dict()["broken"] == [pairs.broken]


def test_a_damaged_shard_is_left_where_it_is(tmp_path: Path, caplog) -> None:
    shards = TarShards(tar_shards(tmp_path, 3, 5))
    Path(shards.names[1]).write_bytes(b"x" * 4096)
    drawn = set(numbers(take(loader(shards, buffer_size=2), 20)))
    assert drawn == {*range(5), *range(10, 15)} and "rest of a shard is left out" in caplog.text


def test_nothing_but_rubbish_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"x" * 4096)
    with pytest.raises(DataError, match="gave no sample"):
        take(loader(TarShards(tmp_path / "a.tar")), 1)
    write_tar(tmp_path / "b.tar", [(f"{i}.png", b"no picture") for i in range(20)])
    with pytest.raises(DataError, match="in a row are broken"):
        take(loader(TarShards(tmp_path / "b.tar"), batch=8), 1)


def test_wrong_numbers_and_states_are_refused(tmp_path: Path) -> None:
    shards = TarShards(tar_shards(tmp_path, 1, 3))
    with pytest.raises(ConfigError, match="multiples of the 2 processes"):
        PairStream(shards=shards, batch_size=3, seed=0, lanes=2, buffer_size=4, world=2)
    with pytest.raises(ConfigError, match="num_workers"):
        loader(shards, num_workers=-1)
    other = loader(shards, seed=1).state_dict()
    with pytest.raises(DataError, match="saved data position"):
        loader(shards).load_state_dict(other)
