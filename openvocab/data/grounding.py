"""Grounding sets: sentences whose phrases have boxes.

Three file formats, and PhraseCut's own (see `phrasecut`), are read into the same dict: detectron2's, plus "caption" (str) and
"phrases" (for each phrase its character spans [start, end) in the caption); an annotation's "category_id" is the position of
its phrase. A box that several phrases speak of is there once for each. Boxes of a teacher bring its "score", see `scores`.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from detectron2.structures import BoxMode

from openvocab.errors import DataError, PromptError
from openvocab.prompting import Caption

from .budget import BadSampleBudget
from .coco_json import check_box, read_coco, safe_join
from .scores import check_score

logger = logging.getLogger(__name__)
Spans = tuple[tuple[int, int], ...]


def has_area(box: object) -> bool:
    """Say whether an XYXY box has an area.

    Raises:
        DataError: if it is no four finite numbers.
    """
    wrong = check_box(box)
    if wrong not in (None, "empty"):
        raise DataError(wrong)
    return box[2] > box[0] and box[3] > box[1]


def as_spans(value: object, caption: str) -> Spans:
    """Return checked spans: one [start, end) pair or a list of them.

    Raises:
        DataError: for anything else, or a span outside the caption.
    """
    pairs = [value] if isinstance(value, Sequence) and len(value) == 2 and isinstance(value[0], int) else value
    try:
        spans = tuple(sorted({(int(start), int(end)) for start, end in pairs}))
        Caption(caption, (spans,))
    except (TypeError, ValueError, PromptError) as error:
        raise DataError(f"spans {value!r:.80}: {error}") from error
    return spans


class SentenceRecord:
    """Collects the phrases and boxes of one sentence; `finish` gives the dict."""

    def __init__(
        self, *, file_name: str, height: int, width: int, image_id: int | str, caption: str, name: str
    ) -> None:
        self.base = {"file_name": file_name, "height": height, "width": width, "image_id": image_id, "caption": caption}
        self.name, self.phrases, self.annotations = name, {}, []

    def add(
        self,
        spans: Spans,
        box: Sequence[float],
        mode: BoxMode,
        crowd: bool = False,
        mask: dict | list | None = None,
        score: float | None = None,
    ) -> None:
        phrase = self.phrases.setdefault(spans, len(self.phrases))
        annotation = {"bbox": list(box), "bbox_mode": mode, "category_id": phrase, "iscrowd": int(crowd)}
        more = {"segmentation": mask or None, "score": score}
        self.annotations.append({**annotation, **{k: v for k, v in more.items() if v is not None}})

    def finish(self) -> dict:
        phrases = [[list(s) for s in spans] for spans in self.phrases]
        return {**self.base, "phrases": phrases, "annotations": self.annotations, "dataset_source": self.name}


def new_sentence(image: object, folder: Path, name: str, path: Path) -> SentenceRecord:
    """Return an empty record for an image entry with "caption", "height", "width", "file_name" (or "filename") and maybe "id".

    Raises:
        DataError: if one of them is missing or cannot be used; `path` is named as the file it comes from.
    """
    if not isinstance(image, dict) or not isinstance(image.get("caption"), str) or not image["caption"].strip():
        raise DataError(f"{path}: the image entry {image!r:.120} has no caption")
    sizes = image.get("height"), image.get("width")
    if not all(isinstance(v, int) and v > 0 for v in sizes):
        raise DataError(f"{path}: the image '{image.get('file_name')}' has no usable height or width")
    file_name = safe_join(folder, image.get("file_name", image.get("filename")))
    image_id = image.get("id", file_name)
    return SentenceRecord(
        file_name=file_name, height=sizes[0], width=sizes[1], image_id=image_id, caption=image["caption"], name=name
    )


def with_boxes(records: list[dict], path: Path) -> list[dict]:
    """Return the records; say how many have no box, and so no phrase.

    Raises:
        DataError: if none has one: nothing could be learned, or judged, from them.
    """
    without = sum(not r["annotations"] for r in records)
    if records and without == len(records):
        raise DataError(f"{path}: none of its {without} sentences has a box, so nothing is grounded; is it the right file?")
    if without:
        logger.info("%s: %d of %d sentences have no box, and teach nothing", path, without, len(records))
    return records


def load_mdetr_records(
    annotations: Path,
    images: Path,
    name: str,
    *,
    masks: Path | None = None,
    budget: BadSampleBudget | None = None,
) -> list[dict]:
    """Read a json in MDETR's form (Flickr30k Entities "separateGT", RefCOCO/+/g, PhraseCut, GoldG): one image entry a sentence.

    Args:
        annotations: the json; boxes XYWH with "tokens_positive", character spans in the image entry's "caption", and maybe
            "segmentation".
        images: the folder its file names are relative to.
        name: goes into "dataset_source".
        masks: a COCO json whose masks belong to the annotations without their own, by "original_id" (RefCOCO/+/g, whose
            files have boxes only).
        budget: how many broken annotations are skipped.

    Returns:
        dicts as described at the top; "phrases_eval" holds `tokens_positive_eval` where the file has it.

    Raises:
        DataError: for an unreadable file, an image without caption or size, or too many broken annotations.
    """
    content = read_coco(annotations)
    records = {}
    for image in content["images"]:
        record = new_sentence(image, images, name, annotations)
        if image.get("tokens_positive_eval"):
            record.base["phrases_eval"] = image["tokens_positive_eval"]
        records[record.base["image_id"]] = record
    borrowed = {} if masks is None else {a.get("id"): a.get("segmentation") for a in read_coco(masks)["annotations"]}
    bad = (budget or BadSampleBudget()).counter(f"the annotations of '{name}'", len(content["annotations"]))
    for number, raw in enumerate(content["annotations"]):
        try:
            _add_mdetr(raw, records, borrowed)
        except DataError as error:
            bad.add(str(number), f"annotation number {number}: {error}")
    return with_boxes([r.finish() for r in records.values()], annotations)


def _add_mdetr(raw: object, records: dict[object, SentenceRecord], masks: dict) -> None:
    if not isinstance(raw, dict) or raw.get("image_id") not in records:
        raise DataError(f"{raw!r:.60} belongs to no image")
    record, wrong = records[raw["image_id"]], check_box(raw.get("bbox"))
    if wrong == "empty":
        return
    if wrong:
        raise DataError(wrong)
    spans = as_spans(raw.get("tokens_positive"), record.base["caption"])
    mask = raw.get("segmentation") or masks.get(raw.get("original_id"))
    record.add(spans, raw["bbox"], BoxMode.XYWH_ABS, bool(raw.get("iscrowd", 0)), mask)


def find_phrase(phrase: str, caption: str) -> Spans:
    """Return where a phrase stands in a caption as whole words, without regard to case.

    Raises:
        DataError: if it does not.
    """
    match = re.search(rf"(?<!\w){re.escape(phrase.strip())}(?!\w)", caption, flags=re.IGNORECASE)
    if not phrase.strip() or match is None:
        raise DataError(f"the phrase '{phrase}' is not in the caption '{caption[:80]}'")
    return (match.span(),)


def _lines(path: Path) -> Iterator[tuple[int, dict]]:
    if not path.is_file():
        raise DataError(f"there is no annotation file {path}")
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, json.loads(line)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"the annotation file {path} cannot be read as json lines: {error}") from error


def load_odvg_records(
    annotations: Path, images: Path, name: str, *, budget: BadSampleBudget | None = None
) -> list[dict]:
    """Read json lines in ODVG's form (Grounding DINO's trainers): {"filename", "height", "width", "grounding":
    {"caption", "regions": [{"bbox": XYXY pixels, "phrase": a text or a list of texts, maybe "tokens_positive" and "score"}]}}.

    Args: and Returns: as `load_mdetr_records`.

    Raises:
        DataError: for an unreadable file, a line of the detection kind (register those as COCO json), or too many
        broken regions.
    """
    rows = list(_lines(annotations))
    bad = (budget or BadSampleBudget()).counter(f"the lines of '{name}'", len(rows))
    records = []
    for number, row in rows:
        grounding = row.get("grounding") if isinstance(row, dict) else None
        if not isinstance(grounding, dict):
            raise DataError(f"{annotations}, line {number}: no 'grounding' part; register detection data as COCO json")
        record = new_sentence(
            {**row, "caption": grounding.get("caption"), "id": row.get("id", number)}, images, name, annotations
        )
        for region in grounding.get("regions", []):
            try:
                _add_region(region, record)
            except DataError as error:
                bad.add(f"{number}", f"line {number}: {error}")
        records.append(record.finish())
    return with_boxes(records, annotations)


def _add_region(region: object, record: SentenceRecord) -> None:
    box = region.get("bbox") if isinstance(region, dict) else None
    if not has_area(box):
        return
    caption, score = record.base["caption"], check_score(region.get("score"))
    if region.get("tokens_positive"):
        record.add(as_spans(region["tokens_positive"], caption), box, BoxMode.XYXY_ABS, score=score)
        return
    phrases = region.get("phrase")
    for phrase in [phrases] if isinstance(phrases, str) else phrases or [""]:
        record.add(find_phrase(str(phrase), caption), box, BoxMode.XYXY_ABS, score=score)
