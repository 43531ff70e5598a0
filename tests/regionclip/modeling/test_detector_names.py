"""Names of the detector: any, at any time, from a table, an encoder or a picture; others in evaluation; and what does not fit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from openvocab import Vocabulary
from openvocab.errors import PromptError, TextEncoderError, VocabularyError
from openvocab.prompting import build_caption
from openvocab.testing import tiny_clip
from openvocab.text import CLIPTextEncoder, HashedTextEncoder, TextEmbeddings, load_text_embeddings
from openvocab.text.clip import require_quick_gelu

from .tiny import DIM, NAMES, assert_same, build_tiny, detect, proposals, sample, tiny_heads, tiny_predictor, vectors

WORDS = Vocabulary.from_names(["cat", "dog", "zebra", "cup", "hot dog"])
TABLE = TextEmbeddings(vectors(len(WORDS), seed=2), WORDS)
SHARED = Path(os.environ.get("OPENVOCAB_SHARED_DATA", Path(__file__).parents[4] / "shared/data")) / "text_embeddings"


@pytest.mark.parametrize("count", [1, 2, 17, 65])
def test_any_vocabulary_at_any_time(count: int) -> None:
    model, names = build_tiny(), [f"thing {i}" for i in range(count)]
    model.set_vocabulary(names, vectors(count))
    assert model.vocabulary == Vocabulary.from_names(names)
    assert model.roi_heads.box_predictor.class_embeddings.shape == (count, DIM)
    (found,) = detect(model, sample(proposals=proposals(9)))
    assert len(found) and int(found.pred_classes.max()) < count


def test_a_text_encoder_makes_vectors_of_any_names() -> None:
    encoder = HashedTextEncoder(dim=DIM)
    model = build_tiny(text_encoder=encoder, recipe="own", vocabulary=["cat", "dog"])
    assert not any("text" in k for k in [*model.state_dict(), *dict(model.named_parameters()), *dict(model.named_modules())])
    model.set_vocabulary("cat. zebra. remote control.")
    assert model.vocabulary.names == ("cat", "zebra", "remote control")
    wanted = encoder.encode(list(model.vocabulary.prompts))
    cosine = torch.cosine_similarity(model.roi_heads.box_predictor.class_embeddings, wanted)
    assert torch.allclose(cosine, torch.ones(3), atol=1e-5)
    assert not any(p.requires_grad for p in encoder.parameters()) and not encoder.training


def test_a_picture_may_bring_names_of_its_own() -> None:
    model, x = build_tiny(text_embeddings=TABLE, vocabulary=NAMES), sample(proposals=proposals(6))
    few = Vocabulary.from_names(["hot dog", "cup"])
    own, brought, listed = detect(model, x, {**x, "vocabulary": few}, {**x, "vocabulary": ["hot dog", "cup"]})
    assert_same(brought, listed)
    assert model.vocabulary.names == NAMES
    model.set_vocabulary(few)
    assert_same(detect(model, x)[0], brought)
    model.set_vocabulary(NAMES)
    assert_same(detect(model, x)[0], own)


def test_a_captions_phrases_are_names_even_twice() -> None:
    model, x = build_tiny(text_embeddings=TABLE, vocabulary=NAMES), sample(proposals=proposals(6))
    caption = build_caption(Vocabulary.from_names(["cup", "dog"]))
    named, spoken = detect(model, {**x, "vocabulary": ["cup", "dog"]}, {**x, "caption": caption, "vocabulary": WORDS})
    assert_same(named, spoken)
    with pytest.raises(PromptError, match="'caption' must be an openvocab.prompting.Caption"):
        detect(model, {**x, "caption": "cup. dog."})


def test_names_of_evaluation() -> None:
    """Trained on some, tested on all: 48 and 65."""
    model, x = build_tiny(text_embeddings=TABLE, vocabulary=NAMES, test_vocabulary=WORDS), sample(proposals=proposals(9))
    assert model.train().roi_heads.num_classes == 3 and model.eval().roi_heads.num_classes == 5
    assert model.train()([sample(boxes=3, proposals=proposals(4))])["loss_cls"] > 0
    (found,) = detect(model, x)
    assert_same(found, detect(model, {**x, "vocabulary": WORDS})[0])
    model.set_test_vocabulary(None)
    assert detect(model, x)[0].pred_classes.max() < 3
    model.set_test_vocabulary(["hot dog"], vectors(1))
    assert model.test_vocabulary.names == ("hot dog",) and model.eval().roi_heads.num_classes == 1
    model.set_vocabulary(NAMES)
    assert model.test_vocabulary is None and model.eval().roi_heads.num_classes == 3


def test_embeddings_for_tests_that_the_predictor_was_built_with_stay() -> None:
    predictor = tiny_predictor()
    predictor.set_test_embeddings(TABLE.vectors)
    model = build_tiny(roi_heads=tiny_heads(box_predictor=predictor), text_embeddings=TABLE, vocabulary=NAMES)
    assert model.eval().roi_heads.num_classes == 5 and model.test_vocabulary is None
    named = build_tiny(roi_heads=tiny_heads(box_predictor=predictor), vocabulary=None, test_vocabulary=WORDS)
    assert named.test_vocabulary == WORDS and torch.equal(named.roi_heads.box_predictor.test_embeddings, TABLE.vectors)


def test_nameless_classes_answer_to_as_many_names() -> None:
    """A checkpoint's embeddings do not say their names; an evaluation loader that brings as many is believed."""
    model, x = build_tiny(), sample(proposals=proposals(5))
    plain, named = detect(model, x, {**x, "vocabulary": ["a", "b", "c"]})
    assert_same(plain, named)
    with pytest.raises(VocabularyError, match="no way to the vectors of 2 names"):
        detect(model, {**x, "vocabulary": ["a", "b"]})
    model.set_class_embeddings(vectors(2))
    assert len(detect(model, {**x, "vocabulary": ["a", "b"]})[0])


