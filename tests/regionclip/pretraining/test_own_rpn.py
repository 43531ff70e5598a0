"""Pretraining on proposals of our own RPN, the network of configs/regionclip/quick/shapes_rpn.py: from it, frozen, held aside."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from omegaconf import DictConfig
from torch import Tensor

from openvocab.config import load_config
from openvocab.errors import WeightsError
from regionclip.modeling import OfflineProposals, build_offline_rpn
from regionclip.pretraining import RegionCLIPPretraining, WithWeights

from ..user_world import call, train_net
from .tiny import batch, student

RPN = "regionclip/quick/shapes_rpn"
COUNT = 9


def rpn_config() -> DictConfig:
    return load_config(RPN).model


def offline() -> dict:
    """Arguments of `build_offline_rpn` for that network."""
    cfg = rpn_config()
    return {"post_nms_topk": COUNT, **{k: cfg[k] for k in ("kind", "stem_channels", "width_per_group", "res2_channels")}}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of that config, as the trainer writes it, converted; boxes lie near anchors, and norms have seen something."""
    torch.manual_seed(0)
    folder, network = tmp_path_factory.mktemp("rpn"), instantiate(rpn_config())
    network.proposal_generator.rpn_head.anchor_deltas.weight.data *= 1e-3
    for name, value in network.state_dict().items():
        if "running_var" in name:
            value.uniform_(0.5, 1.5)
        elif "running_mean" in name:
            value.uniform_(-0.1, 0.1)
    torch.save({"model": network.state_dict(), "iteration": 1}, folder / "model_final.pth")
    file = folder / "rpn.safetensors"
    assert call("convert_weights", "--from", "regionclip-rpn", folder / "model_final.pth", file) == 0
    return file


def with_rpn(weights: Path) -> RegionCLIPPretraining:
    network = WithWeights(network=build_offline_rpn(**offline()), weights=weights, prefix="offline_rpn.")
    return student(proposals=network, sample_regions=5)


def alone(weights: Path) -> OfflineProposals:
    """The RPN by itself."""
    from openvocab.io import load_into, load_weights

    network = build_offline_rpn(**offline())
    load_into(network, load_weights(weights).tensors, prefix="offline_rpn.", strict=True)
    return network


def copy(model: torch.nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


def test_regions_are_drawn_among_its_proposals(weights: Path) -> None:
    model, rows, seen = with_rpn(weights).train(), batch(), []
    inner = model.teacher.region_logits
    model.teacher.region_logits = lambda images, proposals: seen.append(proposals) or inner(images, proposals)
    losses = model([{k: v for k, v in x.items() if k != "proposals"} for x in rows])
    assert len(losses) == 3 and all(torch.isfinite(v) for v in losses.values())
    wanted = alone(weights)([x["image"] for x in rows])
    for own, drawn in zip(wanted, seen[0], strict=True):
        assert 1 < len(own) <= COUNT and len(drawn) == min(len(own), 5)
        distance = (drawn.proposal_boxes.tensor[:, None] - own.proposal_boxes.tensor[None]).abs().amax(2)
        near, place = distance.min(1)
        assert near.max() < 1e-3 and len(place.unique()) == len(place)
        assert torch.allclose(drawn.objectness_logits, own.objectness_logits[place], atol=1e-4)


def test_it_stays_as_it_is_and_outside_the_student(weights: Path) -> None:
    model = with_rpn(weights).train()
    rows = [{k: v for k, v in x.items() if k != "proposals"} for x in batch()]
    model(rows)  # reads the file
    rpn, before = model.proposals.network, copy(model.proposals)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        sum(model(rows).values()).backward()
        optimizer.step()
    assert not rpn.training and not any(m.training for m in rpn.modules())
    assert all(p.grad is None and not p.requires_grad for p in rpn.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.proposals.state_dict().items())
    assert {k.partition(".")[0] for k in model.state_dict()} == {"backbone"}
    assert not {id(p) for p in rpn.parameters()} & {id(p) for p in model.parameters()}


def test_the_quick_pretraining_on_its_proposals(weights: Path, tmp_path: Path) -> None:
    """The whole config through the trainer: the truth cannot teach such boxes, the student's own start does."""
    path = tmp_path / "own_rpn.py"
    path.write_text(CONFIG.format(weights=str(weights), count=COUNT))
    small = ["train.max_iter=2", "train.eval_period=-1", "dataloader.train.total_batch_size=2"]
    assert train_net(path, *small, out=tmp_path / "run") == 0
    saved = torch.load(tmp_path / "run" / "model_final.pth", weights_only=True)
    assert {k.partition(".")[0] for k in saved["model"]} == {"backbone"}
    assert "random weights" not in (tmp_path / "run" / "log.txt").read_text()


def test_a_file_of_another_rpn_is_named(weights: Path, tmp_path: Path) -> None:
    other = build_offline_rpn(**{**offline(), "res2_channels": 16})
    model = student(proposals=WithWeights(network=other, weights=weights, prefix="offline_rpn."))
    with pytest.raises(WeightsError, match="these weights do not fit exactly"):
        model.train()(batch())
    model = student(proposals=WithWeights(network=other, weights=tmp_path / "absent.safetensors", prefix="offline_rpn."))
    with pytest.raises(WeightsError, match="there is no weight file .*absent.safetensors"):
        model.train()(batch())


CONFIG = """
from detectron2.config import LazyCall as L
from openvocab.config import load_config
from regionclip.modeling import build_offline_rpn
from regionclip.pretraining import CLIPTeacher, WithWeights, embed_concepts

_cfg = load_config("regionclip/quick/shapes_pretrain")
_rpn = load_config("regionclip/quick/shapes_rpn").model
model, dataloader, train = _cfg.model, _cfg.dataloader, _cfg.train
optimizer, lr_multiplier = _cfg.optimizer, _cfg.lr_multiplier
model.proposals = L(WithWeights)(
    network=L(build_offline_rpn)(
        post_nms_topk={count}, **{{k: _rpn[k] for k in ("kind", "stem_channels", "width_per_group", "res2_channels")}}
    ),
    weights="{weights}",
    prefix="offline_rpn.",
)
model.teacher = L(CLIPTeacher)(
    backbone=model.backbone,
    region_features=model.region_features,
    concept_embeddings=L(embed_concepts)(pool=model.concepts, encoder=model.text_encoder, recipe="own"),
    temperature=0.1,
)
dataloader.train.sources[0].mapper.given = None
"""
