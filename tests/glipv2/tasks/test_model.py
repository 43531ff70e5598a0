"""One model for all: the detector unchanged, batches of every kind, weights of a detector alone, what was trained."""

from __future__ import annotations

import pytest
import torch

from glipv2.tasks import TASK_HEAD_REGISTRY, GLIPv2Tasks, VQAHead
from openvocab.errors import ConfigError, InputError
from openvocab.io import load_into
from openvocab.testing import run_gloo
from tests.glipv2 import test_mask_branch
from tests.glipv2.test_detector import same

from .conftest import boxes, build_detector, build_heads, build_tasks, caption, question


def test_the_heads_are_registered() -> None:
    from detectron2.modeling import META_ARCH_REGISTRY

    assert META_ARCH_REGISTRY.get("GLIPv2Tasks") is GLIPv2Tasks
    assert {name for name, _ in TASK_HEAD_REGISTRY} >= {"VQAHead", "CaptionHead"}
    assert TASK_HEAD_REGISTRY.get("VQAHead") is VQAHead


def test_the_detector_is_unchanged_by_the_heads() -> None:
    """The same detections, losses and gradients as without, alone and in a batch of all kinds."""
    alone, model = build_detector(), build_tasks()
    x = boxes()
    bare = {k: v for k, v in x.items() if k != "instances"}
    with torch.no_grad():
        expected = alone.eval()([bare, bare])
        outputs = model.eval()([question(), bare, caption(), {**bare, "task": "detection"}])
    same(outputs[1]["instances"], expected[0]["instances"], atol=0)
    same(outputs[3]["instances"], expected[1]["instances"], atol=0)
    assert "answer" in outputs[0] and "caption" in outputs[2]

    mine, theirs = model.train()([x]), alone.train()([x])
    assert set(mine) == set(theirs) and all(torch.equal(mine[k], theirs[k]) for k in theirs)
    sum(theirs.values()).backward()
    sum(mine.values()).backward()
    for (name, p), q in zip(alone.named_parameters(), model.detector.parameters(), strict=True):
        assert (p.grad is None and q.grad is None) or torch.equal(p.grad, q.grad), name


@torch.no_grad()
def test_what_is_said_is_looked_for_where_it_is_asked() -> None:
    """Links are the detections of the question's and the answer's phrases; other samples get none, and texts stay the same."""
    model = build_tasks().eval()
    asked = [{**question(seed=s, size=size), "height": 128, "width": 192} for s, size in enumerate([(64, 96), (96, 64)])]
    plain, linked = model([*asked, caption()]), model([{**x, "links": True} for x in asked] + [{**caption(), "links": True}])
    for x, before, after in zip(asked, plain, linked, strict=False):
        assert "linked" not in before and after["answer"] == before["answer"]
        assert after["linked"].text == f"{x['question']} {after['answer']}" and "circle" in " ".join(after["linked"].names)
        assert len(after["instances"]) and int(after["instances"].pred_classes.max()) < len(after["linked"].phrases)
        same(after["instances"], model.detector([{**x, "caption": after["linked"]}])[0]["instances"], atol=1e-4)


@torch.no_grad()
def test_captions_are_linked_where_they_name_something(monkeypatch: pytest.MonkeyPatch) -> None:
    model, said = build_tasks().eval(), ["a red circle", "and of the"]
    monkeypatch.setattr(model.heads["caption"], "predict", lambda _, samples: [{"caption": t, "score": 1.0} for t in said])
    first, second = model([{**caption(seed=s), "links": True} for s in range(2)])
    assert first["linked"].names[0].endswith("red circle") and len(first["instances"])
    assert second["linked"] is None and "instances" not in second
    with pytest.raises(InputError, match="leave out"):
        model.link([{"task": "count", "links": True}], [{"score": 1.0}])


def test_masks_in_the_same_batch() -> None:
    """A detector with a mask branch keeps its masks and its loss_mask."""
    detector = test_mask_branch.build()
    heads = [VQAHead(answers=["yes", "no"], lang_dim=32, channels=16, hidden_dim=8)]
    model = GLIPv2Tasks(detector=detector, heads=heads)
    x = test_mask_branch.sample(96, 128)
    losses = model.train()([x, {**question(), "answers": {"yes": 1.0}}])
    assert {"loss_mask", "loss_vqa", "loss_alignment"} <= set(losses)
    with torch.no_grad():
        found = model.eval()([{k: v for k, v in x.items() if k != "instances"}])[0]["instances"]
    assert found.pred_masks.shape[0] == len(found)


def test_a_batch_of_all_kinds_trains_everything() -> None:
    model = build_tasks().train()
    losses = model([boxes(), question(), caption(), question("is there a star ?", 1)])
    assert set(losses) == {"loss_alignment", "loss_box", "loss_centerness", "loss_vqa", "loss_caption"}
    assert all(torch.isfinite(v) and v > 0 for v in losses.values())
    sum(losses.values()).backward()
    assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]


