"""Proposals (and what the teacher says of them) computed once and kept in a file, so that training runs no detector."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils import comm
from torch import Tensor
from torchvision.ops import nms

from openvocab.bridge import Bridge
from openvocab.data import get_records, read_image
from openvocab.errors import ConfigError, DataError, InputError
from openvocab.io import load_weights, save_weights
from openvocab.predictor import load_predictor

from .teachers import VECTORS

logger = logging.getLogger(__name__)
IMAGES, MADE_BY = "images", "made_by"
_SAY_SECONDS = 30.0
Detect = Callable[[Tensor], tuple[Tensor, Tensor]]
"""(3, H, W) uint8 RGB -> boxes (N, 4) XYXY pixels, scores (N,)."""


class ClassFreeBoxes:
    """Boxes of an open-vocabulary detector with its names thrown away: each box has the best score it got for any name.

    Args:
        detector: a model of the zoo, or a config. Its prior, which names boxes but finds none, is left out.
        names: what it is asked for, such as the general word by which "default" learned objectness; more names find more.
        min_score: weaker boxes are left out by the model itself.
        max_detections: of the model, over all names.
        nms_threshold: of the boxes of all names together.
        device: see `load_predictor`.

    Raises:
        ConfigError: for no names, or a threshold outside 0..1.
    """

    def __init__(
        self,
        *,
        detector: str = "default",
        names: Sequence[str] = ("object",),
        min_score: float = 0.01,
        max_detections: int = 300,
        nms_threshold: float = 0.6,
        device: str = "auto",
    ) -> None:
        if isinstance(names, str) or not list(names) or not 0 < nms_threshold <= 1:
            raise ConfigError(f"names={names!r} must be a list of names and nms_threshold={nms_threshold} in 0..1")
        limits = {"prior": "null", "postprocessor.score_threshold": min_score, "postprocessor.max_detections": max_detections}
        overrides = [f"model.{k}={v}" for k, v in limits.items()]
        self.predictor = load_predictor(detector, device=device, score_threshold=0.0, overrides=overrides)
        self.names, self.nms_threshold = list(names), float(nms_threshold)

    @torch.no_grad()
    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Find boxes in a picture (3, H, W) uint8 RGB: (N, 4) XYXY pixels and (N,) scores, best first."""
        found = self.predictor(image.permute(1, 2, 0).numpy(), self.names)
        boxes, scores = torch.tensor(found.boxes).float().reshape(-1, 4), torch.tensor(found.scores).float()
        keep = nms(boxes, scores, self.nms_threshold)
        return boxes[keep], scores[keep]


class DetectorProposals:
    """`ClassFreeBoxes` in the place of an RPN, for pictures that bring no "proposals" of their own.

    The detector is built when it is first needed: training and evaluation with proposals from a file never load it. Its
    `objectness_logits` are scores of 0..1, not logits; so are those of the files. The score fusion for them is "sqrt_logit", which
    takes the root of their product with the class probability.

    Args:
        max_boxes: a picture.
        options: see `ClassFreeBoxes`.
    """

    def __init__(self, *, max_boxes: int = 100, **options: object) -> None:
        self.max_boxes, self.options = max_boxes, options
        self._detect: ClassFreeBoxes | None = None

    def __call__(self, images: Sequence[Tensor]) -> list[Instances]:
        """Propose boxes.

        Args:
            images: pictures (3, H, W) RGB, 0-255.

        Returns:
            of each, best first: `proposal_boxes` (N, 4) XYXY pixels, and `objectness_logits` (N,), on the picture's device.
        """
        if self._detect is None:
            self._detect = ClassFreeBoxes(**self.options)
        return [self._propose(self._detect, x) for x in images]

    def _propose(self, detect: Detect, image: Tensor) -> Instances:
        boxes, scores = (x[: self.max_boxes].to(image.device) for x in detect(image.round().clamp(0, 255).to(torch.uint8).cpu()))
        return Instances(tuple(image.shape[-2:]), proposal_boxes=Boxes(boxes), objectness_logits=scores)


