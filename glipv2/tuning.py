"""Adapting a trained detector to a data set: full tuning, linear probe, prompt tuning (GLIP, arXiv 2112.03857).

A `TunedGLIPv2` is a `GLIPv2` of which a part trains. Configs set it in the place of their base's model:

    model.update(_target_=TunedGLIPv2, tuning="prompt", dataset="bccd_train", prior=None)
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping

import torch
from torch import Tensor, nn

from openvocab.data import get_vocabulary
from openvocab.errors import ConfigError, DataError, PromptError, nearest
from openvocab.text import LanguageFeatures
from openvocab.text.base import TokenBatch

from .modeling import GLIPv2

TRAINED: dict[str, tuple[str, ...] | None] = {
    "full": None,
    "linear_probe": ("head.bbox_pred.", "head.centerness.", "head.alignment."),
    "prompt": ("learned_prompt.",),
}
"""For each mode the beginnings of the names of the parameters that train; None: all that their own parts let train."""


class LearnedPrompt(nn.Module):
    """A caption whose embedding is learned: P0 = encoder(caption) + offset, and the offset is the parameter.

    GLIP's prompt tuning makes the embedded prompt a parameter. As in the released code (`language_prompt_v2`) it is written as
    an offset for each token position that begins at zero, so that weight decay pulls to the words' own embedding. There the
    offset is added to any caption; here to the one caption it was learned for, and every other caption stays as it was (ours).

    Letters: B captions, T tokens, R rows, L width, N tokens of the learned caption.

    Args:
        rows: R, the most tokens of a caption.
        dim: L.

    Attributes:
        ids: (N,) int64, the tokens of the learned caption, special ones included; they travel with the weights. Empty before one
            is set.
    """

    ids: Tensor

    def __init__(self, *, rows: int, dim: int) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(rows, dim))
        self.register_buffer("ids", torch.zeros(0, dtype=torch.int64))

    def learn(self, ids: Tensor) -> None:
        """Learn the caption of these tokens (N,) from now on."""
        self.ids = ids.to(self.offset.device, torch.int64)

    def forward(self, features: LanguageFeatures, tokens: TokenBatch) -> LanguageFeatures:
        """Add the offset to the features (B, T, L) of those captions that are the learned one.

        Raises:
            ConfigError: in training, without a caption.
            PromptError: in training, for another caption.
        """
        own = self._is_own(tokens)
        if self.training and not bool(own.all()):
            raise self._refusal()
        if not bool(own.any()):
            return features
        chosen = features.mask & own[:, None]
        shift = self.offset[: chosen.shape[1]] * chosen[..., None]
        return LanguageFeatures(hidden=features.hidden + shift.to(features.hidden.dtype), mask=features.mask)

    def _is_own(self, tokens: TokenBatch) -> Tensor:
        """Say (B,) which captions have the learned one's tokens."""
        length, ids = len(self.ids), tokens.input_ids
        if not 0 < length <= ids.shape[1]:
            return ids.new_zeros(len(ids), dtype=torch.bool)
        return (tokens.attention_mask.sum(dim=1) == length) & (ids[:, :length] == self.ids).all(dim=1)

    def _refusal(self) -> Exception:
        if not len(self.ids):
            return ConfigError("the prompt to be tuned is not known: give TunedGLIPv2 the training set as dataset=")
        return PromptError(
            "one prompt is tuned, and a picture was asked for another: a mapper for prompt tuning asks for all names of the set in "
            "their order (prompt=None, no other names for the same boxes)"
        )

    def before_load(self, tensors: MutableMapping[str, Tensor], prefix: str = "") -> Callable[[], None] | None:
        """Make room for the caption that a weight file brings (`openvocab.io.load_into`); return what undoes it."""
        found, before = tensors.get(f"{prefix}ids"), self.ids
        if found is None:
            return None
        self.learn(torch.zeros(found.shape))

        def undo() -> None:
            self.ids = before

        return undo


class TunedGLIPv2(GLIPv2):
    """`GLIPv2` of which a part trains; what is frozen also stays in evaluation mode (without dropout and batch statistics).

    | tuning | picture side | tower | prediction layers | words |
    |---|---|---|---|---|
    | `full` | trains, but `freeze_at` | trains | train | train, unless the text encoder is frozen |
    | `linear_probe` | frozen | frozen | boxes, centre-ness, alignment train | frozen |
    | `prompt` | frozen | frozen | frozen | an offset of the embedded prompt trains |

    These are the modes `full`, `linear_prob` and `language_prompt_v2` of the released code. Weights of the first two fit a
    plain `GLIPv2` too; those of `prompt` have two more entries, `learned_prompt.offset` and `learned_prompt.ids`.

    Args:
        tuning: one of `TRAINED`.
        dataset: the training set; its names are the model's vocabulary, and the prompt that is tuned. Where the set is not on
            the disk, as when tuned weights are used elsewhere, names and prompt are those that the weights bring.
        parts: as for `GLIPv2`.

    Raises:
        ConfigError: for an unknown mode; for a prior with `prompt`, since it may add a word to the caption; for names that need
            more than one prompt.
    """

    def __init__(self, *, tuning: str = "full", dataset: str | None = None, **parts: object) -> None:
        if tuning not in TRAINED:
            raise ConfigError(f"tuning='{tuning}' is unknown.{nearest(tuning, TRAINED)} Known: {', '.join(TRAINED)}")
        if tuning == "prompt" and parts.get("prior") is not None:
            raise ConfigError("prompt tuning learns one caption, and a prior may add a word to it: set model.prior=null")
        super().__init__(**parts)
        self.tuning = tuning
        self.learned_prompt: LearnedPrompt | None = None
        if tuning == "prompt":
            self.learned_prompt = LearnedPrompt(rows=self.text_encoder.max_tokens, dim=self.text_encoder.dim)
            self.text_encoder.register_forward_hook(self._add_prompt)
        if dataset is not None:
            self._look_for(dataset)
        self._freeze_all_but(TRAINED[tuning])

    def _look_for(self, dataset: str) -> None:
        try:
            vocabulary = get_vocabulary(dataset)
        except DataError:
            return  # training says what is missing when it reads the set; tuned weights need none
        self.set_vocabulary(vocabulary)
        if self.learned_prompt is not None:
            prompts = self._plan(vocabulary)
            if len(prompts) > 1:
                raise ConfigError(f"the {len(vocabulary)} names of '{dataset}' need {len(prompts)} prompts, and one can be tuned")
            self.learned_prompt.learn(self.text_encoder.tokenize([prompts[0].caption.text]).input_ids[0])

    def _freeze_all_but(self, trained: tuple[str, ...] | None) -> None:
        if trained is not None:
            for name, parameter in self.named_parameters():
                parameter.requires_grad_(parameter.requires_grad and name.startswith(trained))

    def _still(self) -> list[nn.Module]:
        """Parts that stay in evaluation mode: all that have parameters, none of which trains."""
        if TRAINED[self.tuning] is None:
            return []
        parts = ((m, list(m.parameters())) for m in self.modules())
        return [m for m, parameters in parts if parameters and not any(p.requires_grad for p in parameters)]

    def train(self, mode: bool = True) -> TunedGLIPv2:
        """Set the mode of the parts that train."""
        super().train(mode)
        for part in self._still():
            part.eval()
        return self

    def _add_prompt(self, encoder: nn.Module, given: tuple, features: LanguageFeatures) -> LanguageFeatures:
        return self.learned_prompt(features, given[0])
