"""Which detections are kept, and that keeping them needs bounded memory."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openvocab.errors import EvaluationError
from openvocab.evaluation.limits import Collector, best_of_category, best_of_picture, merge
from openvocab.evaluation.table import Table, empty_table, from_rows, join, load_table


def make(seed: int, rows: int, *, pictures: int = 7, categories: int = 3, levels: int = 4, first: int = 0) -> Table:
    rng = np.random.default_rng(seed)
    places = np.sort(rng.integers(first, first + pictures, rows))
    order = np.concatenate([np.arange((places == p).sum()) for p in np.unique(places)]) if rows else np.zeros(0, int)
    scores = rng.integers(0, levels, rows) / levels
    return Table(places, rng.integers(0, categories, rows), rng.random((rows, 4)), scores, order)


def tuples(table: Table) -> list[tuple]:
    return list(zip(*(c.tolist() for c in (table.pictures, table.order, table.categories, table.scores)), strict=True))


seeds = st.integers(0, 2**31)


@settings(max_examples=40, deadline=None)
@given(seed=seeds, rows=st.integers(0, 60), limit=st.integers(1, 9), levels=st.sampled_from([1, 4, 10**6]))
def test_best_against_loops(seed: int, rows: int, limit: int, levels: int) -> None:
    table = make(seed, rows, levels=levels)
    whole = tuples(table)
    by_picture, by_category = [], []
    for p in range(7):
        by_picture += sorted((t for t in whole if t[0] == p), key=lambda t: -t[3])[:limit]  # stable: in the model's order
    for c in range(3):
        by_category += sorted((t for t in whole if t[2] == c), key=lambda t: -t[3])[:limit]
    assert sorted(tuples(best_of_picture(table, limit))) == sorted(by_picture)
    assert sorted(tuples(best_of_category(table, limit))) == sorted(by_category)


@settings(max_examples=40, deadline=None)
@given(seed=seeds, limit=st.integers(1, 6), spare=st.sampled_from([0, 5, 1000]), chunks=st.integers(1, 12))
def test_a_running_best_is_the_best_of_the_whole(seed: int, limit: int, spare: int, chunks: int) -> None:
    parts = [make(seed + n, 9, pictures=2, first=2 * n) for n in range(chunks)]
    collector = Collector(limit, spare=spare)
    for part in parts:
        collector.add(part)
    assert sorted(tuples(collector.table())) == sorted(tuples(best_of_category(join(parts), limit)))


def test_memory_is_bounded() -> None:
    collector, most = Collector(10, spare=100), 0
    for n in range(200):
        collector.add(make(n, 50, first=n))
        most = max(most, len(collector))
    assert most <= 2 * 3 * 10 + 100 + 50 and len(collector.table()) == 30


@settings(max_examples=40, deadline=None)
@given(seed=seeds, limit=st.sampled_from([None, 1, 4, 50]), cut=st.integers(0, 7), overlap=st.integers(0, 3))
def test_parts_of_two_processes_give_the_whole(seed: int, limit: int | None, cut: int, overlap: int) -> None:
    table = make(seed, 50)

    def part(first: int, last: int) -> tuple[np.ndarray, Table]:
        mine = Collector(limit)
        mine.add(table.pick((table.pictures >= first) & (table.pictures < last)))
        return np.arange(first, last), mine.table()

    whole = merge([part(0, 7)], limit)
    for parts in ([part(0, cut), part(max(cut - overlap, 0), 7)], [part(cut, 7), part(0, min(cut + overlap, 7))]):
        seen, found = merge(parts, limit)
        assert seen.tolist() == whole[0].tolist() == list(range(7)) and tuples(found) == tuples(whole[1])


def test_of_two_versions_of_a_picture_the_first_counts() -> None:
    first, second = make(1, 5, pictures=1), make(2, 8, pictures=1)
    seen, found = merge([(np.array([0]), first), (np.array([0]), second)])
    assert seen.tolist() == [0] and tuples(found) == tuples(first)
    assert len(merge([(np.array([0]), empty_table()), (np.array([0]), second)])[1]) == 0  # it found nothing there


def test_a_table_survives_its_file() -> None:
    codes = [b"abc", b"", b"de\x00"]
    base = {"category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.1}
    rows = [(0, {**base, "segmentation": {"size": [5, 6], "counts": c}}) for c in codes]
    for table in (from_rows(rows), from_rows(rows[:0]), make(3, 9)):
        file = io.BytesIO()
        table.save(file, seen=np.arange(3))
        file.seek(0)
        with np.load(file, allow_pickle=False) as content:
            again = load_table(dict(content))
        assert tuples(again) == tuples(table) and again.has_masks == table.has_masks
        if table.has_masks:
            assert again.counts.tolist() == codes and again.masks()[2] == {"size": [5, 6], "counts": codes[2]}


def test_masks_for_all_or_none() -> None:
    plain = make(1, 3)
    row = {"category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.1, "segmentation": {"size": [5, 6], "counts": "abc"}}
    masked = from_rows([(0, row)])
    with pytest.raises(EvaluationError, match="some detections have masks and some have none"):
        join([plain, masked])
    assert not join([]).has_masks and join([masked.pick(np.zeros(1, bool)), empty_table()]).has_masks
    assert join([masked, empty_table()]).has_masks