def test_training_takes_the_batchs_vocabulary() -> None:
    model, three = build_tiny(text_embeddings=TABLE), Vocabulary.from_names(["cup", "dog", "cat"])
    model.train()([sample(0, vocabulary=three), sample(1)])
    assert model.vocabulary == three
    with pytest.raises(VocabularyError, match="bring 2 vocabularies; a training batch has one softmax"):
        model([sample(0, vocabulary=three), sample(1, vocabulary=WORDS)])


def real_vectors(name: str) -> Tensor:
    """CLIP's vectors of a data set's names; without a name random ones stand in."""
    if not name:
        return vectors(90, 32)
    if not (SHARED / f"{name}.npy").is_file():
        pytest.skip(f"no {name}.npy below {SHARED}")
    return load_text_embeddings(SHARED / f"{name}.npy").vectors


@pytest.mark.parametrize("name", ["", "coco_clip_a+cname_rn50_manyprompt", "lvis_v1_clip_a+cname", "oid_clip_a+cname"])
def test_regions_that_are_names_are_called_so(name: str) -> None:
    """CLIP's own vectors, of up to 1203 names, differ enough at T = 0.01."""
    given = real_vectors(name)
    width = given.shape[1]
    predictor = tiny_predictor(input_dim=width, temperature=0.01, embeddings=given)
    called = predictor.classify(given * 5).argmax(dim=1)
    alike = (torch.nn.functional.normalize(given) @ torch.nn.functional.normalize(given).T).argmax(dim=1)
    assert torch.equal(called, alike) and (called == torch.arange(len(given))).float().mean() > 0.98
    with pytest.raises(VocabularyError, match=f"they are {width} wide and this model's regions 1000"):
        tiny_predictor(input_dim=1000, embeddings=given)


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_no_vocabulary() -> None:
    heads = tiny_heads(box_predictor=tiny_predictor(embeddings=None))
    model = build_tiny(roi_heads=heads)
    with pytest.raises(VocabularyError, match="no vocabulary is set"):
        detect(model, sample())
    with pytest.raises(VocabularyError, match="no vocabulary is set"):
        model.train()([sample()])
    with pytest.raises(VocabularyError, match="no way to the vectors of 3 names .cat, dog, zebra"):
        build_tiny(vocabulary=NAMES)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.ones(3, 12), "they are 12 wide and this model's regions 16"),
        (torch.ones(DIM), "one name's vector must keep two axes"),
        (torch.ones(2, DIM), r"3 names and embeddings of shape \(2, 16\): give one row a name"),
    ],
)
def test_embeddings_that_do_not_fit(given: Tensor, message: str) -> None:
    model = build_tiny()
    for put in (model.set_vocabulary, model.set_test_vocabulary):
        with pytest.raises(VocabularyError, match=message):
            put(NAMES, given)
    assert model.vocabulary is None and model.test_vocabulary is None
    with pytest.raises(VocabularyError, match="12 wide"):
        build_tiny(text_encoder=HashedTextEncoder(dim=12), recipe="own", vocabulary=NAMES)


def test_a_string_is_a_caption_and_no_list_of_letters() -> None:
    with pytest.raises(VocabularyError):
        Vocabulary.from_names("cat")
    model = build_tiny(text_embeddings=TABLE)
    model.set_vocabulary("cat")
    assert model.vocabulary.names == ("cat",) and model.roi_heads.box_predictor.class_embeddings.shape == (1, DIM)


def test_a_text_tower_with_plain_gelu() -> None:
    pytest.importorskip("open_clip")
    with pytest.raises(TextEncoderError, match="plain GELU, but OpenAI's and RegionCLIP's weights .* QuickGELU"):
        require_quick_gelu(CLIPTextEncoder(model=tiny_clip(), quick_gelu=False))
    require_quick_gelu(CLIPTextEncoder(model=tiny_clip(), quick_gelu=True))
