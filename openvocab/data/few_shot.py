"""Few-shot training sets: k pictures of each class, chosen by a seed (ODinW's rule in microsoft/GLIP)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from openvocab.errors import ConfigError, DataError

from .catalog import get_vocabulary
from .randomness import generator


class FewShot:
    """Choose the records of a k-shot set; give it to a source as `TrainSource(select=FewShot(shots=3, seed=0))`.

    GLIP's code for ODinW walks through the pictures in order of their ids, takes one if any of its classes still lacks shots, and
    counts it for each of its classes. So every class is in at least k of the pictures that are taken, and a frequent class in
    more; all boxes of a picture are kept. With a seed the walk goes through the pictures in a random order that depends on
    nothing but the seed and their ids (ours: ODinW's own seeded choices, 3, 30 and 300, are files that come with its data).

    Args:
        shots: k; 1, 3, 5 and 10 in ODinW. 0 takes all records.
        seed: of the order; None: in order of the ids.
        allow_fewer: take all that there are of a class with fewer than k pictures, as ODinW's code does, in place of an error.

    Raises:
        ConfigError: for a negative number of shots.
    """

    def __init__(self, *, shots: int, seed: int | None = 0, allow_fewer: bool = False) -> None:
        if shots < 0:
            raise ConfigError(f"shots={shots} must be 0 (all records) or more")
        self.shots, self.seed, self.allow_fewer = int(shots), seed, allow_fewer

    def __call__(self, records: Sequence[dict]) -> list[dict]:
        """Return the chosen records, in order of their ids; boxes of crowds are no shots.

        Raises:
            DataError: if a class of the data set is in fewer than k pictures.
        """
        if not self.shots:
            return list(records)
        walk = sorted(records, key=_key)
        if not self.allow_fewer:
            self._check(walk)
        if self.seed is not None:
            order = generator(self.seed, "few shot").permutation(len(walk))
            walk = [walk[i] for i in order]
        counts: Counter[int] = Counter()
        chosen = []
        for record in walk:
            classes = classes_of(record)
            if any(counts[c] < self.shots for c in classes):
                chosen.append(record)
                counts.update(classes)
        return sorted(chosen, key=_key)

    def _check(self, records: Sequence[dict]) -> None:
        counts = Counter(c for r in records for c in classes_of(r))
        names = _names(records)
        for number in sorted({*counts, *range(len(names))}):
            if counts[number] < self.shots:
                name = f"'{names[number]}'" if number < len(names) else f"class {number}"
                raise DataError(
                    f"{self.shots} shots of {name} are asked for, and it is in {counts[number]} of {len(records)} pictures of "
                    f"'{records[0].get('dataset_source', 'the records') if records else 'no records'}'; ask for fewer, or set "
                    "allow_fewer=True"
                )


def classes_of(record: dict) -> set[int]:
    """Return the class ids of a record's boxes, crowds apart."""
    return {a["category_id"] for a in record.get("annotations", ()) if not a.get("iscrowd", 0)}


def _names(records: Sequence[dict]) -> tuple[str, ...]:
    """The data set's names; none where its records do not say of which set they are, or it has no list of names."""
    sources = {r.get("dataset_source") for r in records}
    if len(sources) != 1 or None in sources or "phrases" in records[0]:
        return ()
    try:
        return get_vocabulary(sources.pop()).names
    except DataError:  # records of a set that is not registered
        return ()


def _key(record: dict) -> tuple[bool, int | str]:
    """Order of ids, numbers before words."""
    number = record["image_id"]
    return (False, number) if isinstance(number, int) else (True, str(number))
