"""The files a user of RegionCLIP has, in small: pictures and json files, shards, official checkpoints.

The checkpoints have the official names and the structure of RN50 at width 8, and random numbers. Class embeddings are the means of
what that network makes of the true boxes, so that a detector which reads all of it rightly names these boxes rightly.
"""

from __future__ import annotations

import base64
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import open_clip
import torch
from torch import Tensor

from openvocab import Vocabulary
from openvocab.testing import ShapesWorld
from openvocab.testing.tiny import tiny_clip
from openvocab.testing.writer import write_coco

from .modeling.test_full_size import Archive
from .pretraining.pairs import write_tar
from .user_world import LONG, SHORT, TOWER, UserWorld, call
from .weights import BOX, State, prefixed, rpn_config, rpn_file

# the ten colors of ShapesWorld under names of both sets: six base and three novel ones of COCO, and one of neither group
COCO = ("person", "car", "dog", "bench", "cat", "boat", "umbrella", "horse", "train", "stop sign")
FREQUENCIES = "fffccccrrr"


def lifelike(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> State:
    """Random tensors that keep a signal's size through the layers."""
    generator = torch.Generator().manual_seed(seed)

    def make(name: str, shape: tuple[int, ...]) -> Tensor:
        x = torch.randn(shape, generator=generator)
        if name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
            return 1 + 0.1 * x.abs()
        return 0.1 * x if len(shape) < 2 else x * (2 / math.prod(shape[1:])) ** 0.5

    return {k: make(k, shape) for k, shape in shapes.items()}


def network(seed: int = 0) -> State:
    """An image tower under bare names."""
    return lifelike(TOWER.shapes(), seed)


def text_tower() -> State:
    """CLIP's text tower under bare names; the image tower's width is its D."""
    torch.manual_seed(11)
    clip = open_clip.create_model(tiny_clip(), force_quick_gelu=True)
    return {k: v for k, v in clip.state_dict().items() if not k.startswith("visual.") and k not in ("logit_scale", "attn_mask")}


def rpn(kind: str) -> State:
    """A whole Mask R-CNN whose RPN is sure of most boxes, so that fused scores are there."""
    found = {k: v.clone() for k, v in rpn_file(kind).items()}
    found["proposal_generator.rpn_head.objectness_logits.bias"] += 1.0
    return found


def inside(state: State) -> State:
    """An RPN as it stands in RegionCLIP's own checkpoints."""
    return {f"offline_{k}": v for k, v in state.items() if k.startswith(("backbone.", "proposal_generator."))}


def fine_tuned(tower: State, embeddings: dict[str, Tensor], kind: str, mask: bool = False) -> State:
    """A transfer checkpoint: class embeddings of training and tests, a zero background, boxes that stay about where they are."""
    width, channels = TOWER.embed_dim, 256
    box = {"cls_score.weight": embeddings["train"], "test_cls_score.weight": embeddings["test"]}
    box |= {"cls_bg_score.weight": torch.zeros(1, width), "bbox_pred.weight": 1e-4 * torch.randn(4, width)}
    box["bbox_pred.bias"] = torch.zeros(4)
    shapes = {"deconv.weight": (channels, 6, 2, 2), "deconv.bias": (6,), "predictor.weight": (1, 6, 1, 1), "predictor.bias": (1,)}
    masks = prefixed("roi_heads.mask_head.", lifelike(shapes, 5)) if mask else {}
    return {**prefixed("backbone.", tower), **prefixed(BOX, box), **masks, **inside(rpn(kind))}


def write_json(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def categories(names: Sequence[str]) -> dict[str, int]:
    """Ids of names, with a gap, as COCO's."""
    return {name: i + 1 if i < 11 else i + 2 for i, name in enumerate(names)}


def lvis_names() -> list[str]:
    """Ten names of LVIS by frequency."""
    words, found = Vocabulary.builtin("lvis"), []
    for mark in FREQUENCIES:
        pairs = zip(words.names, words.frequencies, strict=True)
        found.append(next(n for n, f in pairs if f == mark and n not in found))
    return found


def write_sets(root: Path, split: str, count: int) -> None:
    """Write a split of pictures, its COCO and LVIS json, and its captions."""
    world = ShapesWorld(image_size=(96, 128), num_objects=(2, 5))
    more = {"captions": 2, "referring": 0, "questions": 0}
    written = write_coco(root / "shapes", count, 3, taxonomy="color", split=split, world=world, **more)
    folder = root / "coco" / f"{split}2017"
    folder.mkdir(parents=True)
    content = json.loads(written.files["instances"].read_text())
    colors = [c["name"] for c in content["categories"]]
    for image in content["images"]:
        shutil.move(root / "shapes" / "images" / image["file_name"], folder / image["file_name"])
    for name, words, chosen in (("coco", "coco", COCO), ("lvis", "lvis", lvis_names())):
        known = Vocabulary.builtin(words)
        ids = categories(known.names)
        table = dict(zip(range(1, len(colors) + 1), (ids[n] for n in chosen), strict=True))
        rows = [{**a, "category_id": table[a["category_id"]], "segmentation": [diamond(a["bbox"])]} for a in content["annotations"]]
        named = [{"id": i, "name": n, "frequency": f} for (n, i), f in zip(ids.items(), known.frequencies, strict=True)]
        images = content["images"]
        if name == "lvis":
            images = [federated(i, rows, list(table.values()), split) for i in images]
        path = f"coco/annotations/instances_{split}2017.json" if name == "coco" else f"lvis/lvis_v1_{split}.json"
        write_json(root / path, {"images": images, "annotations": rows, "categories": named})
    captions = json.loads(written.files["captions"].read_text())
    write_json(root / f"coco/annotations/captions_{split}2017.json", captions)


def diamond(box: Sequence[float]) -> list[float]:
    """A polygon inside a box XYWH."""
    x, y, w, h = box
    return [x + w / 2, y, x + w, y + h / 2, x + w / 2, y + h, x, y + h / 2]


def federated(image: dict, rows: list[dict], chosen: list[int], split: str) -> dict:
    """An image of LVIS: its address, and which names were looked for."""
    shown = {a["category_id"] for a in rows if a["image_id"] == image["id"]}
    lists = {"neg_category_ids": [c for c in chosen if c not in shown], "not_exhaustive_category_ids": []}
    kept = {k: v for k, v in image.items() if k != "file_name"}
    return {**kept, **lists, "coco_url": f"http://images.cocodataset.org/{split}2017/{image['file_name']}"}


def write_pairs(root: Path, shards: int = 3) -> None:
    """CC3M: the training pictures with their captions, as webdataset shards and as RegionCLIP's tsv files."""
    content = json.loads((root / "coco/annotations/captions_train2017.json").read_text())
    said: dict[int, list[str]] = {}
    for row in content["annotations"]:
        said.setdefault(row["image_id"], []).append(row["caption"])
    folder = root / "cc3m"
    folder.mkdir()
    for number in range(shards):
        members, lines, texts = [], [], []
        for image in content["images"][number::shards]:
            picture, key = (root / "coco/train2017" / image["file_name"]).read_bytes(), f"{image['id']:06d}"
            members += [(f"{key}.png", picture), (f"{key}.txt", said[image["id"]][0].encode())]
            lines.append(f"{key}\t{base64.b64encode(picture).decode()}\n")
            texts.append(f"{key}\t{json.dumps({'captions': said[image['id']]})}\n")
        write_tar(folder / f"part-{number:05d}.tar", members)
        (folder / f"train_image_{number}.tsv").write_text("".join(lines))
        (folder / f"train_text_{number}.tsv").write_text("".join(texts))
    words = sorted({w for rows in said.values() for text in rows for w in text.split()})
    (root / "coco_nouns.txt").write_text("".join(f"{w},{100 + i}\n" for i, w in enumerate(words[:12])))


def region_means(root: Path, tower: State) -> tuple[Tensor, dict[str, Tensor]]:
    """What tools/extract_region_features.py makes of the true boxes: its mean over all, and over those of each name."""
    out, file = root / "first", root / "first.safetensors"
    torch.save({"model": prefixed("backbone.", tower)}, root / "first.pth")
    assert call("convert_weights", "--from", "regionclip", root / "first.pth", file) == 0
    boxes, pictures = root / "coco/annotations/instances_val2017.json", root / "coco/val2017"
    options = ["--boxes", boxes, "--input", pictures, "--output", out, "--size", SHORT, LONG, "--device", "cpu"]
    assert call("extract_region_features", "--weights", file, *options) == 0
    content = json.loads(boxes.read_text())
    names = {c["id"]: c["name"] for c in content["categories"]}
    found: dict[str, list[Tensor]] = {}
    for image in content["images"]:
        rows = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        features = torch.load(out / f"{Path(image['file_name']).stem}.pth", weights_only=True)["feats"]
        for row, vector in zip(rows, features, strict=True):
            found.setdefault(names[row["category_id"]], []).append(vector)
    mean = torch.cat([torch.stack(v) for v in found.values()]).mean(0)
    return mean, {name: torch.stack(v).mean(0) - mean for name, v in found.items()}


def embeddings_of(means: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Class embeddings of both sets, in training and in tests: what regions of these names look like, elsewhere random."""
    found, size = {}, torch.stack(list(means.values())).norm(dim=1).mean()
    for data, tested, taught, chosen in (
        ("coco", Vocabulary.builtin("coco_ovd_65"), Vocabulary.builtin("coco_ovd_48"), COCO),
        ("lvis", Vocabulary.builtin("lvis"), None, lvis_names()),
    ):
        own = dict(zip(chosen, (means.get(n) for n in COCO), strict=True))
        torch.manual_seed(2)
        rows = []
        for name in tested.names:
            other = torch.randn(TOWER.embed_dim)
            rows.append(other / other.norm() * size if own.get(name) is None else own[name])
        table = torch.stack(rows)
        marks = tested.frequencies if taught is None else tested.splits
        base = [i for i, m in enumerate(marks) if m not in ("r", "novel")]
        found[data] = {"test": table, "train": table[base]}
    return found


def write_checkpoints(root: Path) -> None:
    """Everything that is downloaded, and the class embeddings in the folder where recipes look for them."""
    given, files = root / "downloads", root / "regionclip"
    given.mkdir()
    files.mkdir()
    tower, text = network(), text_tower()
    mean, means = region_means(root, tower)
    tower["attnpool.c_proj.bias"] = tower["attnpool.c_proj.bias"] - mean  # vectors lie around zero, as far apart as can be
    embeddings = embeddings_of(means)
    teacher = prefixed("teacher_backbone.", network(1))
    pretrained = {**prefixed("backbone.", tower), **prefixed("lang_encoder.", text), **teacher, **inside(rpn("fpn"))}
    states = {
        "regionclip_pretrained-cc_rn50": pretrained,
        "regionclip_finetuned-coco_rn50": fine_tuned(tower, embeddings["coco"], "c4"),
        "regionclip_finetuned-lvis_rn50": fine_tuned(tower, embeddings["lvis"], "lsj", mask=True),
        "rpn_coco_48": rpn("c4"),
        "rpn_lvis_866": rpn("fpn"),
        "rpn_lvis_866_lsj": rpn("lsj"),
    }
    for name, state in states.items():
        torch.save({"model": state, "iteration": 1}, given / f"{name}.pth")
    torch.jit.save(torch.jit.trace(Archive({**prefixed("visual.", tower), **text}), torch.zeros(1)), str(given / "RN50.pt"))
    for data, rows in (("coco_65", "coco"), ("lvis_1203", "lvis")):
        torch.save(embeddings[rows]["test"], files / f"{data}_cls_emb.pth")
    (given / "rpn.yaml").write_text(rpn_config("c4").dump())


def make_world(root: Path) -> UserWorld:
    """Write the whole world into a folder."""
    write_sets(root, "train", 9)
    write_sets(root, "val", 4)
    write_pairs(root)
    write_checkpoints(root)
    return UserWorld(root)
