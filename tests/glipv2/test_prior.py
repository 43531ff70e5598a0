"""The semantic prior: it speaks on rare names, is silent on well-known ones, and leaves boxes alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from glipv2.modeling import SemanticPrior
from openvocab.errors import ConfigError
from openvocab.prompting import Caption
from openvocab.vocabulary import Vocabulary

from .conftest import picture


class Oracle(nn.Module):
    """Says that every region is the first name asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple] = []
        self.weight = nn.Parameter(torch.zeros(3))

    def score_regions(self, image: torch.Tensor, boxes: torch.Tensor, names: list[str], *, negatives: list[str]) -> torch.Tensor:
        self.asked.append((tuple(names), tuple(negatives), len(boxes)))
        scores = torch.full((len(boxes), len(names)), 0.01)
        scores[:, 0] = 0.9
        return scores


def run(model, names: list[str]):
    """Detect names in one picture."""
    with torch.no_grad():
        return model.eval()([{"image": picture(96, 128), "vocabulary": Vocabulary.from_names(names)}])[0]["instances"]


def test_weight_falls_with_the_number_of_boxes() -> None:
    prior = SemanticPrior(scorer=Oracle(), seen={"dog": 30, "Person": 3000}, scale=30, strength=1.0)
    assert prior.weights(Vocabulary.from_names(["cat", "dog", "person"])).tolist() == pytest.approx([1.0, 0.5, 0.0], abs=1e-3)


def test_an_unseen_name_is_found_through_the_scorer(tiny) -> None:
    scorer = Oracle()
    without, model = tiny(), tiny(prior=SemanticPrior(scorer=scorer, seen={}, negatives=["cat", "car"], top_boxes=5))
    model.load_state_dict(without.state_dict())
    found, plain = run(model, ["cat", "dog"]), run(without, ["cat", "dog"])
    assert scorer.asked[0][:2] == (("cat", "dog"), ("car",)) and scorer.asked[0][2] <= 5
    best = found[found.pred_classes == 0].scores.max()
    assert best > found[found.pred_classes == 1].scores.max()
    assert best > plain.scores.max()


def test_a_well_known_name_is_left_alone(tiny) -> None:
    scorer = Oracle()
    model, plain = tiny(prior=SemanticPrior(scorer=scorer, seen={"cat": 10**6, "dog": 10**6})), tiny()
    plain.load_state_dict(model.state_dict())
    found, expected = run(model, ["cat", "dog"]), run(plain, ["cat", "dog"])  # not even a word more in its caption
    assert scorer.asked == [] and torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(found.scores, expected.scores)


def test_captions_go_without_it(tiny) -> None:
    scorer = Oracle()
    model = tiny(prior=SemanticPrior(scorer=scorer)).eval()
    with torch.no_grad():
        model([{"image": picture(64, 64), "caption": Caption("a cat", (((2, 5),),))}])
    assert scorer.asked == []


def test_its_weights_are_not_the_detectors(tiny) -> None:
    model = tiny(prior=SemanticPrior(scorer=Oracle()))
    assert not any("prior" in k for k in model.state_dict())
    assert not any("prior" in n for n, _ in model.named_parameters())


@pytest.mark.parametrize("options", [{"strength": 1.5}, {"top_boxes": 0}])
def test_bad_options_are_refused(options: dict) -> None:
    with pytest.raises(ConfigError):
        SemanticPrior(scorer=Oracle(), **options)
