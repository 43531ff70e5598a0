"""Captions: COCO's json as records of pictures, and texts cut to what an encoder takes."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from openvocab.data.budget import BadSampleBudget
from openvocab.data.coco_json import read_coco, safe_join
from openvocab.errors import DataError
from openvocab.text import TextEncoder

logger = logging.getLogger(__name__)


def fitted(encoder: TextEncoder, texts: Sequence[str]) -> list[str]:
    """Cut captions behind the last token that an encoder takes; names are never cut, captions of the web must be.

    (The official code cuts at 77 tokens too, but loses the end token from which CLIP reads the sentence.)
    """
    rows = encoder.split(list(texts)) if texts else []
    return [_cut(encoder, t) if len(r.ids) > encoder.max_tokens else t for t, r in zip(texts, rows, strict=True)]


def _cut(encoder: TextEncoder, text: str) -> str:
    row = encoder.split([text])[0]
    while len(row.ids) > encoder.max_tokens:
        ends = [end for start, end in row.spans if end > start]
        room = max(encoder.max_tokens - row.special, 1)
        cut = text[: ends[room - 1]].rstrip()
        text = cut if len(cut) < len(text) else text[: len(text) // 2]
        row = encoder.split([text])[0]
    return text


def load_caption_records(
    annotations: str | Path, images: str | Path, name: str, *, budget: BadSampleBudget | None = None
) -> list[dict]:
    """Read a COCO Captions json (also Flickr30k's, in that form): a record a picture that has a caption.

    Args:
        annotations: {"images": [{"id", "file_name", "height", "width"}], "annotations": [{"image_id", "caption"}]}.
        images: the folder of the pictures.
        name: goes into "dataset_source".
        budget: how many broken captions are skipped.

    Returns:
        detectron2's dicts with "captions" and no annotations, for `TrainSource(records=..., keep_empty=True)`.

    Raises:
        DataError: for an unreadable file, a picture without size or name, more broken captions than allowed, or none at all.
    """
    annotations, folder = Path(annotations), Path(images)
    content = read_coco(annotations)
    records: dict[object, dict] = {}
    for image in content["images"]:
        sizes = (image.get("height"), image.get("width")) if isinstance(image, dict) else (None, None)
        if not all(isinstance(v, int) and v > 0 for v in sizes) or "id" not in image:
            raise DataError(f"{annotations}: the image {image!r:.120} has no usable id, height or width")
        file_name = safe_join(folder, image.get("file_name"))
        record = {"file_name": file_name, "height": sizes[0], "width": sizes[1], "image_id": image["id"]}
        records[image["id"]] = {**record, "captions": [], "annotations": [], "dataset_source": name}
    bad = (budget or BadSampleBudget()).counter(f"the captions of '{name}'", len(content["annotations"]))
    for number, raw in enumerate(content["annotations"]):
        known = isinstance(raw, dict) and raw.get("image_id") in records
        text = raw.get("caption") if known else None
        if not isinstance(text, str) or not text.strip():
            bad.add(str(number), f"caption number {number}: {raw!r:.80}")
            continue
        records[raw["image_id"]]["captions"].append(" ".join(text.split()))
    found = [r for r in records.values() if r["captions"]]
    if not found:
        raise DataError(f"{annotations} has no picture with a caption")
    return found


def captions_of(dataset: str | Iterable[dict]) -> list[str]:
    """Return all captions of a registered data set, or of records, for `build_pool`."""
    from openvocab.data import get_records

    records = get_records(dataset) if isinstance(dataset, str) else dataset
    return [caption for record in records for caption in record.get("captions", ())]
