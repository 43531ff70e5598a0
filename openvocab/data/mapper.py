"""From a data set's dict to a model input."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.data.detection_utils import transform_proposals
from detectron2.structures import Boxes, Instances

from openvocab.errors import ConfigError, DataError
from openvocab.prompting import Caption
from openvocab.vocabulary import Vocabulary, reworded
from openvocab.vocabulary.wording import Wording

from .annotations import Moved, boxes_of, masks_of, move
from .budget import BadSampleBudget
from .catalog import get_vocabulary
from .image import FORMATS, read_image
from .prompts import ABSENT, NameChanges, PromptSampler, positions
from .token_budget import TokenBudget

MASK_FORMATS = ("polygon", "bitmask")


class DatasetMapper:
    """Read a picture, augment it, and write down what to look for in it.

    A record with "phrases" (see `grounding`) gives a "caption"; any other gives a "vocabulary".

    Args:
        is_train: keep boxes and draw prompts; else only the picture and its vocabulary.
        augmentations: detectron2 augmentations, applied in order. A flip does not change "left" and "right" in captions
            (as GLIP).
        image_format: "RGB" or "BGR".
        vocabulary: words in place of the data set's own; the set's names are looked up in it (names, prompts and
            aliases).
        wording: data set -> in which words its names are asked for, see `openvocab.vocabulary.reworded`: a template such as
            "{} on a circuit board", name -> template, or a `Vocabulary` of as many names. Sets that are not there keep their own.
        prompt: chooses the names of a training prompt; None takes all, in order.
        exclude_names: never prompted, never taught; their boxes become "ignore_boxes", and sentences that speak of them
            are left out.
        generic_name, generic_name_prob, super_names, super_name_prob, synonyms: other words for the same boxes, see
            `NameChanges` (ours).
        with_masks: add "gt_masks", and "gt_is_box_mask" (N,) bool, true where the mask is only the box's rectangle.
        mask_format: "polygon" or "bitmask".
        precomputed_proposal_topk: bring so many of the record's "proposal_boxes" along as "proposals" (detectron2's option of the
            same name); None: none.
        min_size: boxes narrower or lower than this many pixels after augmentation are left out.
        min_visible: boxes of which a crop leaves less than this share become "ignore_boxes" (ours).
        budget: sentences with more tokens than this are bad samples; None: all are taken, and the model refuses what is too long.
        keep_empty: return training pictures without any box to teach; else None, and the loader takes another.
        skip: how many bad files of a data set the training loader skips.

    Raises:
        ConfigError: for an unknown format or probabilities outside 0..1. (Names that no set of a mixture has are
        refused
            by `build_train_loader`; one mapper may serve several sets.)
    """

    def __init__(
        self,
        *,
        is_train: bool,
        augmentations: Sequence[T.Augmentation | T.Transform] = (),
        image_format: str = "RGB",
        vocabulary: Vocabulary | None = None,
        wording: Mapping[str, Wording] | None = None,
        prompt: PromptSampler | None = None,
        exclude_names: Sequence[str] = (),
        generic_name: str = "object",
        generic_name_prob: float = 0.0,
        super_names: Mapping[str, str] | None = None,
        super_name_prob: float = 0.0,
        synonyms: Mapping[str, Sequence[str]] | None = None,
        with_masks: bool = False,
        mask_format: str = "polygon",
        precomputed_proposal_topk: int | None = None,
        min_size: float = 1.0,
        min_visible: float = 0.2,
        budget: TokenBudget | None = None,
        keep_empty: bool = False,
        skip: BadSampleBudget | None = None,
    ) -> None:
        if image_format not in FORMATS or mask_format not in MASK_FORMATS:
            raise ConfigError(
                f"image_format {image_format!r} or mask_format {mask_format!r} is none of {FORMATS}, {MASK_FORMATS}"
            )
        if isinstance(exclude_names, str):
            raise ConfigError(f"exclude_names={exclude_names!r} is a string, not a list of names")
        if vocabulary is not None and wording:
            raise ConfigError("a mapper takes a vocabulary, which has its own words, or a wording for each data set, not both")
        self.wording = dict(wording or {})
        self.is_train, self.image_format, self.vocabulary, self.prompt = is_train, image_format, vocabulary, prompt
        self.augmentations = T.AugmentationList(list(augmentations))
        self.exclude_names = tuple(str(n) for n in exclude_names)
        self.changes = NameChanges(
            generic_name=generic_name,
            generic_name_prob=generic_name_prob,
            super_names=super_names,
            super_name_prob=super_name_prob,
            synonyms=synonyms,
        )
        self.with_masks, self.mask_format = with_masks, mask_format
        self.precomputed_proposal_topk = precomputed_proposal_topk
        self.min_size, self.min_visible, self.keep_empty = float(min_size), float(min_visible), keep_empty
        self.skip, self.budget = skip or BadSampleBudget(), budget
        self._names: dict[str, tuple[Vocabulary, np.ndarray]] = {}
        self._reworded: dict[str, tuple[Vocabulary, Vocabulary]] = {}

    def __call__(self, record: dict) -> dict | None:
        """Map one record.

        Args:
            record: a detectron2 dict with "dataset_source", or with a `vocabulary` of the mapper's own.

        Returns:
            {"image": (3, H, W) uint8 in `image_format`, "height" and "width" of the file, "image_id", "file_name",
            "dataset", "captions" where the set has them, "proposals": Instances with proposal_boxes and objectness_logits if
            asked for, and "vocabulary" or "caption"}; in training also {"instances":
            gt_boxes XYXY pixels of the augmented picture, gt_classes (positions in the vocabulary's names or the
            caption's phrases), "ignore_boxes": (M, 4) float32 XYXY}. None for a training picture with nothing to teach,
            unless `keep_empty`.

        Raises:
            InputError: if the picture is missing, damaged, or not of the record's size.
            DataError: if the record's annotations cannot be used, or its sentence is over the budget.
        """
        size = (record["height"], record["width"])
        pixels = read_image(record["file_name"], self.image_format, size=size)
        annotations = record.get("annotations", []) if self.is_train else []
        aug, transforms = self._augment(pixels, annotations)
        result = {
            "image": torch.from_numpy(np.ascontiguousarray(aug.image.transpose(2, 0, 1))),
            "height": size[0],
            "width": size[1],
            "image_id": record.get("image_id"),
            "file_name": record["file_name"],
            "dataset": record.get("dataset_source", ""),
        }
        if "captions" in record:
            result["captions"] = list(record["captions"])
        result |= self._proposals(record, transforms, aug.image.shape[:2])
        if not self.is_train:
            return {**result, **self._what_to_look_for(record)}
        moved = move(annotations, transforms, size, aug.image.shape[:2])
        taught = self._taught(
            record, moved.pick((moved.boxes[:, 2:] - moved.boxes[:, :2] >= self.min_size).all(axis=1))
        )
        if taught is None:
            return None
        words, moved, ignored = taught
        return {
            **result,
            **words,
            "instances": self._instances(moved, transforms, size, aug.image.shape[:2]),
            **ignored,
        }

    def _augment(self, pixels: np.ndarray, annotations: list[dict]) -> tuple[T.AugInput, T.TransformList]:
        aug = T.AugInput(np.ascontiguousarray(pixels), boxes=boxes_of(annotations) if annotations else None)
        transforms = self.augmentations(aug)
        if aug.image.dtype != np.uint8:
            aug.image = np.clip(np.round(aug.image), 0, 255).astype(np.uint8)
        return aug, transforms

    def _proposals(self, record: dict, transforms: T.TransformList, size: tuple[int, int]) -> dict:
        if self.precomputed_proposal_topk is None or "proposal_boxes" not in record:
            return {}
        moved = {k: v for k, v in record.items() if k.startswith("proposal_")}  # detectron2 takes them out of what it is given
        transform_proposals(moved, size, transforms, proposal_topk=self.precomputed_proposal_topk)
        return {"proposals": moved["proposals"]}

    def _what_to_look_for(self, record: dict) -> dict:
        if "phrases" in record:
            return {"caption": _caption(record)}
        if self.vocabulary is not None:
            return {"vocabulary": self.vocabulary}
        return {"vocabulary": self._own(record["dataset_source"])} if record.get("dataset_source") else {}

    def _own(self, name: str) -> Vocabulary:
        """Return the names of data set `name`, in the words of `wording`."""
        own = get_vocabulary(name)
        if name not in self.wording:
            return own
        if self._reworded.get(name, (None,))[0] is not own:
            self._reworded[name] = own, reworded(own, self.wording[name])
        return self._reworded[name][1]

    def _table(self, name: str) -> tuple[Vocabulary, np.ndarray]:
        """Return the names that may be prompted, and where each class id of set `name` stands in them or `ABSENT`."""
        if name not in self._names:
            if not name and self.vocabulary is None:
                raise DataError(
                    "a record has no 'dataset_source', so its names are not known; give the mapper a vocabulary"
                )
            own = self._own(name) if name else self.vocabulary
            words = self.vocabulary or own
            excluded = self._excluded(words)
            kept = [i for i in range(len(words)) if i not in excluded]
            if not kept:
                raise ConfigError(f"exclude_names leaves no name of '{name}' to look for")
            table = positions(kept, len(words))
            self._names[name] = words.subset(kept), table[[words.index(n) for n in own.names]]
        return self._names[name]

    def _excluded(self, words: Vocabulary) -> set[int]:
        return {words.index(n) for n in self.exclude_names if n in words}

    def mentioned(self) -> tuple[str, ...]:
        """Return the names that `exclude_names`, `super_names` and `synonyms` speak of."""
        return (*self.exclude_names, *self.changes.super_names, *self.changes.synonyms)

    def words(self, name: str) -> Vocabulary | None:
        """Return the words in which the mapper speaks of data set `name`; None for a grounding set."""
        try:
            return self.vocabulary or self._own(name)
        except DataError:
            return None

    def teaches(self, record: dict, annotation: dict) -> bool:
        """Say whether an annotation's class is taught, that is, not excluded."""
        if "phrases" in record:
            return True
        return self._table(record.get("dataset_source", ""))[1][annotation["category_id"]] != ABSENT

    def _taught(self, record: dict, moved: Moved) -> tuple[dict, Moved, dict] | None:
        """Return the prompt, what to teach with its places in it, and the boxes to ignore; None if there is nothing."""
        if "phrases" in record:
            caption = _caption(record)
            if self.budget is not None:
                self.budget.check(caption.text)
            if self._speaks_of_excluded(caption.text):
                return None
            names, classes = None, moved.classes
        else:
            names, table = self._table(record.get("dataset_source", ""))
            classes = table[moved.classes]
        ignored = moved.crowd | (classes == ABSENT) | (moved.visible < self.min_visible)
        if ignored.all() and not self.keep_empty:
            return None
        ignore_boxes = torch.from_numpy(moved.boxes[ignored])
        moved, classes = moved.pick(~ignored), classes[~ignored]
        if names is None:
            words = {"caption": caption}
        else:
            chosen, classes = self.changes(names, classes, self.prompt)
            words = {"vocabulary": chosen}
        moved.classes = classes
        return words, moved.pick(classes != ABSENT), {"ignore_boxes": ignore_boxes}

    def _speaks_of_excluded(self, text: str) -> bool:
        return any(re.search(rf"(?<!\w){re.escape(n)}s?(?!\w)", text, flags=re.IGNORECASE) for n in self.exclude_names)

    def _instances(
        self, moved: Moved, transforms: T.TransformList, before: tuple[int, int], after: tuple[int, int]
    ) -> Instances:
        instances = Instances(tuple(after))
        instances.gt_boxes = Boxes(torch.from_numpy(moved.boxes))
        instances.gt_classes = torch.from_numpy(moved.classes)
        if self.with_masks:
            instances.gt_masks, instances.gt_is_box_mask = masks_of(moved, transforms, before, after, self.mask_format)
        return instances


def _caption(record: dict) -> Caption:
    return Caption(record["caption"], tuple(tuple((int(s), int(e)) for s, e in spans) for spans in record["phrases"]))
