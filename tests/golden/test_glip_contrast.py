"""Our inter-image contrast against the one recorded from microsoft/GLIP (case "shallow"): value, and gradients of its layers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from glipv2.convert import from_official, official_key
from glipv2.modeling import RegionWordContrast, Targets
from glipv2.modeling.contrast import PicturePhrases, gathered
from openvocab.io import load_into
from openvocab.testing.golden import assert_close, assert_near

from .glip_model import CHANNELS, LANG, build, load, tokens
from .test_glip import GRADIENT, LEGACY


@pytest.fixture(scope="module")
def case() -> dict:
    """The recorded training batch, and what our detector makes of it before the contrast."""
    golden = load("shallow")
    model, report, loaded = build(golden, True)
    contrast = RegionWordContrast(visual_dim=CHANNELS, lang_dim=LANG, embed_dim=64, same_text="negative")
    load_into(contrast, from_official(golden["state_dict"])[0], prefix="contrast.", min_matched=5)
    train, inputs = golden["train"], load("glip_fused")["inputs"]
    batch = tokens(train["input_ids"], (train["input_ids"] != 0).long())
    features, language = list(model.backbone(inputs["padded"]).values()), model.text_encoder(batch)
    anchors = [a.tensor for a in model.anchor_generator(features)]
    matched = [model.criterion.matcher(anchors, t["boxes"] + LEGACY) for t in train["gt"]]
    texts = [phrases(*row, batch.input_ids.shape[1]) for row in zip(train["gt"], train["od_label_of_tokens"], strict=True)]
    output = model.head(features, language, None)
    width = batch.input_ids.shape[1]
    rows = train["positive_map"][:, :width].split([len(t["boxes"]) for t in train["gt"]])
    targets = [Targets(boxes=t["boxes"] + LEGACY, token_map=r > 0) for t, r in zip(train["gt"], rows, strict=True)]
    return {
        "golden": golden, "contrast": contrast, "matched": matched, "texts": texts, "output": output, "mask": batch.attention_mask,
        "model": model, "losses": model.criterion(output, anchors, language.mask, targets),
    }  # fmt: skip


def phrases(truth: dict, labels: torch.Tensor, width: int) -> PicturePhrases:
    """All names of a caption; each token was recorded with the label it belongs to, or -1."""
    names = sorted({int(i) for i in labels.tolist() if i > 0})
    rows = torch.stack([labels[:width] == i for i in names])
    boxes = torch.tensor([names.index(int(i)) for i in truth["labels_1based"]])
    return PicturePhrases(rows, [str(i) for i in names], boxes, True)


def test_the_layers_have_a_place(case: dict) -> None:
    converted, report = from_official(case["golden"]["state_dict"])
    ours = {f"contrast.{k}" for k in case["contrast"].state_dict()}
    assert report.unexpected == [] and ours == {k for k in converted if k.startswith("contrast.")}


def test_value_and_gradients(case: dict) -> None:
    """With the released code's slips put back: the regions of each first box are lost (though counted in the mean), and words are
    taken behind the fusion."""
    contrast, output, texts = case["contrast"], case["output"], case["texts"]
    chosen = [torch.nonzero(m > 0).flatten() for m in case["matched"]]
    boxes = [t.box_phrases[m[i]] for t, m, i in zip(texts, case["matched"], chosen, strict=True)]
    counted = sum(int((m >= 0).sum()) for m in case["matched"])
    cells = torch.cat([x.flatten(2).transpose(1, 2) for x in output.pyramid], dim=1)
    regions = torch.cat([x[i] for x, i in zip(cells, chosen, strict=True)])
    regions = F.normalize(contrast.project_regions(regions), dim=-1)
    words = F.normalize(contrast.project_words(F.normalize(output.hidden, dim=-1)), dim=-1)
    loss = contrast.loss(gathered(regions, words, case["mask"], boxes, texts)) * len(regions) / counted
    assert_close("loss_inter", loss.detach(), case["golden"]["train"]["losses"]["loss_shallow_contrastive"], 1e-5)
    recorded, losses = case["golden"]["train"], case["losses"]
    for ours, theirs in (("alignment", "dot_product_token"), ("box", "reg"), ("centerness", "centerness")):
        assert_close(ours, losses[f"loss_{ours}"].detach(), recorded["losses"][f"loss_{theirs}"], 1e-4)
    (loss + sum(losses.values())).backward()
    names = {"shallow_log_scale": contrast.log_scale}
    for theirs, layer in (("image", contrast.project_regions), ("text", contrast.project_words)):
        names |= {f"shallow_contrastive_projection_{theirs}.{n}": p for n, p in layer.named_parameters()}
    for name, parameter in names.items():
        assert_near(name, parameter.grad, recorded["grads"][f"rpn.loss_evaluator.{name}"], 1e-3)
    parameters = dict(case["model"].named_parameters())
    shared = [key for key in recorded["grads"] if "shallow" not in key]
    assert len(shared) == 14
    for key in shared:
        assert_near(key, parameters[official_key(key, fused=True)].grad, recorded["grads"][key], GRADIENT)
