"""GLIPv2 in ShapesWorld, one seed: detectors of the plugin's own parts, trained from nothing on sentences and on lists of names."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from regionclip_fitting import batches, fit
from torch import nn

from glipv2.modeling import (
    BiAttention,
    GLIPv2,
    GLIPv2Block,
    GLIPv2Head,
    GroundingCriterion,
    GroundingPostProcessor,
    LanguageLayer,
    RegionWordAlignment,
    VisionLanguageFusion,
)
from openvocab.data import DatasetMapper, PromptSampler, get_records
from openvocab.data.randomness import seeded
from openvocab.evaluation import COCOOVDEvaluator, Flickr30kEvaluator, evaluate
from openvocab.modeling import ATSSMatcher, DyHeadBlock
from openvocab.testing import ShapesWorld, TinyBackbone, get_taxonomy
from openvocab.testing.records import to_grounding_record, to_model_input
from openvocab.testing.referring import referring_of
from openvocab.testing.relations import RELATIONS
from openvocab.testing.writer import register_shapes, write_coco
from openvocab.text import LanguageFeatures, TextEncoder
from openvocab.text.base import Pieces, TokenBatch

_number = itertools.count()  # of data set names in this process
RATE = 2e-3
SIDE, CHANNELS, WORDS, BLOCKS = 64, 48, 96, 2
COLORS, SHAPES = ("red", "blue", "yellow", "green"), ("circle", "square", "triangle", "star", "heart")
WORLD = ShapesWorld(
    image_size=SIDE, sizes=("large",), colors=COLORS, shapes=SHAPES, backgrounds=("plain", "shaded"), max_overlap=0.1
)
SENTENCES = replace(WORLD, num_objects=(6, 6), sizes=("medium",), needs_sentence=True)
PAIRS = replace(WORLD, num_objects=(2, 4))
NOVEL = ("red square", "blue star", "yellow circle", "green heart", "red triangle")
TAXONOMY = get_taxonomy("color_shape").keep([f"{c} {s}" for c in COLORS for s in SHAPES]).with_novel(NOVEL)
HELD_OUT = frozenset(tuple(name.split()) for name in NOVEL)
FUSION = {"deep fusion": (True, True), "no fusion": (False, True), "late fusion": (False, False)}  # attention, language layers
CONTRAST = {"contrast": True, "no contrast": False}


@dataclass(frozen=True)
class Budget:
    """Pictures of each set, and steps of each training."""

    sentences: int = 2000
    pairs: int = 1000
    test: int = 300
    sentence_steps: int = 800
    pair_steps: int = 600
    batch: int = 24


QUICK = Budget(sentences=12, pairs=12, test=6, sentence_steps=2, pair_steps=2, batch=4)


class KeptText(TextEncoder):
    """A frozen encoder that encodes every text once; its features in fewer dimensions, their principal directions over some texts.

    Args:
        encoder: the encoder.
        dim: how many directions.
        texts: that span them; None: features as they are.
    """

    def __init__(self, encoder: TextEncoder, *, dim: int = 0, texts: Sequence[str] | None = None) -> None:
        super().__init__()
        object.__setattr__(self, "encoder", encoder)  # no part of the detector's weights
        self.dim, self.max_tokens, self.pad_id = dim or encoder.dim, encoder.max_tokens, encoder.pad_id
        self.identity, self.frozen = encoder.identity, True
        self._kept: dict[tuple[int, ...], torch.Tensor] = {}
        self.basis: torch.Tensor | None = None
        if texts is not None:
            tokens = encoder.tokenize(texts)
            with torch.no_grad():
                words = encoder(tokens).hidden[tokens.attention_mask]
            self.basis = torch.linalg.svd(words - words.mean(dim=0), full_matrices=False).Vh[: self.dim].T.contiguous()

    def split(self, texts: list[str]) -> list[Pieces]:
        return self.encoder.split(texts)

    @torch.no_grad()
    def forward(self, tokens: TokenBatch) -> LanguageFeatures:
        keys = [tuple(row[m].tolist()) for row, m in zip(tokens.input_ids, tokens.attention_mask, strict=True)]
        for key in {k for k in keys if k not in self._kept}:
            ids = torch.tensor([key])
            mask = torch.ones_like(ids, dtype=torch.bool)
            words = self.encoder(TokenBatch(ids, mask, torch.zeros(*ids.shape, 2))).hidden[0]
            self._kept[key] = words if self.basis is None else words @ self.basis
        hidden = nn.utils.rnn.pad_sequence([self._kept[k] for k in keys], batch_first=True)
        return LanguageFeatures(hidden=hidden, mask=tokens.attention_mask)


def build_detector(text: TextEncoder, *, fusion: bool = True, language: bool = True, contrast: nn.Module | None = None) -> GLIPv2:
    """Build a detector of two levels, with strides 8 and 16.

    Args:
        text: gives the words, of its width.
        fusion: cells and words attend to each other in every block.
        language: a language layer in every block; without it (and without fusion) cells are compared with the words as the text
            encoder gives them: GLIP-A.
        contrast: inter-image loss.
    """
    coder = Box2BoxTransform((10.0, 10.0, 5.0, 5.0))

    def fused() -> VisionLanguageFusion:
        attention = BiAttention(visual_dim=CHANNELS, lang_dim=text.dim, embed_dim=64, num_heads=4, dropout=0.0)
        return VisionLanguageFusion(attention=attention, visual_dim=CHANNELS, lang_dim=text.dim, init_scale=1 / BLOCKS)

    blocks = [
        GLIPv2Block(
            dynamic=DyHeadBlock(channels=CHANNELS, num_groups=8, deformable=False),
            fusion=fused() if fusion else None,
            language=LanguageLayer(dim=text.dim, num_heads=4, ffn_dim=192, dropout=0.0) if language else None,
        )
        for _ in range(BLOCKS)
    ]
    return GLIPv2(
        backbone=TinyBackbone(channels=CHANNELS, first=3, last=4, groups=8),
        text_encoder=text,
        head=GLIPv2Head(
            blocks=blocks,
            alignment=RegionWordAlignment(channels=CHANNELS, lang_dim=text.dim),
            channels=CHANNELS,
            num_levels=2,
            fused_words=fusion or language,
        ),
        anchor_generator=DefaultAnchorGenerator(sizes=[[20], [32]], aspect_ratios=[1.0], strides=[8, 16], offset=0.5),
        criterion=GroundingCriterion(matcher=ATSSMatcher(topk=4), box2box_transform=coder),
        postprocessor=GroundingPostProcessor(box2box_transform=coder, score_threshold=0.001),
        pixel_mean=[127.0] * 3,
        pixel_std=[64.0] * 3,
        contrast=contrast,
    )


class Sentences:
    """Referring expressions that need the sentence: "the red circle left of the blue square", where there are more red circles.

    Args:
        seed: of the pictures, the weights and the order of both.
        text: gives the words.
        budget: how much of everything.
    """

    def __init__(self, seed: int, text: TextEncoder, budget: Budget) -> None:
        self.seed, self.text, self.budget = seed, text, budget
        self.train = [to_model_input(r) for r in self.records("train", budget.sentences)]
        self.test = self.records("test", budget.test)

    def records(self, split: str, pictures: int) -> list[dict]:
        """Return a grounding record for each expression."""
        world, found = replace(SENTENCES, seed=self.seed, split=split), []
        for scene in world.scenes(pictures):
            for expression in (e for e in referring_of(scene) if e.needs_sentence):
                found.append({**to_grounding_record(scene, expression), "image_id": len(found)})
        return found

    def measured(self, arm: str) -> dict[str, float]:
        """Train and judge a detector: recall@1 of the things meant, and of the landmarks, whose noun says all."""
        torch.manual_seed(self.seed)
        fusion, language = FUSION[arm]
        model = build_detector(self.text, fusion=fusion, language=language)
        fit(model, self.train, steps=self.budget.sentence_steps, batch=self.budget.batch, lr=RATE, seed=self.seed)
        inputs = batches([to_model_input(r) for r in self.test])
        result = {}
        for name, place in (("target", 0), ("landmark", 1)):
            asked = [{**r, "phrases_eval": [r["phrases"][place]]} for r in self.test]
            found = evaluate(model, inputs, Flickr30kEvaluator(records=asked), progress=False)
            result[f"sentences: {name}"] = found["recall_any"]["R@1"]
        return result


class Pairs:
    """Colored shapes by name; five pairs of a color and a shape are in no training picture, each color and shape is.

    Args:
        folder: where pictures are written.
        seed, text, budget: as for `Sentences`.
    """

    def __init__(self, folder: Path, seed: int, text: TextEncoder, budget: Budget) -> None:
        self.seed, self.text, self.budget, self.number = seed, text, budget, next(_number)
        more = {"captions": 0, "referring": 0, "questions": 0, "taxonomy": TAXONOMY}
        for split, count, excluded in (("train", budget.pairs, HELD_OUT), ("test", budget.test, frozenset())):
            world = replace(PAIRS, excluded_pairs=excluded)
            register_shapes(self.name(split), write_coco(folder, count, seed, split=split, world=world, **more))

    def name(self, split: str) -> str:
        """Return the name of a split's data set."""
        return f"glipv2_claims_{self.number}_{split}"

    @cached_property
    def train(self) -> list[dict]:
        """Training pictures with prompts of up to six names: those that are there, and others, none of them novel."""
        mapper = DatasetMapper(is_train=True, exclude_names=NOVEL, prompt=PromptSampler(max_names=6))
        with seeded(self.seed, "prompts"):
            return [x for x in map(mapper, get_records(self.name("train"))) if x is not None]

    def measured(self, arm: str) -> dict[str, float]:
        """Train and judge a detector: AP50 of the unseen pairs and of the others, all twenty names asked for."""
        from glipv2.modeling.contrast import RegionWordContrast

        torch.manual_seed(self.seed)
        contrast = RegionWordContrast(visual_dim=CHANNELS, lang_dim=self.text.dim, embed_dim=64) if CONTRAST[arm] else None
        torch.manual_seed(self.seed)  # both arms begin with the same weights
        model = build_detector(self.text, contrast=contrast)
        fit(model, self.train, steps=self.budget.pair_steps, batch=self.budget.batch, lr=RATE, seed=self.seed)
        mapper = DatasetMapper(is_train=False)
        inputs = batches([mapper(r) for r in get_records(self.name("test"))])
        evaluator = COCOOVDEvaluator(self.name("test"), drop_empty=False)
        found = evaluate(model, inputs, evaluator, progress=False)["bbox_ovd"]
        return {"pairs: AP50 unseen": found["AP50_novel"], "pairs: AP50 seen": found["AP50_base"]}


def word_texts() -> list[str]:
    """Texts that hold all words of both worlds: every name, and every relation between some."""
    names = list(TAXONOMY.names)
    pairs = list(zip(names, names[7:] + names[:7], strict=True))
    return [*names, *(f"the {a} {words} the {b}" for words in RELATIONS for a, b in pairs), ". ".join(names)]
