"""Long vocabularies: the same detections as each chunk alone, the trunk once a picture, text encoded once, memory in bounds."""

from __future__ import annotations

import pytest
import torch
from detectron2.structures import Instances
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glipv2.modeling import Chunking, Execution, SemanticPrior
from glipv2.modeling.prompts import CaptionCache
from openvocab.errors import ConfigError
from openvocab.predictor import Predictor
from openvocab.prompting import build_caption
from openvocab.text import LanguageFeatures
from openvocab.vocabulary import Vocabulary

from .conftest import picture
from .test_detector import detect, same, sample
from .test_prior import Oracle

NAMES = [f"thing {i}" for i in range(50)] + ["cat", "old red bus", "traffic light"]


def alone(model, image: torch.Tensor, vocabulary: Vocabulary) -> Instances:
    """Each chunk as a call of its own, put together by hand."""
    parts = []
    for part in model.name_chunks(vocabulary):
        found = detect(model, [{"image": image, "vocabulary": vocabulary.subset(part)}])[0]
        found.pred_classes = torch.tensor(part)[found.pred_classes]
        parts.append(found)
    found = Instances.cat(parts)
    return found[found.scores.argsort(descending=True, stable=True)]


def count(module: torch.nn.Module) -> list[int]:
    """Batch sizes of the module's runs from now on."""
    sizes: list[int] = []
    module.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0] if torch.is_tensor(inputs[0]) else inputs[0][0])))
    return sizes


@pytest.mark.parametrize("chunking", [Chunking(), Chunking(max_names=7, batch=3), Chunking(max_tokens=20, batch=1)])
@pytest.mark.parametrize("ignore_padding", [True, False])
def test_chunks_find_what_each_finds_alone(tiny, chunking: Chunking, ignore_padding: bool) -> None:
    model, vocabulary = tiny(chunking=chunking, ignore_padding=ignore_padding), Vocabulary.from_names(NAMES)
    assert [i for part in model.name_chunks(vocabulary) for i in part] == list(range(len(NAMES)))
    assert len(model.name_chunks(vocabulary)) > 2
    image = picture(96, 128)
    same(detect(model, [{"image": image, "vocabulary": vocabulary}])[0], alone(model, image, vocabulary))


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=st.integers(1, 6), max_names=st.integers(3, 60), sizes=st.lists(st.sampled_from([64, 90]), min_size=1, max_size=3))
def test_any_batch_of_pictures_and_chunks(tiny, batch: int, max_names: int, sizes: list[int]) -> None:
    """Pictures with long, short and no vocabularies share a batch."""
    model, vocabulary = tiny(chunking=Chunking(max_names=max_names, batch=batch)), Vocabulary.from_names(NAMES)
    inputs = [{"image": picture(64, size, i), "vocabulary": vocabulary} for i, size in enumerate(sizes)]
    inputs.append({"image": picture(64, 64, 9), "caption": build_caption(["cat", "dog"])})
    for x, found in zip(inputs, detect(model, inputs), strict=True):
        same(found, detect(model, [x])[0])


def test_the_trunk_runs_once_and_the_text_once(tiny) -> None:
    model, vocabulary = tiny(chunking=Chunking(max_names=10, batch=4)), Vocabulary.from_names(NAMES)
    trunk, tower, text = count(model.backbone), count(model.head.blocks[0].dynamic), []
    model.text_encoder.register_forward_hook(lambda *_: text.append(1))
    inputs = [{"image": picture(64, 64), "vocabulary": vocabulary}]
    detect(model, inputs)
    assert trunk == [1] and tower == [4, 2] and len(text) == 6
    detect(model, [*inputs, *inputs])
    assert trunk == [1, 2] and tower == [4, 2, 4, 4, 4] and len(text) == 6, "text features are kept"


def test_a_limit_over_all_chunks(tiny) -> None:
    vocabulary, image = Vocabulary.from_names(NAMES), picture(64, 96)
    everything, few = tiny(), tiny(chunking=Chunking(max_detections=5))
    found, best = (detect(m, [{"image": image, "vocabulary": vocabulary}])[0] for m in (everything, few))
    assert len(found) > everything.postprocessor.max_detections and len(best) == 5
    same(best, found[:5])
    assert (found.scores[:-1] >= found.scores[1:]).all()


