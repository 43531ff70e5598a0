"""The detector's promises: batches, padding, sizes, captions, names, losses."""

from __future__ import annotations

import pytest
import torch
from detectron2.structures import Boxes, Instances
from scipy.optimize import linear_sum_assignment

from openvocab.errors import ConfigError, DataError, PromptError, VocabularyError
from openvocab.prompting import Caption
from openvocab.vocabulary import Vocabulary

from .conftest import picture


def detect(model, inputs: list[dict]) -> list[Instances]:
    """Run in evaluation mode."""
    with torch.no_grad():
        return [x["instances"] for x in model.eval()(inputs)]


def same(a: Instances, b: Instances, atol: float = 1e-4) -> None:
    """Fail unless both hold the same detections; those whose scores differ by `atol` at most may stand in any order."""
    assert len(a) == len(b) and len(a) > 0
    assert torch.allclose(a.scores, b.scores, atol=atol)
    equal = (a.scores[:, None] - b.scores).abs() <= atol
    equal &= (a.pred_boxes.tensor[:, None] - b.pred_boxes.tensor).abs().amax(dim=2) <= 0.02
    equal &= a.pred_classes[:, None] == b.pred_classes
    assert bool(equal[linear_sum_assignment(~equal.numpy())].all())


def sample(height: int, width: int, names: list[str], seed: int = 0) -> dict:
    """A training input with two boxes."""
    truth = Instances((height, width))
    truth.gt_boxes = Boxes(torch.tensor([[4.0, 6.0, 60.0, 50.0], [30.0, 20.0, 90.0, 80.0]]))
    truth.gt_classes = torch.tensor([0, len(names) - 1])
    return {"image": picture(height, width, seed), "instances": truth, "vocabulary": Vocabulary.from_names(names)}


def test_a_batch_equals_its_pictures_alone(tiny) -> None:
    inputs = [
        {"image": picture(96, 128), "vocabulary": Vocabulary.from_names(["cat"])},
        {"image": picture(130, 70, 1), "vocabulary": Vocabulary.from_names(["red bus", "dog", "tree house"])},
        {"image": picture(100, 120, 2), "vocabulary": Vocabulary.from_names(["a", "b"]), "height": 50, "width": 60},
    ]
    model = tiny()
    for together, x in zip(detect(model, inputs), inputs, strict=True):
        same(together, detect(model, [x])[0])


def test_the_published_form_lets_padding_in(tiny) -> None:
    vocabulary = Vocabulary.from_names(["cat", "dog"])
    inputs = [{"image": picture(64, 64), "vocabulary": vocabulary}, {"image": picture(128, 128, 1), "vocabulary": vocabulary}]
    model = tiny(ignore_padding=False)
    together, alone = detect(model, inputs)[0], detect(model, inputs[:1])[0]
    assert not torch.allclose(together.scores[:5], alone.scores[:5], atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(37, 911), (911, 37), (33, 33)])
def test_odd_sizes_map_back(tiny, height: int, width: int) -> None:
    """A picture twice as large gives boxes twice as large; nothing leaves the picture."""
    model, image = tiny(vocabulary=["cat"]), picture(height, width)
    small = detect(model, [{"image": image, "height": height, "width": width}])[0]
    large = detect(model, [{"image": image, "height": 2 * height, "width": 2 * width}])[0]
    assert torch.allclose(small.pred_boxes.tensor * 2, large.pred_boxes.tensor, atol=0.05)
    box = small.pred_boxes.tensor
    assert box.min() >= 0 and box[:, 2].max() <= width and box[:, 3].max() <= height


def test_inclusive_boxes_are_scaled_as_the_released_code_scales_them(tiny) -> None:
    """x2_out = (x2 - 1) * r + 1 with x2 one pixel behind the last, as microsoft/GLIP's."""
    model, x = tiny(), sample(64, 96, ["cat", "dog"])
    plain = detect(model, [x])[0].pred_boxes.tensor
    model.postprocessor.inclusive_boxes = True
    same_size, smaller = (detect(model, [{**x, "height": h, "width": w}])[0].pred_boxes.tensor for h, w in ((64, 96), (48, 48)))
    assert torch.equal(plain, same_size)
    scale = torch.tensor([0.5, 0.75])
    assert torch.allclose(smaller[:, 2:], (plain[:, 2:] - 1) * scale + 1, atol=1e-4)
    assert torch.allclose(smaller[:, :2], plain[:, :2] * scale, atol=1e-4)