def cache_proposals(
    records: Sequence[dict],
    path: str | Path,
    *,
    detect: Detect,
    max_boxes: int = 100,
    bridge: Bridge | None = None,
    context: float = 0.0,
    made_by: str = "",
) -> Path:
    """Find boxes in every picture of a data set, and write them to a file.

    Args:
        records: detectron2's, with "image_id" and "file_name".
        path: a .safetensors file: "boxes" (N, 4) float32 XYXY pixels, "scores" (N,), "vectors" (N, D) float16 if there is a
            bridge, "counts" (pictures,).
        detect: finds boxes, best first.
        max_boxes: kept a picture.
        bridge: also keep what it makes of each box, so that a `BridgeTeacher` need not look again.
        context: of its crops.
        made_by: noted in the file; another one is refused by `with_proposals`.

    Returns:
        the path. Pictures that cannot be read have no boxes, and a warning.

    Raises:
        OSError: if the file cannot be written.
    """
    boxes, scores, vectors = [], [], []
    said = time.perf_counter()
    for done, record in enumerate(records):
        try:
            image = torch.tensor(read_image(record["file_name"])).permute(2, 0, 1)
            found, score = (x[:max_boxes].cpu() for x in detect(image))
        except InputError as error:
            logger.warning("no proposals: %s", error)
            image, found, score = torch.zeros(3, 1, 1, dtype=torch.uint8), torch.zeros(0, 4), torch.zeros(0)
        boxes.append(found.float())
        scores.append(score.float())
        if bridge is not None:
            vector = bridge.encode_pixels(bridge.crop(image, found, context)) if len(found) else torch.zeros(0, bridge.dim)
            vectors.append(vector.cpu().half())
        if time.perf_counter() - said > _SAY_SECONDS:
            said = time.perf_counter()
            logger.info("proposals of %d of %d pictures", done + 1, len(records))
    tensors = {"boxes": torch.cat(boxes), "scores": torch.cat(scores), "counts": torch.tensor([len(b) for b in boxes])}
    if bridge is not None:
        tensors["vectors"] = torch.cat(vectors)
    save_weights(path, tensors, {IMAGES: json.dumps([str(r["image_id"]) for r in records]), MADE_BY: made_by})
    return Path(path)


def add_proposals(records: Sequence[dict], path: str | Path, *, made_by: str | None = None) -> list[dict]:
    """Return copies of records with the proposals of a file: detectron2's "proposal_boxes", "proposal_objectness_logits" and
    "proposal_bbox_mode", and "teacher_vectors" where the file has them.

    Raises:
        WeightsError: if the file is missing or damaged.
        DataError: if it is of other pictures, or made in another way than `made_by`.
    """
    content = load_weights(path)
    if made_by is not None and content.metadata.get(MADE_BY, "") != made_by:
        raise DataError(f"{path} was made by '{content.metadata.get(MADE_BY)}', not '{made_by}'; delete it to make it anew")
    try:
        places = {image: i for i, image in enumerate(json.loads(content.metadata[IMAGES]))}
        counts, tensors = content.tensors["counts"].tolist(), content.tensors
        starts = np.cumsum([0, *counts])
        columns = {"proposal_boxes": tensors["boxes"].numpy(), "proposal_objectness_logits": tensors["scores"].numpy()}
    except (KeyError, ValueError) as error:
        raise DataError(f"{path} holds no proposals: {error!r}") from error
    if "vectors" in tensors:
        columns[VECTORS] = tensors["vectors"].numpy()
    result = []
    for record in records:
        place = places.get(str(record["image_id"]))
        if place is None:
            raise DataError(f"{path} has no proposals for image {record['image_id']}: it is of another data set; delete it")
        rows = slice(starts[place], starts[place + 1])
        own = {key: column[rows] for key, column in columns.items()}
        result.append({**record, **own, "proposal_bbox_mode": BoxMode.XYXY_ABS})
    return result


def with_proposals(
    dataset: str | Sequence[dict],
    path: str | Path,
    *,
    detector: str = "default",
    names: Sequence[str] = ("object",),
    max_boxes: int = 100,
    bridge: bool = False,
    captions_only: bool = True,
) -> list[dict]:
    """Return a data set's records with class-free proposals, for `TrainSource(records=...)`; computed at the first call.

    Args:
        dataset: a registered name, or records.
        path: where they are kept.
        detector, names: see `ClassFreeBoxes`.
        max_boxes: a picture.
        bridge: with the vectors of the bridge.
        captions_only: leave out pictures without a caption, if any has one.

    Raises:
        DataError: for an unknown data set, or a file of other pictures or settings.
    """
    records = list(get_records(dataset) if isinstance(dataset, str) else dataset)
    if captions_only and any(r.get("captions") for r in records):
        records = [r for r in records if r.get("captions")]
    made_by = json.dumps({"detector": detector, "names": list(names), "max_boxes": max_boxes, "bridge": bridge})
    if comm.is_main_process() and not Path(path).is_file():
        logger.info("finding proposals in %d pictures; they are kept in %s", len(records), path)
        eyes = Bridge() if bridge else None
        detect = ClassFreeBoxes(detector=detector, names=list(names))
        cache_proposals(records, path, detect=detect, max_boxes=max_boxes, bridge=eyes, made_by=made_by)
    comm.synchronize()
    return add_proposals(records, path, made_by=made_by)
