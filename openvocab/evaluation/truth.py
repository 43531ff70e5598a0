"""Ground truth in COCO's json form: what there is to find, and by which names."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from openvocab.errors import EvaluationError
from openvocab.vocabulary import Vocabulary

from .scoring import in_order

FEDERATED = ("neg_category_ids", "not_exhaustive_category_ids")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GroundTruth:
    """The annotations of a data set.

    Attributes:
        path: the json file.
        vocabulary: names, in the order of the contiguous class ids (which is that of the sorted category ids).
        category_ids: of each name.
        image_ids: of all pictures, in the order in which they are evaluated.
        frequencies: "r", "c", "f" of each name, from the json or else the vocabulary; None where nobody says.
        federated: whether every picture says which categories were looked for (LVIS).
    """

    path: Path
    vocabulary: Vocabulary
    category_ids: tuple[int, ...]
    image_ids: tuple[int | str, ...]
    frequencies: tuple[str | None, ...] = ()
    federated: bool = False

    def read(self, image_ids: set[int | str], category_ids: set[int]) -> tuple[list[dict], list[dict]]:
        """Return the images and annotations of these pictures and categories, as the json has them.

        Raises:
            EvaluationError: if an annotation has no box.
        """
        from openvocab.data.coco_json import read_coco

        content = read_coco(self.path)
        images = [i for i in content["images"] if i["id"] in image_ids]
        found = [
            a for a in content["annotations"] if a.get("image_id") in image_ids and a.get("category_id") in category_ids
        ]
        for row in found:
            if len(row.get("bbox") or ()) != 4:
                raise EvaluationError(
                    f"{self.path}: annotation {row.get('id')} has no box (bbox: [x, y, width, height])"
                )
        return images, found


def find_truth(dataset_name: str | None, annotations: str | Path | None) -> GroundTruth:
    """Return the ground truth of a registered data set, or of a json file.

    Raises:
        EvaluationError: if neither is given, or the data set has no json.
        DataError: for an unknown data set, or a file that is missing or no COCO json.
    """
    from openvocab.data.coco_json import read_coco, sorted_categories

    vocabulary = None
    if annotations is not None:
        path = Path(annotations)
    elif dataset_name is not None:
        path, vocabulary = _registered(dataset_name)
    else:
        raise EvaluationError("give the evaluator a dataset_name or an annotations file")
    content = read_coco(path)
    categories = sorted_categories(content, path)
    if not categories:
        raise EvaluationError(f"{path} has no categories, so there is nothing to evaluate")
    if vocabulary is None:
        vocabulary = Vocabulary.from_names([c["name"] for c in categories])
    if len(vocabulary) != len(categories):
        raise EvaluationError(
            f"'{dataset_name}' has {len(vocabulary)} names, but {path} has {len(categories)} categories"
        )
    return GroundTruth(
        path=path,
        vocabulary=vocabulary,
        category_ids=tuple(c["id"] for c in categories),
        image_ids=tuple(in_order([i["id"] for i in content["images"]])),
        frequencies=tuple(c.get("frequency", f) for c, f in zip(categories, vocabulary.frequencies, strict=True)),
        federated=all(isinstance(i.get(key), list) for i in content["images"] for key in FEDERATED),
    )


def _registered(name: str) -> tuple[Path, Vocabulary]:
    from detectron2.data import MetadataCatalog

    from openvocab.data import ensure_registered, get_vocabulary

    ensure_registered(name)
    path = MetadataCatalog.get(name).get("json_file")
    if not path:
        raise EvaluationError(f"the data set '{name}' is registered without a json file; pass annotations=PATH")
    return Path(path), get_vocabulary(name)


def match_names(spoken: Vocabulary, truth: GroundTruth) -> dict[int, int]:
    """Say which category each class of a model means: {class index: category id}.

    A name belongs to the category of that name, else of that prompt or one of its aliases. Names without a category are
    left out, with one warning.

    Args:
        spoken: the model's names.
        truth: the data set's.

    Raises:
        EvaluationError: if no name is left.
    """
    table: dict[int, int] = {}
    lost: list[str] = []
    for i, words in enumerate(zip(spoken.names, spoken.prompts, spoken.aliases, strict=True)):
        known = next((w for w in (words[0], words[1], *words[2]) if w in truth.vocabulary), None)
        if known is None:
            lost.append(words[0])
        else:
            table[i] = truth.category_ids[truth.vocabulary.index(known)]
    if not table:
        raise EvaluationError(
            f"none of the model's {len(spoken)} names ({_some(spoken.names)}) is one of the {len(truth.vocabulary)} of "
            f"{truth.path} ({_some(truth.vocabulary.names)}); pass vocabulary= with prompts or aliases that are"
        )
    if lost:
        logger.warning(
            "%d of %d names are not in %s and are not evaluated: %s", len(lost), len(spoken), truth.path, _some(lost)
        )
    return table


def choose_categories(truth: GroundTruth, names: Sequence[str] | None) -> dict[int, str]:
    """Return {category id: name} of those to be evaluated; None: all.

    Raises:
        EvaluationError: for a single string, or no names.
        VocabularyError: for a name the data set does not have.
    """
    vocabulary = truth.vocabulary
    if isinstance(names, str) or (names is not None and not names):
        raise EvaluationError(f"category_names must be a list of names, not {names!r}")
    places = range(len(vocabulary)) if names is None else sorted({vocabulary.index(n) for n in names})
    return {truth.category_ids[i]: vocabulary.names[i] for i in places}


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
