"""A detector without training, for tests: it finds plain coloured rectangles by the colour word in a name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from openvocab.prompting import build_caption
from openvocab.text import HashedTextEncoder
from openvocab.vocabulary import Vocabulary

COLOURS = {"red": (230, 30, 30), "green": (30, 200, 60), "blue": (40, 60, 230), "yellow": (240, 220, 40)}
GROUND = (128, 128, 128)


def paint(size: tuple[int, int], **boxes: tuple[int, int, int, int]) -> np.ndarray:
    """A grey picture of (height, width) with a rectangle (x1, y1, x2, y2) a colour."""
    image = np.full((*size, 3), GROUND, dtype=np.uint8)
    for colour, (x1, y1, x2, y2) in boxes.items():
        image[y1:y2, x1:x2] = COLOURS[colour]
    return image


class ColourDetector(nn.Module):
    """Honours the model contract. One box a name that holds a colour word; its score falls with the colour's place in COLOURS.

    It has one parameter, `gain`, so that weights can be loaded.
    """

    def __init__(self, *, max_tokens: int = 64, input_format: str = "RGB", vocabulary: Vocabulary | None = None) -> None:
        super().__init__()
        self.text_encoder = HashedTextEncoder(dim=8, max_tokens=max_tokens)
        self.gain = nn.Parameter(torch.ones(1))
        self.input_format, self.vocabulary = input_format, vocabulary
        self.calls: list[list[dict]] = []

    def set_vocabulary(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary

    def forward(self, batched_inputs: list[dict]) -> list[dict[str, Instances]]:
        self.calls.append(batched_inputs)
        return [{"instances": self._detect(x)} for x in batched_inputs]

    def _detect(self, x: dict) -> Instances:
        caption = x.get("caption") or build_caption(x.get("vocabulary") or self.vocabulary)
        self.text_encoder.tokenize([caption.text])
        rows = []
        for place, name in enumerate(caption.names):
            for rank, colour in enumerate(COLOURS):
                box = self._box(x["image"], colour) if colour in name.split() else None
                if box is not None:
                    rows.append((box, (0.9 - 0.1 * rank) * float(self.gain), place))
        height, width = x["image"].shape[1:]
        scale = torch.tensor([x["width"] / width, x["height"] / height]).repeat(2)
        boxes = torch.tensor([r[0] for r in rows], dtype=torch.float32).reshape(-1, 4) * scale
        return Instances(
            (x["height"], x["width"]),
            pred_boxes=Boxes(boxes),
            scores=torch.tensor([r[1] for r in rows]),
            pred_classes=torch.tensor([r[2] for r in rows], dtype=torch.int64),
        )

    def _box(self, image: Tensor, colour: str) -> list[int] | None:
        pixels = image if self.input_format == "RGB" else image.flip(0)
        near = (pixels.float() - torch.tensor(COLOURS[colour])[:, None, None]).abs().amax(0) < 60
        if not near.any():
            return None
        ys, xs = near.nonzero(as_tuple=True)
        return [int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1]


CONFIG = """
from detectron2.config import LazyCall as L
from detectron2.data import transforms as T
from openvocab.data import DatasetMapper, build_test_loader
from tests.openvocab.colours import ColourDetector

model = L(ColourDetector)(max_tokens=64)
mapper = L(DatasetMapper)(is_train=False, augmentations=[L(T.ResizeShortestEdge)(short_edge_length=96, max_size=160)])
dataloader = dict(test={"any": dict(loader=L(build_test_loader)(dataset="any", mapper=mapper))})
train = dict(init_checkpoint="")
"""


def write_config(folder: Path) -> Path:
    """Write a config of `ColourDetector` as a user's .py file (which is trusted code)."""
    path = folder / "colours.py"
    path.write_text(CONFIG)
    return path
