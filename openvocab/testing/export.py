"""Scenes as the tables of json files."""

from __future__ import annotations

from collections.abc import Sequence

from .language import GroundedText, caption_of
from .questions import ANSWERS, questions_of
from .records import Rule, annotate, box_of, encode_mask
from .referring import Referring, referring_of
from .relations import RELATIONS, relations_of
from .scenes import Scene
from .taxonomies import Taxonomy


def _coco(categories: list[dict]) -> dict:
    return {"info": {"description": "ShapesWorld"}, "images": [], "annotations": [], "categories": categories}


class Tables:
    """Collects scenes; `contents` are the json files' contents.

    Args:
        names: the categories.
        labelled: the same ones or fewer; objects of the others get no box.
        rule: the box rule.
        language: write captions, grounding, referring expressions and questions.
        captions, referring, questions: most of each for one picture.
    """

    def __init__(
        self,
        names: Taxonomy,
        labelled: Taxonomy,
        rule: Rule,
        *,
        language: bool = True,
        captions: int = 2,
        referring: int = 3,
        questions: int = 6,
    ) -> None:
        self.labelled, self.rule = labelled, rule
        self.most = {"captions": captions, "referring": referring, "questions": questions} if language else {}
        self.ids = [names.names.index(n) + 1 for n in labelled.names]
        categories = [
            {"id": i + 1, "name": name, "supercategory": names.name, **({"split": split} if split else {})}
            for i, (name, split) in enumerate(zip(names.names, names.splits, strict=True))
        ]
        phrase = [{"id": 1, "name": "object"}]
        self.instances = {**_coco(categories), "predicates": list(RELATIONS), "relations": []}
        self.captions, self.grounding, self.referring = _coco([]), _coco(phrase), _coco(phrase)
        self.questions = {"info": {"description": "ShapesWorld"}, "answers": list(ANSWERS), "questions": []}

    def contents(self) -> dict[str, dict]:
        """Return kind -> content."""
        result = {"instances": self.instances}
        if self.most:
            result |= {"captions": self.captions, "grounding": self.grounding}
            result |= {"referring": self.referring, "questions": self.questions}
        return result

    def add(self, scene: Scene, file_name: str) -> None:
        """Add a scene whose picture is in `file_name`."""
        height, width = scene.image.shape[:2]
        image = {"id": scene.index + 1, "file_name": file_name, "height": height, "width": width}
        self._add_instances(scene, image)
        if self.most:
            texts = [caption_of(scene, n) for n in range(self.most["captions"])]
            self._add_captions(texts, image)
            self._add_sentences(self.grounding, scene, [t for t in texts if t.phrases], image)
            self._add_sentences(self.referring, scene, referring_of(scene, self.most["referring"]), image)
            self._add_questions(scene, image)

    def _add_instances(self, scene: Scene, image: dict) -> None:
        table, place = self.instances["annotations"], {}
        self.instances["images"].append({**image, "background": scene.background})
        for annotation in annotate(scene, self.labelled, self.rule):
            del annotation["bbox_mode"]
            place[annotation.pop("object")] = len(table) + 1
            annotation["category_id"] = self.ids[annotation["category_id"]]
            table.append({"id": len(table) + 1, "image_id": image["id"], **annotation})
        for i, words, j in relations_of(scene.objects):
            if i in place and j in place:
                relation = {"image_id": image["id"], "subject": place[i], "predicate": words, "object": place[j]}
                self.instances["relations"].append(relation)

    def _add_captions(self, texts: Sequence[GroundedText], image: dict) -> None:
        table = self.captions["annotations"]
        self.captions["images"].append(image)
        for text in texts:
            table.append({"id": len(table) + 1, "image_id": image["id"], "caption": text.text})

    def _add_sentences(self, table: dict, scene: Scene, texts: Sequence[GroundedText], image: dict) -> None:
        """MDETR's form: one image entry a sentence, a box for every object of every phrase."""
        for text in texts:
            # what is asked for: the target of a referring expression, every phrase of a caption
            asked = text.spans[:1] if isinstance(text, Referring) else text.spans
            entry = {"caption": text.text, "tokens_positive_eval": asked, "original_id": image["id"]}
            if isinstance(text, Referring):
                entry |= {"needs_sentence": text.needs_sentence, "relation": text.relation}
            table["images"].append({**image, **entry, "id": len(table["images"]) + 1})
            for phrase in text.phrases:
                for i in phrase.objects:
                    self._add_box(table, scene, i, [[phrase.start, phrase.end]])

    def _add_box(self, table: dict, scene: Scene, position: int, spans: list[list[int]]) -> None:
        x0, y0, x1, y1 = box_of(scene.objects[position], self.rule)
        table["annotations"].append(
            {
                "id": len(table["annotations"]) + 1,
                "image_id": len(table["images"]),
                "category_id": 1,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": int(scene.objects[position].visible.sum()),
                "iscrowd": 0,
                "segmentation": encode_mask(scene.objects[position].visible),
                "tokens_positive": spans,
            }
        )

    def _add_questions(self, scene: Scene, image: dict) -> None:
        table = self.questions["questions"]
        for question in questions_of(scene, self.most["questions"]):
            table.append(
                {
                    "question_id": len(table) + 1,
                    "image_id": image["id"],
                    "file_name": image["file_name"],
                    "question": question.text,
                    "answer": question.answer,
                    "answer_type": question.answer_type,
                    "question_type": question.kind,
                }
            )
