"""One detector and any of the understanding tasks, from one set of weights (GLIPv2, arXiv 2206.05836)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping, Sequence

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils import comm
from torch import Tensor, nn

from glipv2.modeling.detector import GLIPv2
from openvocab.errors import ConfigError, InputError, nearest
from openvocab.prompting import phrases_of_answer, phrases_of_caption
from openvocab.text import TextEncoder
from openvocab.vocabulary import Vocabulary

from .config import heads_from_config
from .heads import TaskHead

DETECTION = "detection"


@META_ARCH_REGISTRY.register()
class GLIPv2Tasks(nn.Module):
    """A `GLIPv2` that also answers questions and writes captions, as far as it has heads.

    A sample says its task under "task"; without, or with "detection", it is the detector's. A batch may hold all kinds. The heads
    change nothing of what the detector does. Weights of a `GLIPv2` alone are taken as those of the detector.

    Args:
        detector: a `GLIPv2`, maybe with a mask branch.
        heads: `TaskHead`s, one a task; in here they are named by it.

    Raises:
        ConfigError: for two heads of one task, or one that cannot stand on this detector.
    """

    @configurable
    def __init__(self, *, detector: GLIPv2, heads: Sequence[TaskHead]) -> None:
        super().__init__()
        named = {head.task: head for head in heads}
        if len(named) < len(heads) or DETECTION in named:
            tasks = ", ".join(head.task for head in heads)
            raise ConfigError(f"heads for the tasks {tasks}: give one a task, and none for {DETECTION}")
        for head in heads:
            head.check(detector)
        self.detector, self.heads = detector, nn.ModuleDict(named)
        self.register_buffer("samples_seen", torch.zeros((), dtype=torch.int64))  # by the detector

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Read a yaml config that `add_glipv2_config` has prepared."""
        return {"detector": (detector := GLIPv2(cfg)), "heads": heads_from_config(cfg, detector)}

    # ---- what the predictor and the training loop ask of a detector -----------------------------------------------

    @property
    def device(self) -> torch.device:
        return self.detector.device

    @property
    def text_encoder(self) -> TextEncoder:
        return self.detector.text_encoder

    @property
    def vocabulary(self) -> Vocabulary | None:
        return self.detector.vocabulary

    @property
    def input_format(self) -> str:
        return self.detector.input_format

    @property
    def separator(self) -> str:
        return self.detector.separator

    def set_vocabulary(self, vocabulary: Vocabulary | Sequence[str] | str) -> None:
        """As `GLIPv2.set_vocabulary`."""
        self.detector.set_vocabulary(vocabulary)

    def name_chunks(self, vocabulary: Vocabulary) -> list[list[int]]:
        """As `GLIPv2.name_chunks`."""
        return self.detector.name_chunks(vocabulary)

    @property
    def tasks(self) -> tuple[str, ...]:
        """What this model has parts for."""
        return (DETECTION, *self.heads)

    @property
    def trained_tasks(self) -> tuple[str, ...]:
        """What its weights have seen samples of in training."""
        seen = {DETECTION: self.samples_seen, **{name: head.samples_seen for name, head in self.heads.items()}}
        return tuple(name for name, count in seen.items() if int(count) > 0)

    def before_load(self, tensors: MutableMapping[str, Tensor], prefix: str) -> None:
        """Take the names of a detector alone as those of the detector in here; its training counts as seen."""
        own = self.detector.state_dict()
        if any(k.startswith(f"{prefix}detector.") for k in tensors) or not any(f"{prefix}{k}" in tensors for k in own):
            return
        for key in [k for k in tensors if k.removeprefix(prefix) in own]:
            tensors[f"{prefix}detector.{key.removeprefix(prefix)}"] = tensors.pop(key)
        tensors[f"{prefix}samples_seen"] = torch.ones((), dtype=torch.int64)

    # ---- samples --------------------------------------------------------------------------------------------------

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """Answer, write, detect; or in training return the losses.

        Args:
            batched_inputs: a dict a sample, `image` (3, H, W) and its "task":
                None or "detection": as `GLIPv2` takes it;
                "vqa": `question`, and in training `answers`, {answer: score 0..1};
                "caption": in training `sentence`;
                the last two: `links`, True to look for what was said (see `link`).

        Returns:
            in training a dict of scalars: the detector's losses and one of each head, for the tasks that the batch holds; else a
            dict a sample, in order: {"instances"}, {"answer", "score", "candidates"} or {"caption", "score"}.

        Raises:
            InputError: for a task that the model has no head for, or a sample without what its task needs.
        """
        places = self._by_task(batched_inputs)
        if self.training:
            return self._losses(batched_inputs, places)
        results: list[dict] = [{} for _ in batched_inputs]
        for task, at in places.items():
            for index, output in zip(*self._predict(task, [batched_inputs[i] for i in at]), strict=True):
                results[at[index]] = output
        return results

    def _by_task(self, batched_inputs: Sequence[dict]) -> dict[str, list[int]]:
        places: dict[str, list[int]] = {}
        for i, x in enumerate(batched_inputs):
            task = x.get("task") or DETECTION
            if task not in self.tasks:
                known = ", ".join(self.tasks)
                raise InputError(f"this model has no head for the task '{task}'.{nearest(task, self.tasks)} It has: {known}")
            places.setdefault(task, []).append(i)
        return places

    def _predict(self, task: str, samples: list[dict]) -> tuple[list[int], list[dict]]:
        """Return places among the samples, and the output of each."""
        if task == DETECTION:
            return list(range(len(samples))), self.detector(samples)
        order, outputs = [], []
        for group in _of_one_size(samples):
            with self.detector.execution.rounding(self.device):
                outputs += self.heads[task].predict(self.detector, [samples[i] for i in group])
            order += group
        self.link([samples[i] for i in order], outputs)
        return order, outputs

    def link(self, samples: Sequence[dict], outputs: Sequence[dict]) -> None:
        """Look for the noun phrases of what was said, with the detector: grounded captions, grounded answers.

        Each output whose sample asks for it ("links": True) gets "linked", the text with its phrases as a `Caption` (of a question
        and its answer; None without a phrase), and "instances", whose `pred_classes` are places among these phrases.

        Raises:
            InputError: for a sample of a task that says nothing.
            PromptError: for a text that is longer than the text encoder takes.
        """
        for x, output in zip(samples, outputs, strict=True):
            if not x.get("links"):
                continue
            if "caption" in output:
                output["linked"] = phrases_of_caption(output["caption"])
            elif "answer" in output:
                output["linked"] = phrases_of_answer(x["question"], output["answer"])
            else:
                raise InputError(f"the task '{x.get('task')}' writes no caption and no answer: leave out its \"links\"")
        asked = [(x, output) for x, output in zip(samples, outputs, strict=True) if output.get("linked") is not None]
        if asked:
            found = self.detector([{**x, "caption": output["linked"]} for x, output in asked])
            for (_, output), one in zip(asked, found, strict=True):
                output["instances"] = one["instances"]

    # ---- training -------------------------------------------------------------------------------------------------

    def _losses(self, batch: list[dict], places: Mapping[str, list[int]]) -> dict[str, Tensor]:
        chosen = {task: [batch[i] for i in places.get(task, [])] for task in self.tasks}
        asked = _anywhere([bool(chosen[task]) for task in self.tasks], self.device)
        losses: dict[str, Tensor] = {}
        for task, everywhere in zip(self.tasks, asked, strict=True):
            samples = chosen[task]
            if samples or everywhere:  # a process without samples must still take part in what all add up
                losses.update(self._task_losses(task, samples, batch[0]))
        if not all(chosen.values()):
            last = next(reversed(losses))
            losses[last] = losses[last] + _zero(p for p in self.parameters() if p.requires_grad)
        return losses

    def _task_losses(self, task: str, samples: list[dict], other: dict) -> dict[str, Tensor]:
        part = self.detector if task == DETECTION else self.heads[task]
        counter = self.samples_seen if task == DETECTION else part.samples_seen
        counter += len(samples)
        if task == DETECTION:
            losses = self.detector(samples or [_blank(other)])
            return losses if samples else {k: v * 0.0 for k, v in losses.items()}
        if samples:
            return {part.loss_name: part.loss(self.detector, samples)}
        return {part.loss_name: part.no_loss(self.device)}


