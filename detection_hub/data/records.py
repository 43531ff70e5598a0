"""The pictures of a hub's data set as detectron2's dicts, with labels that count the data set's own names."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.data import MetadataCatalog

from openvocab.data import get_records, get_vocabulary
from openvocab.data.randomness import draw
from openvocab.errors import DataError
from openvocab.vocabulary import Vocabulary

from .dataset import HubDataset, registered
from .derived import DerivedSet

# lists of checked names that a record may have (LVIS, OpenImages), as its json has them -> as the detector reads them
CHECKED = {"neg_category_ids": "negative_classes", "pos_category_ids": "positive_classes"}


def places_in(words: Vocabulary, own: Vocabulary, owner: str, source: str) -> list[int]:
    """Return where each name of `own` stands in `words` (by name, prompt or alias).

    Raises:
        DataError: for names that `words` does not have.
    """
    spellings = zip(own.names, own.prompts, own.aliases, strict=True)
    places = [next((words.index(s) for s in (name, prompt, *aliases) if s in words), None) for name, prompt, aliases in spellings]
    lost = [name for name, place in zip(own.names, places, strict=True) if place is None]
    if lost:
        shown = ", ".join(lost[:5]) + (", ..." if len(lost) > 5 else "")
        raise DataError(
            f"'{owner}': {len(lost)} of {len(own)} names of '{source}' are none of its {len(words)} classes ({shown}); add them to "
            "classes, or leave their boxes out with a DerivedSet"
        )
    return places


def read_split(dataset: HubDataset, source: str | DerivedSet) -> list[dict]:
    """Return the records of a registered set; labels, and lists of checked names, count the names of `dataset`.

    Raises:
        DataError: for an unknown set, names outside the data set's classes, or a label that is no name of the set.
    """
    name = registered(source)
    own = get_vocabulary(name)
    table = places_in(dataset.vocabulary, own, dataset.name, name)
    same = table == list(range(len(table)))
    ids = MetadataCatalog.get(name).get("thing_dataset_id_to_contiguous_id") or {i: i for i in range(len(own))}
    rows = []
    for record in get_records(name):
        labels = [a["category_id"] for a in record.get("annotations", [])]
        _check(labels, len(own), record, dataset.name)
        moved = record.get("annotations", [])
        if not same:
            moved = [{**a, "category_id": table[a["category_id"]]} for a in moved]
        lists = {new: _checked(record[old], ids, table, record, dataset.name) for old, new in CHECKED.items() if old in record}
        rows.append({**record, **lists, "annotations": moved, "dataset_source": ""})  # the mapper has the names
    return rows


def _check(labels: Sequence[int], count: int, record: dict, owner: str) -> None:
    for label in labels:
        if not 0 <= label < count:
            file = record["file_name"]
            raise DataError(f"'{owner}': {file} has a box of class {label}, and its set has the classes 0 to {count - 1}")


def _checked(ids: Sequence[int], known: dict[int, int], table: Sequence[int], record: dict, owner: str) -> list[int]:
    for one in ids:
        if one not in known:
            raise DataError(f"'{owner}': {record['file_name']} lists category {one} as checked, which is not among the categories")
    return [table[known[one]] for one in ids]


def train_records(dataset: HubDataset, share: float = 1.0) -> list[dict]:
    """Return what a data set is trained on: all its splits, or a share of their pictures.

    Args:
        share: of the pictures of each split, at least one; the choice depends on their ids alone, and a smaller share is a part of
            a larger one.

    Raises:
        DataError: if it has no split for training, or no box at all; else as `read_split`.
    """
    if not dataset.train:
        raise DataError(f"the data set '{dataset.name}' of the hub has no split to train on: give it train=...")
    rows = []
    for source in dataset.train:
        split = read_split(dataset, source)
        rows += split if share >= 1 else _share(split, share)
    if not any(not a.get("iscrowd", 0) for row in rows for a in row["annotations"]):
        raise DataError(f"the data set '{dataset.name}' has no box in its {len(rows)} training pictures: there is nothing to learn")
    return rows


def _share(rows: list[dict], share: float) -> list[dict]:
    order = sorted(range(len(rows)), key=lambda i: draw("share", rows[i].get("image_id", rows[i]["file_name"])))
    kept = set(order[: max(1, round(share * len(rows)))])
    return [row for i, row in enumerate(rows) if i in kept]


def hub_test_records(*, dataset: HubDataset) -> list[dict]:
    """Return the pictures of a data set's test split, for `openvocab.data.build_test_loader`.

    Raises:
        DataError: if it has none; else as `read_split`.
    """
    if dataset.test is None:
        raise DataError(f"the data set '{dataset.name}' of the hub has no split to be tested on: give it test=...")
    return read_split(dataset, dataset.test)
