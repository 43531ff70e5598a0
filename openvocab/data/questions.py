"""Sets of questions about pictures (VQAv2's two files, or one that holds both) and of captions, as detectron2's list of dicts."""

from __future__ import annotations

from pathlib import Path

from openvocab.errors import DataError

from .budget import BadSampleBudget
from .coco_json import image_record, read_coco, read_json


def _pictures(path: Path, images: Path, name: str) -> dict[int | str, dict]:
    """Return the pictures of a COCO json by id, as records without annotations."""
    rows = [image_record(image, images, name, path) for image in read_coco(path)["images"]]
    return {row["image_id"]: row for row in rows}


def _list_of(path: Path, key: str) -> list:
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get(key), list):
        raise DataError(f"{path} is no file of VQA: it has no list '{key}'")
    return content[key]


def load_vqa_records(
    annotations: Path,
    images: Path,
    name: str,
    *,
    pictures: Path,
    answers: Path | None = None,
    budget: BadSampleBudget | None = None,
) -> list[dict]:
    """Read questions in VQAv2's form (arXiv 1612.00837); a record a question.

    Args:
        annotations: the questions, {"questions": [{"question_id", "image_id", "question"}]}. A question may bring its one "answer",
            "answer_type" and "question_type" itself (as ShapesWorld writes them).
        images: the folder of the pictures.
        name: goes into "dataset_source".
        pictures: a COCO json that knows the pictures' files and sizes, such as captions_train2014.json.
        answers: the annotations, {"annotations": [{"question_id", "answers": [{"answer"}], "answer_type", "question_type"}]}; None
            for test sets, or where questions bring their answers.
        budget: how many broken questions are skipped.

    Returns:
        dicts with "file_name", "height", "width", "image_id", "question_id", "question", "answers" (a text an annotator; [] where
        they are unknown), "answer_type", "question_type", "annotations" [] and "dataset_source".

    Raises:
        DataError: for an unreadable file, or more broken questions than the budget allows.
    """
    known = _pictures(pictures, images, name)
    truth = {} if answers is None else {row.get("question_id"): row for row in _list_of(answers, "annotations")}
    questions = _list_of(annotations, "questions")
    bad = (budget or BadSampleBudget()).counter(f"the questions of '{name}'", len(questions))
    records = []
    for number, row in enumerate(questions):
        try:
            records.append(_question(row, known, truth if answers is not None else None))
        except DataError as error:
            bad.add(str(number), f"question number {number}: {error}")
    return records


def _question(row: object, known: dict, truth: dict | None) -> dict:
    if not isinstance(row, dict) or not isinstance(row.get("question"), str) or not row["question"].strip():
        raise DataError(f"{row!r:.80} has no 'question'")
    if row.get("image_id") not in known or "question_id" not in row:
        raise DataError(f"image_id {row.get('image_id')!r:.40} is not among the pictures, or there is no question_id")
    about = row if truth is None else truth.get(row["question_id"])
    if about is None:
        raise DataError(f"question {row['question_id']!r} has no annotation")
    return {
        **known[row["image_id"]],
        "question_id": row["question_id"],
        "question": " ".join(row["question"].split()),
        "answers": _answers(about),
        "answer_type": str(about.get("answer_type", "other")),
        "question_type": str(about.get("question_type", "")),
    }


def _answers(about: dict) -> list[str]:
    if isinstance(about.get("answer"), str):
        return [about["answer"]]
    rows = about.get("answers", [])
    try:
        return [str(a["answer"]) for a in rows]
    except (TypeError, KeyError) as error:
        raise DataError(f"the answers {rows!r:.80} are no list of {{'answer': text}}") from error


def load_caption_records(annotations: Path, images: Path, name: str, *, budget: BadSampleBudget | None = None) -> list[dict]:
    """Read a COCO captions json (arXiv 1504.00325); a record a picture.

    Args:
        annotations: {"images": [...], "annotations": [{"image_id", "caption"}]}.
        images: the folder of the pictures.
        name: goes into "dataset_source".
        budget: how many broken captions are skipped.

    Returns:
        dicts with "file_name", "height", "width", "image_id", "captions" (texts), "annotations" [] and "dataset_source"; pictures
        without a caption are left out.

    Raises:
        DataError: for an unreadable file, or more broken captions than the budget allows.
    """
    known, rows = _pictures(annotations, images, name), read_coco(annotations)["annotations"]
    bad = (budget or BadSampleBudget()).counter(f"the captions of '{name}'", len(rows))
    texts: dict[int | str, list[str]] = {}
    for number, row in enumerate(rows):
        text = row.get("caption") if isinstance(row, dict) else None
        if not isinstance(text, str) or not text.strip() or row.get("image_id") not in known:
            bad.add(str(number), f"caption number {number}: {row!r:.80} is no text of a picture of this file")
            continue
        texts.setdefault(row["image_id"], []).append(" ".join(text.split()))
    return [{**record, "captions": texts[i]} for i, record in known.items() if i in texts]