def _anywhere(here: list[bool], device: torch.device) -> list[bool]:
    """Say for each task whether any process has samples of it."""
    if comm.get_world_size() == 1:
        return here
    flags = torch.tensor(here, dtype=torch.float32, device=device)
    torch.distributed.all_reduce(flags, op=torch.distributed.ReduceOp.MAX)
    return [bool(f) for f in flags.tolist()]


def _zero(parameters: Iterable[Tensor]) -> Tensor:
    """Return 0, with a gradient of 0 for each parameter: in parallel training all of them must have one."""
    return sum(p.float().sum() * 0.0 for p in parameters)


def _of_one_size(samples: Sequence[dict]) -> list[list[int]]:
    """Places of samples whose pictures are of one size: padding would change what a picture gives."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, x in enumerate(samples):
        groups.setdefault(tuple(x["image"].shape), []).append(i)
    return list(groups.values())


def _blank(sample: dict) -> dict:
    """Return a sample's picture as one for the detector, with nothing on it."""
    size = tuple(sample["image"].shape[-2:])
    empty = Instances(size, gt_boxes=Boxes(torch.zeros(0, 4)), gt_classes=torch.zeros(0, dtype=torch.int64))
    empty.gt_masks = BitMasks(torch.zeros(0, *size, dtype=torch.bool))
    return {"image": sample["image"], "instances": empty, "vocabulary": Vocabulary.from_names(["object"])}
