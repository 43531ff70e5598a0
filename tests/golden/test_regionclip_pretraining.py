"""RegionCLIP's pretraining losses and pseudo labels against tensors recorded from microsoft/RegionCLIP."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes, Instances

from openvocab.io import load_into
from openvocab.testing.golden import assert_close, golden_path
from openvocab.text.base import Pieces
from regionclip.modeling.clip_resnet import ModifiedResNet
from regionclip.modeling.region_features import RegionFeatures
from regionclip.pretraining import CLIPTeacher, RegionCLIPPretraining
from regionclip.pretraining.losses import (
    concept_contrastive_loss,
    cosine_logits,
    distillation_loss,
    image_text_loss,
    multi_positive_loss,
)
from regionclip.pretraining.pseudo_labels import PseudoLabeller

TEMPERATURE = 0.01  # fixed in the official code
NAMES = ["P_pretrain", "P2_pretrain_septeacher", "P4_no_region_kept"]


@cache
def golden() -> dict:
    return torch.load(golden_path("regionclip/golden_tiny.pt"), weights_only=True)


@pytest.fixture(params=NAMES)
def case(request) -> dict:
    return golden()[request.param]


def test_multi_positive_loss_of_the_unit_case() -> None:
    unit = golden()["unit_mil"]
    labels = unit["labels"]
    assert_close("loss", multi_positive_loss(unit["x"], labels[:, None] == labels[None]), unit["loss"], 1e-5)


def test_losses_of_recorded_features(case: dict) -> None:
    pseudo, losses = case["pseudo"], case["losses"]
    kept, concepts = case["region_feats"][pseudo["keep_regions"]], case["concept_emb"]
    contrast = concept_contrastive_loss(kept, pseudo["target_inds"], concepts, TEMPERATURE)
    assert_close("contrast", contrast, losses["loss_concept_contrastive"], 1e-4)
    student = cosine_logits(kept, concepts, TEMPERATURE)
    assert_close("distillation", distillation_loss(student, pseudo["concept_scores"]), losses["loss_region_distill"], 1e-4)
    whole = image_text_loss(case["global_feats"], case["text_emb"], TEMPERATURE)
    assert_close("image and text", whole, losses["loss_img_txt_level"], 1e-4)


def test_the_labeller_repeats_the_recorded_labels(case: dict) -> None:
    """From the recorded probabilities, dressed as logits; what was not recorded of dropped regions fails the threshold."""
    pseudo, threshold = case["pseudo"], case["opts"]["MODEL.CLIP.CONCEPT_THRES"]
    scores = pseudo["concept_scores"]
    logits = torch.zeros(len(pseudo["keep_regions"]), scores.shape[1])  # evenly spread
    assert 1 / scores.shape[1] < threshold
    logits[pseudo["keep_regions"]] = scores.log()
    found = PseudoLabeller(threshold)(logits)
    assert torch.equal(found.keep, pseudo["keep_regions"]) and torch.equal(found.labels, pseudo["target_inds"])
    assert_close("probabilities", found.probs, scores, 1e-5)
    assert_close("embeddings", case["concept_emb"][found.labels], pseudo["target_embs"], 1e-6)
    assert_close("same label", (found.labels[:, None] == found.labels[None]).float(), pseudo["label_mtx"], 0.0)
    if threshold > 1:
        assert found.confident == 0 and found.keep.all()


class RecordedTexts(torch.nn.Module):
    """Stands for the text tower: the caption "i" has the i-th recorded vector."""

    def __init__(self, vectors: torch.Tensor) -> None:
        super().__init__()
        self.vectors, self.dim, self.max_tokens, self.identity = vectors, vectors.shape[1], 77, "recorded"

    def split(self, texts: list[str]) -> list[Pieces]:
        return [Pieces([0], [(0, len(t))], special=0) for t in texts]

    def encode(self, texts: list[str], *, normalize: bool) -> torch.Tensor:
        assert not normalize
        return self.vectors[[int(t) for t in texts]]


def tower(weights: dict) -> tuple[ModifiedResNet, RegionFeatures]:
    meta = golden()["meta"]["tiny"]
    side = meta["res"] // 32
    network = ModifiedResNet(
        blocks=meta["layers"], width=meta["width"], embed_dim=meta["embed_dim"], side=side, freeze_at=2
    )
    load_into(network, weights, strict=True)
    pooler = ROIPooler(output_size=2 * side, scales=(1 / 16,), sampling_ratio=0, pooler_type="ROIAlignV2")
    return network, RegionFeatures(pooler=pooler)


def build(case: dict) -> RegionCLIPPretraining:
    shared = golden()["shared_weights"]
    backbone, features = tower(shared["backbone"])
    teacher = CLIPTeacher(
        **dict(zip(("backbone", "region_features"), tower(shared["teacher_backbone"]), strict=True)),
        concept_embeddings=case["teacher_concept_emb"],
    )
    return RegionCLIPPretraining(
        backbone=backbone,
        region_features=features,
        text_encoder=RecordedTexts(case["text_emb"]),
        teacher=teacher,
        concept_embeddings=case["concept_emb"],
        concept_threshold=case["opts"]["MODEL.CLIP.CONCEPT_THRES"],
        sample_regions=None,  # the recorded proposals are the drawn ones
    )


def inputs(case: dict) -> list[dict]:
    images = [golden()["inputs"][name] for name in ("img1", "img2")]
    rows = []
    for i, (image, p) in enumerate(zip(images, case["proposals"], strict=True)):
        found = Instances(p["image_size"], proposal_boxes=Boxes(p["proposal_boxes"]))
        rows.append({"image": image, "captions": [str(i)], "proposals": found})
    return rows


def test_the_model_repeats_features_labels_losses_and_gradients(case: dict) -> None:
    model, batch = build(case).train(), inputs(case)
    regions, found = [], []
    model.region_features.register_forward_hook(lambda *a: regions.append(a[-1].detach()))
    labeller = model.labeller
    model.labeller = lambda *a, **k: found.append(labeller(*a, **k)) or found[-1]
    losses = model(batch)
    own = [len(x["proposals"]) for x in batch]
    parts = regions[0].split([n + 1 for n in own])  # the last of each picture is the picture
    scale = float(case["region_feats"].abs().max())
    assert_close("regions", torch.cat([p[:-1] for p in parts]) / scale, case["region_feats"] / scale, 1e-5)
    assert_close("pictures", torch.stack([p[-1] for p in parts]) / scale, case["global_feats"] / scale, 1e-5)
    assert torch.equal(found[0].keep, case["pseudo"]["keep_regions"])
    assert torch.equal(found[0].labels, case["pseudo"]["target_inds"])
    assert_close("teacher", found[0].probs, case["pseudo"]["concept_scores"], 1e-4)
    assert set(losses) == set(case["losses"])
    for name, value in case["losses"].items():
        assert_close(name, losses[name], value, 1e-4)
    sum(losses.values()).backward()
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {n for n, wanted in case["requires_grad"].items() if wanted}
    gradients = {n: p.grad.norm() for n, p in model.named_parameters() if p.grad is not None}
    largest = max(case["grad_norms"].values())
    for name, value in case["grad_norms"].items():
        # the gradient of k_proj.bias is zero but for rounding: softmax does not see it
        assert_close(name, gradients.get(name, torch.zeros(())), value, 1e-6 * largest, 1e-4)


def test_the_checkpoint_is_the_student_alone(case: dict) -> None:
    assert {k.partition(".")[0] for k in build(case).state_dict()} == {"backbone"}
