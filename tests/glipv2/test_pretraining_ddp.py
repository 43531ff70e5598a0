"""Pretraining's losses on two processes are those of one process with the whole batch, and so are their gradients."""

from __future__ import annotations

import pytest
import torch

from glipv2.modeling import MaskedLanguageHead, MaskedLanguageModelling, WordMasker
from openvocab.testing import TINY_BERT, run_gloo
from openvocab.text import BertTextEncoder

from .conftest import LANG, build_tiny
from .test_contrast import contrast, with_caption
from .test_detector import sample

NAMES = ("loss_inter", "loss_mlm")


def batch() -> list[dict]:
    """Names, a sentence, a picture without boxes, and names again; of one size, so padding is the same in every cut."""
    empty = sample(96, 128, ["cat", "dog"], 2)
    empty["instances"] = empty["instances"][:0]
    sentence = with_caption("a red hat beside the old dog", ["red hat", "the old dog"], 1)
    return [sample(96, 128, ["cat", "dog"]), sentence, empty, sample(96, 128, ["dog", "bus", "red hat"], 3)]


class EveryThird(WordMasker):
    """Hides the same words however the batch is cut."""

    def __call__(self, tokens, allowed, encoder):
        torch.manual_seed(0)
        first = torch.arange(tokens.input_ids.shape[1]) % 3 == 1
        masked, labels = WordMasker(rate=1.0, mask_share=1.0, random_share=0.0)(tokens, allowed & first, encoder)
        return masked, labels


def first_step(inputs: list[dict], parallel: bool) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    torch.manual_seed(1)
    encoder = BertTextEncoder(source=None, config={**TINY_BERT, "num_hidden_layers": 1}, frozen=False)
    head = MaskedLanguageHead(dim=LANG, vocab_size=30522, tied=False)
    mlm = MaskedLanguageModelling(head=head, masker=EveryThird(), names=True)
    inter = contrast(log_scale=-1.0, propagate="words")
    model = build_tiny(text_encoder=encoder, contrast=inter, mlm=mlm, deformable=False).train()
    runner = torch.nn.parallel.DistributedDataParallel(model) if parallel else model
    losses = runner(inputs)
    sum(losses.values()).backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return {n: float(losses[n].detach()) for n in NAMES}, gradients


def one_rank() -> tuple[list, list]:
    """An even cut, and one in which one rank has no box and captions of another length."""
    rank, inputs = torch.distributed.get_rank(), batch()
    return first_step(inputs[rank::2], True), first_step([inputs[2], inputs[2]] if rank else [inputs[0], inputs[1]], True)


@pytest.mark.slow
def test_two_processes_equal_one() -> None:
    inputs = batch()
    alone = first_step(inputs, False), first_step([inputs[0], inputs[1], inputs[2], inputs[2]], False)
    ranks = run_gloo(one_rank, world_size=2, timeout=600)
    for case, (losses, gradients) in enumerate(alone):
        shared = [rank[case] for rank in ranks]
        assert all(s[0]["loss_inter"] == pytest.approx(losses["loss_inter"], abs=1e-4) for s in shared)
        mean = sum(s[0]["loss_mlm"] for s in shared) / 2
        assert mean == pytest.approx(losses["loss_mlm"], rel=1e-4) and losses["loss_mlm"] > 0
        for _, own in shared:
            assert set(own) == set(gradients)
            for name, value in gradients.items():
                off = (own[name] - value).norm()  # not the largest entry: one cell at the kink of a ReLU may fall either way
                assert float(off / value.norm().clamp(min=1e-3)) < 2e-3, name
