"""Answers to questions, as classes (GLIPv2, arXiv 2206.05836, section 3)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import MutableMapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glipv2.modeling.detector import GLIPv2
from openvocab.data.answers import read_answers
from openvocab.errors import ConfigError, InputError, WeightsError
from openvocab.modeling.dyhead import masked_mean
from openvocab.text import LanguageFeatures

from .heads import TASK_HEAD_REGISTRY, TaskHead, shared_mean, text_of

BEST = 5


@TASK_HEAD_REGISTRY.register()
class VQAHead(TaskHead):
    """Choose the answer to a question from a list, by what the fused tower made of question and picture.

    The paper's: answers are classes, read from the pooled fused text with a small MLP. The sheet knows no more of it; ours are the
    other two parts of what the MLP reads, the mean over the fused words and the mean over the cells of each fused level; its width;
    a first guess of 1 / A for each answer; and binary cross-entropy with VQA's soft scores as targets (Teney et al. 2017, arXiv
    1708.02711).

    Letters: B samples, T tokens, L language width, C channels of V levels, A answers.

    Args:
        answers: A texts, normalised as `openvocab.data.answers.normalize_answer` does; or a json file of them, read when it is
            needed first.
        num_answers: A; needed with a file, for which it is checked.
        lang_dim: L.
        channels: C.
        num_levels: V; 0: the MLP reads words alone.
        hidden_dim: of the MLP.
        dropout: in the MLP, in training.
        loss_weight: factor of `loss_vqa`.

    Raises:
        ConfigError: for answers without a number, or another number of them.
    """

    task, loss_name = "vqa", "loss_vqa"

    def __init__(
        self,
        *,
        answers: Sequence[str] | str | Path,
        num_answers: int | None = None,
        lang_dim: int = 768,
        channels: int = 256,
        num_levels: int = 5,
        hidden_dim: int = 1536,
        dropout: float = 0.1,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self._file = Path(answers) if isinstance(answers, (str, Path)) else None
        self._answers: tuple[str, ...] | None = None
        if self._file is None:
            self._answers = tuple(str(a) for a in answers)
            num_answers = len(self._answers) if num_answers is None else num_answers
        if num_answers is None or num_answers < 2:
            raise ConfigError(f"num_answers={num_answers}: a file of answers needs their number, 2 or more")
        self.num_answers, self.num_levels, self.loss_weight = int(num_answers), int(num_levels), float(loss_weight)
        self.mlp = nn.Sequential(
            nn.Linear(2 * lang_dim + channels * self.num_levels, hidden_dim),
            nn.GELU(),
            nn.LayerNorm(hidden_dim),
            nn.Dropout(dropout),
            nn.Linear(hidden_dim, self.num_answers),
        )
        nn.init.constant_(self.mlp[-1].bias, -math.log(self.num_answers))
        self.register_buffer("fingerprint", torch.zeros(8, dtype=torch.uint8))
        if self._answers is not None:
            self._take(self._answers)

    @property
    def answers(self) -> tuple[str, ...]:
        """The A answers.

        Raises:
            DataError: if their file cannot be read.
            ConfigError: if it holds another number of them.
            WeightsError: if the weights were trained with other answers.
        """
        if self._answers is None:
            self._take(read_answers(self._file))
        return self._answers

    def _take(self, answers: tuple[str, ...]) -> None:
        if len(answers) != self.num_answers or len(set(answers)) != len(answers):
            raise ConfigError(f"{len(set(answers))} different answers of {len(answers)} for num_answers={self.num_answers}")
        own = fingerprint(answers)
        if bool(self.fingerprint.any()) and not torch.equal(self.fingerprint.cpu(), own):
            raise WeightsError(f"these weights answer with another list of answers than {self._file or 'the config'} holds")
        self.fingerprint.copy_(own)
        self._answers = answers
        self._classes = {a: i for i, a in enumerate(answers)}

    def before_load(self, tensors: MutableMapping[str, Tensor], prefix: str) -> None:
        """Refuse weights that were trained with other answers: classes are answers by their place alone.

        Raises:
            WeightsError: if they were.
        """
        given = tensors.get(f"{prefix}fingerprint")
        if given is not None and self._answers is not None and not torch.equal(given.cpu(), fingerprint(self._answers)):
            raise WeightsError("these weights answer with another list of answers than the config has; give answers=... of theirs")

    # ---- network --------------------------------------------------------------------------------------------------

    def logits(self, detector: GLIPv2, samples: Sequence[dict]) -> Tensor:
        """Run the tower on the samples' pictures and questions: (B, A)."""
        tokens = detector.text_encoder.tokenize([text_of(x, "question") for x in samples]).to(detector.device)
        language: LanguageFeatures = detector.text_encoder(tokens)
        trunk = detector.run_trunk([x["image"] for x in samples])
        output = detector.head(trunk.features, language, trunk.valid)
        weight = language.mask[..., None].to(output.hidden.dtype)
        words = (output.hidden * weight).sum(dim=1) / weight.sum(dim=1)
        valid = trunk.valid or [None] * len(output.features)
        cells = [masked_mean(x, m).flatten(1) for x, m in zip(output.features, valid, strict=True)][: self.num_levels]
        return self.mlp(torch.cat([output.hidden[:, 0], words, *cells], dim=1)).float()

    def targets(self, samples: Sequence[dict]) -> Tensor:
        """Return the scores (B, A) of the samples' "answers"; those that are not in the list are left out."""
        self.answers  # noqa: B018  reads the file
        result = torch.zeros(len(samples), self.num_answers)
        for row, x in zip(result, samples, strict=True):
            if not isinstance(x.get("answers"), dict):
                raise InputError("a training sample of the task 'vqa' needs 'answers', {answer: score 0..1}")
            for answer, score in x["answers"].items():
                if answer in self._classes:
                    row[self._classes[answer]] = score
        return result

    def loss(self, detector: GLIPv2, samples: Sequence[dict]) -> Tensor:
        """Binary cross-entropy, summed over answers and averaged over samples; samples need "question" and "answers"."""
        logits = self.logits(detector, samples)
        total = F.binary_cross_entropy_with_logits(logits, self.targets(samples).to(logits), reduction="sum")
        return self.loss_weight * shared_mean(total, len(samples))

    def predict(self, detector: GLIPv2, samples: Sequence[dict]) -> list[dict]:
        """Return {"answer", "score" 0..1, "candidates": the best few (answer, score)} for each sample."""
        scores, places = self.logits(detector, samples).sigmoid().topk(min(BEST, self.num_answers))
        rows = [
            [(self.answers[i], float(s)) for i, s in zip(at, row, strict=True)]
            for at, row in zip(places.tolist(), scores.tolist(), strict=True)
        ]
        return [{"answer": row[0][0], "score": row[0][1], "candidates": row} for row in rows]


def fingerprint(answers: Sequence[str]) -> Tensor:
    """Return (8,) uint8 that say which answers stand in which order."""
    digest = hashlib.sha256("\n".join(answers).encode("utf-8", "surrogatepass")).digest()[:8]
    return torch.tensor(list(digest), dtype=torch.uint8)