def test_names_may_change_order_up_to_the_text_encoder(tiny) -> None:
    """The hashed encoder gives a word the same vector anywhere, so order must not matter at all."""
    model = tiny()
    names = ["cat", "dog", "bus"]
    first = detect(model, [{"image": picture(64, 96), "vocabulary": Vocabulary.from_names(names)}])[0]
    second = detect(model, [{"image": picture(64, 96), "vocabulary": Vocabulary.from_names(names[::-1])}])[0]
    table = {(round(float(s), 4), names[c]) for s, c in zip(first.scores[:20], first.pred_classes[:20], strict=True)}
    other = {(round(float(s), 4), names[::-1][c]) for s, c in zip(second.scores[:20], second.pred_classes[:20], strict=True)}
    assert len(table & other) >= 0.9 * len(table)


def test_text_is_encoded_once_a_vocabulary(tiny) -> None:
    model = tiny(vocabulary=["cat", "dog"])
    calls = []
    model.text_encoder.register_forward_hook(lambda *_: calls.append(1))
    for seed in range(3):
        detect(model, [{"image": picture(64, 64, seed)}])
    assert len(calls) == 1
    model.set_vocabulary(["bird"])
    detect(model, [{"image": picture(64, 64)}])
    assert len(calls) == 2


def test_a_caption_grounds_its_phrases(tiny) -> None:
    caption = Caption("a man holds a red umbrella", (((2, 5),), ((14, 26),)))
    found = detect(tiny(), [{"image": picture(64, 64), "caption": caption}])[0]
    assert set(found.pred_classes.tolist()) <= {0, 1}


def test_nothing_to_look_for_is_an_error(tiny) -> None:
    with pytest.raises(VocabularyError, match="set_vocabulary"):
        detect(tiny(), [{"image": picture(64, 64)}])
    with pytest.raises(PromptError, match="Caption"):
        detect(tiny(), [{"image": picture(64, 64), "caption": "a cat"}])


def test_a_name_over_the_budget_is_refused_at_once(tiny) -> None:
    with pytest.raises(PromptError, match="62"):
        tiny().set_vocabulary(["cat", " ".join("abcdefg" * 9)])


def test_an_unknown_channel_order_is_refused(tiny) -> None:
    with pytest.raises(ConfigError, match="GRB"):
        tiny(input_format="GRB")


def test_losses_have_gradients_everywhere(tiny) -> None:
    model = tiny().train()
    losses = model([sample(96, 128, ["cat", "dog"]), sample(128, 96, ["a", "b", "c d"], 1)])
    assert set(losses) == {"loss_alignment", "loss_box", "loss_centerness"}
    assert all(v.ndim == 0 and torch.isfinite(v) for v in losses.values())
    sum(losses.values()).backward()
    idle = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == []


def test_pictures_without_boxes_train(tiny) -> None:
    empty = sample(64, 64, ["cat", "dog"])
    empty["instances"] = empty["instances"][:0]
    losses = tiny().train()([empty])
    sum(losses.values()).backward()
    assert losses["loss_box"] == 0 and losses["loss_alignment"] > 0


def test_a_box_of_a_phrase_that_is_not_there_is_refused(tiny) -> None:
    x = sample(64, 64, ["cat", "dog"])
    x["instances"].gt_classes[1] = 2
    one = {**x, "vocabulary": None, "caption": Caption("a cat here", (((2, 5),),))}
    none = {**one, "caption": Caption("a cat here", ())}
    below = sample(64, 64, ["cat", "dog"])
    below["instances"].gt_classes[0] = -1  # would be the last phrase's
    cases = {"phrase 2, .* has 2 of them": x, "phrase -1, .* has 2 of them": below, "has 1 of them": one, "has 0 of them": none}
    for message, wrong in cases.items():
        with pytest.raises(DataError, match=message):
            tiny().train()([wrong])


def test_ignored_regions_do_not_count(tiny) -> None:
    x = sample(96, 96, ["cat", "dog"])
    whole = {**x, "ignore_boxes": torch.tensor([[0.0, 0.0, 96.0, 96.0]])}
    model = tiny().train()
    assert model([whole])["loss_alignment"] < model([x])["loss_alignment"]


def test_a_few_steps_learn(tiny) -> None:
    model = tiny(deformable=False).train()
    batch = [sample(96, 128, ["cat", "dog"])]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    history = []
    for _ in range(25):
        loss = sum(model(batch).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(float(loss.detach()))
    assert min(history[-5:]) < 0.7 * history[0]