@pytest.mark.parametrize("kinds", [(question,), (caption,), (boxes,), (boxes, caption)])
def test_what_a_batch_lacks_gets_a_gradient_of_zero(kinds: tuple) -> None:
    """In parallel training each parameter must have one on each process."""
    model = build_tasks().train()
    sum(model([make() for make in kinds]).values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_pictures_of_many_sizes_come_back_in_order() -> None:
    model = build_tasks().eval()
    samples = [question(seed=i, size=size) for i, size in enumerate([(64, 96), (96, 64), (64, 96), (40, 130)])]
    with torch.no_grad():
        together = model(samples)
        for x, output in zip(samples, together, strict=True):
            (alone,) = model([x])
            assert alone["answer"] == output["answer"] and alone["score"] == pytest.approx(output["score"], abs=1e-5)


def test_weights_say_what_they_were_trained_for() -> None:
    model = build_tasks().train()
    assert model.trained_tasks == () and model.tasks == ("detection", "vqa", "caption")
    model([question(), question("is there a star ?", 1)])
    assert model.trained_tasks == ("vqa",) and int(model.heads["vqa"].samples_seen) == 2
    model([boxes()])
    fresh = build_tasks()
    load_into(fresh, model.state_dict())
    assert fresh.trained_tasks == ("detection", "vqa")


def test_a_detectors_weights_are_taken_as_they_are() -> None:
    torch.manual_seed(5)
    alone, model = build_detector(), build_tasks()
    with torch.no_grad():
        for p in alone.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    report = load_into(model, alone.state_dict())
    assert not report.unexpected and all(n.startswith("heads.") for n in report.missing)
    assert model.trained_tasks == ("detection",)
    for (name, p), q in zip(alone.named_parameters(), model.detector.parameters(), strict=True):
        assert torch.equal(p, q), name


def test_a_yaml_config_builds_it() -> None:
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    from glipv2 import add_glipv2_config

    cfg = get_cfg()
    add_glipv2_config(cfg)
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.DEVICE = "GLIPv2Tasks", "cpu"
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.FPN.OUT_CHANNELS = "build_timm_fpn_backbone", 16
    cfg.MODEL.TIMM.NAME, cfg.MODEL.TIMM.WEIGHTS = "test_efficientnet", ""
    node = cfg.MODEL.GLIPV2
    node.NUM_BLOCKS, node.OFFICIAL, node.DEFORMABLE, node.ATTENTION_DIM, node.ATTENTION_HEADS = 1, False, False, 16, 2
    node.TEXT_ENCODER, node.LANGUAGE_HEADS, node.LANGUAGE_FFN, node.VQA_ANSWERS, node.VQA_NUM_ANSWERS = "hashed", 2, 16, "a.json", 7
    model = build_model(cfg)
    assert model.tasks == ("detection", "vqa") and model.heads["vqa"].mlp[-1].out_features == 7


def test_what_does_not_belong_together_is_refused() -> None:
    with pytest.raises(ConfigError, match="tasks vqa, vqa"):
        GLIPv2Tasks(detector=build_detector(), heads=[build_heads()[0], build_heads()[0]])
    model = GLIPv2Tasks(detector=build_detector(), heads=build_heads()[:1])
    with pytest.raises(InputError, match="no head for the task 'caption'"):
        model.eval()([caption()])


def gradients(inputs: list[dict], parallel: bool) -> dict[str, torch.Tensor]:
    """Gradients of the first step."""
    model = build_tasks().train()
    runner = torch.nn.parallel.DistributedDataParallel(model) if parallel else model
    sum(runner(inputs).values()).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}


def batch() -> list[dict]:
    """Dealt to two processes in turn: questions of different numbers on both, captions on one, boxes on the other."""
    return [boxes(), caption(), question(), question("is there a star ?", 1), boxes(1), caption("two stars on a background", 1)]


def one_rank() -> tuple[dict, dict]:
    from detectron2.utils import comm

    from openvocab.evaluation import VQAEvaluator

    rank = torch.distributed.get_rank()
    records = [{"question_id": i, "answers": ["red" if i else "blue"]} for i in range(3)]
    evaluator = VQAEvaluator(records=records)
    mine = [[0, 1], [1, 2]][comm.get_rank()]
    evaluator.process([{"question_id": i} for i in mine], [{"answer": "red"} for _ in mine])
    return gradients(batch()[rank::2], True), evaluator.evaluate()


@pytest.mark.slow
def test_two_processes_take_the_step_of_one() -> None:
    """Also where one of them has no boxes, or no captions; and their answers are evaluated together."""
    alone = gradients(batch(), False)
    (first, results), (second, nothing) = run_gloo(one_rank, world_size=2, timeout=600)
    assert nothing == {} and results["vqa"]["accuracy"] == pytest.approx(200 / 3) and results["vqa"]["questions"] == 3
    for shared in (first, second):
        for name, value in alone.items():
            off = (shared[name] - value).norm()
            assert float(off / value.norm().clamp(min=1e-3)) < 1e-3, name