def test_names_are_cut_by_number_in_the_official_protocol(tiny) -> None:
    model = tiny(chunking=Chunking(max_names=20))
    vocabulary = Vocabulary.from_names([f"n{i}" for i in range(50)])
    assert [len(p) for p in model.name_chunks(vocabulary)] == [20, 20, 10]
    assert [len(p) for p in tiny().name_chunks(vocabulary)] == [31, 19]  # 64 tokens: 2 special, a name and a full stop


def test_a_prior_speaks_in_each_chunk(tiny) -> None:
    """Its generic name has room in every prompt, and names of other chunks are not asked for."""
    scorer = Oracle()
    model = tiny(prior=SemanticPrior(scorer=scorer, top_boxes=3))
    vocabulary, image = Vocabulary.from_names(NAMES), picture(64, 96)
    found = detect(model, [{"image": image, "vocabulary": vocabulary}])[0]
    parts = model.name_chunks(vocabulary)
    assert [len(names) for names, _, _ in scorer.asked] == [len(p) for p in parts] and len(parts) > 1
    same(found, alone(model, image, vocabulary))


def test_the_predictor_leaves_cutting_to_the_model(tiny) -> None:
    p = Predictor(model=tiny(), augmentations=[], score_threshold=0.0, max_detections=30)
    trunk = count(p.model.backbone)
    image = picture(64, 96).permute(1, 2, 0).numpy()
    found = p(image, NAMES)
    assert trunk == [1] and len(found) == 30 and set(found.names) <= set(NAMES)
    assert len(p(image, NAMES[:5])) == p.model.postprocessor.max_detections, "one prompt: the model's own limit"


def test_training_names_fit_one_caption(tiny) -> None:
    from openvocab.errors import PromptError

    with pytest.raises(PromptError, match="64"):
        tiny().train()([sample(64, 64, NAMES)])


def test_the_cache_forgets_the_oldest() -> None:
    cache, calls = CaptionCache(max_tokens=10), []
    captions = [build_caption([name]) for name in "abc"]

    def encode(caption):
        calls.append(caption.text)
        return LanguageFeatures(torch.zeros(1, 4, 2), torch.ones(1, 4, dtype=torch.bool)), torch.ones(1, 4, dtype=torch.bool)

    cache.get(captions[:2], encode)
    cache.get(captions[:1], encode)
    cache.get(captions[2:], encode)  # 12 tokens: "b" goes
    cache.get(captions[:1], encode)
    assert calls == ["a", "b", "c"] and len(cache) == 2
    cache.get(captions[1:2], encode)
    assert calls[-1] == "b"


@pytest.mark.parametrize("options", [{"max_names": 0}, {"batch": 0}, {"max_tokens": -1}, {"max_detections": 0}])
def test_bad_numbers_are_refused(options: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        Chunking(**options)


# ---- execution -----------------------------------------------------------------------------------------------------


def test_other_ways_to_run_stay_near(tiny) -> None:
    plain, inputs = tiny(), [{"image": picture(64, 96), "vocabulary": Vocabulary.from_names(["cat", "red bus"])}]
    expected = detect(plain, inputs)[0]
    ordered = tiny(execution=Execution(channels_last=True))
    assert ordered.head.bbox_pred.weight.is_contiguous(memory_format=torch.channels_last)
    same(detect(ordered, inputs)[0], expected)
    rounded = detect(tiny(execution=Execution(precision="bfloat16")), inputs)[0]
    assert 0 < float((rounded.scores[:20] - expected.scores[:20]).abs().max()) < 0.02
    assert rounded.scores.dtype == rounded.pred_boxes.tensor.dtype == torch.float32


@pytest.mark.slow
def test_a_compiled_head_finds_the_same(tiny) -> None:
    """Traced and cut into graphs; "eager" then runs them as they are, so that no compiler is needed."""
    inputs = [{"image": picture(64, 96), "vocabulary": Vocabulary.from_names(["cat", "red bus"])}]
    same(detect(tiny(execution=Execution(compile=True, backend="eager")), inputs)[0], detect(tiny(), inputs)[0])


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ConfigError, match="int8"):
        Execution(precision="int8")
