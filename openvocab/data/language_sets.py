"""Registering sets of questions and of captions, and the mappers that turn their records into model inputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.data import transforms as T

from openvocab.errors import ConfigError, DataError

from .answers import soft_scores
from .budget import BadSampleBudget
from .catalog import ROOT_ENV, Entry, datasets_root, folder_of, register
from .image import FORMATS, read_image


def register_vqa_folder(
    name: str,
    *,
    questions: str | Path,
    pictures: str | Path,
    answers: str | Path | None = None,
    images: str | Path = "images",
    root: str | Path | None = None,
) -> None:
    """Register questions about pictures under `name`; see `load_vqa_records` for the files.

    Args:
        name: for configs and detectron2's catalogs.
        questions: the questions, below `root`.
        pictures: a COCO json with the pictures' files and sizes, below `root`.
        answers: the annotations, below `root`; None where the questions bring their answers, or nobody knows them.
        images: the folder of pictures, below `root`.
        root: the data set's folder; a relative one lies below $DETECTRON2_DATASETS (read now; default ./datasets).

    Raises:
        DataError: for a file that is missing, or a name that is already taken.
    """
    folder = folder_of(root)
    more = {"pictures": folder / pictures, "answers": None if answers is None else folder / answers}
    _register(Entry(name=name, annotations=folder / questions, images=folder / images, reader="vqa", **more))


def register_captions_folder(
    name: str, *, annotations: str | Path, images: str | Path = "images", root: str | Path | None = None
) -> None:
    """Register a COCO captions json under `name`; arguments and errors as `register_vqa_folder`."""
    folder = folder_of(root)
    _register(Entry(name=name, annotations=folder / annotations, images=folder / images, reader="captions"))


def _register(entry: Entry) -> None:
    for path in (entry.annotations, entry.images, entry.pictures, entry.answers):
        if path is not None and not path.exists():
            raise DataError(f"data set '{entry.name}': there is no {path}; check root and {ROOT_ENV} ('{datasets_root()}')")
    register(entry)


class PictureMapper:
    """Reads and augments a picture; subclasses say what is asked about it.

    Args:
        is_train: also bring what is to be learned.
        augmentations: detectron2 augmentations, applied in order. Mind that texts speak of colors, and of left and right.
        image_format: "RGB" or "BGR".
        skip: how many bad files of a data set the training loader skips.
        links: ask for boxes of the words that are written too (`GLIPv2Tasks`; for `LinkEvaluator`).

    Raises:
        ConfigError: for an unknown format.
    """

    keep_empty = True  # these records have no boxes
    task = ""

    def __init__(
        self,
        *,
        is_train: bool,
        augmentations: Sequence[T.Augmentation | T.Transform] = (),
        image_format: str = "RGB",
        skip: BadSampleBudget | None = None,
        links: bool = False,
    ) -> None:
        if image_format not in FORMATS:
            raise ConfigError(f"image_format={image_format!r} is none of {FORMATS}")
        self.is_train, self.image_format = is_train, image_format
        self.augmentations = T.AugmentationList(list(augmentations))
        self.skip, self.links = skip or BadSampleBudget(), links

    def _picture(self, record: dict) -> dict:
        size = (record["height"], record["width"])
        aug = T.AugInput(np.ascontiguousarray(read_image(record["file_name"], self.image_format, size=size)))
        self.augmentations(aug)
        pixels = np.clip(np.round(aug.image), 0, 255).astype(np.uint8) if aug.image.dtype != np.uint8 else aug.image
        return {
            "image": torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))),
            "height": size[0],
            "width": size[1],
            "image_id": record.get("image_id"),
            "file_name": record["file_name"],
            "dataset": record.get("dataset_source", ""),
            "task": self.task,
            **({"links": True} if self.links else {}),
        }


class QuestionMapper(PictureMapper):
    """From a record of `load_vqa_records` to the input of a model that answers."""

    task = "vqa"

    def __call__(self, record: dict) -> dict | None:
        """Map one record.

        Returns:
            {"image": (3, H, W) uint8 in `image_format`, "height" and "width" of the file, "image_id", "file_name", "dataset",
            "task": "vqa", "question_id", "question"}, with `links` also
            "links": True; in training also "answers", {answer: score 0..1}, and None for a question
            that nobody answered.

        Raises:
            InputError: if the picture is missing, damaged, or not of the record's size.
        """
        result = {"question_id": record["question_id"], "question": record["question"]}
        if self.is_train:
            result["answers"] = soft_scores(record["answers"])
            if not result["answers"]:
                return None
        return {**self._picture(record), **result}


class CaptionMapper(PictureMapper):
    """From a record of `load_caption_records` to the input of a model that writes captions."""

    task = "caption"

    def __call__(self, record: dict) -> dict:
        """Map one record.

        Returns:
            as `QuestionMapper`, with "task": "caption", and "captions", all texts; in training also "sentence", one of them drawn.

        Raises:
            InputError: if the picture is missing, damaged, or not of the record's size.
        """
        texts = list(record["captions"])
        drawn = {"sentence": texts[np.random.randint(len(texts))]} if self.is_train else {}
        return {**self._picture(record), "captions": texts, **drawn}
