"""Token budgets of data count as the model's text encoder does."""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf
from torch import nn

from openvocab.config import instantiate
from openvocab.config.targets import find_targets, real_name
from openvocab.data import TokenBudget
from openvocab.errors import ConfigError
from openvocab.text.identity import encoder_of

TARGET = f".{TokenBudget.__name__}"


def check_budgets(dataloader: DictConfig, model: nn.Module) -> None:
    """Compare every `TokenBudget` that a config's data names with the model's text encoder.

    Args:
        dataloader: of a config, not built yet.
        model: with a `text_encoder`, or a `detector` that has one; any other is not looked at, nor an encoder without a fixed
            list of tokens.

    Raises:
        ConfigError: if a budget counts the tokens of another tokenizer, or allows more than the encoder reads: texts would pass
            the loader and stop the training at some later step.
    """
    encoder = encoder_of(model)
    own = getattr(encoder, "tokenizer_id", "")
    if not own:
        return
    for path, target in find_targets(dataloader):
        if not (target if isinstance(target, str) else real_name(target)).endswith(TARGET):
            continue
        place = path.removesuffix("._target_")
        budget = instantiate(OmegaConf.select(dataloader, place))
        if budget.tokenizer_id != own:
            raise ConfigError(
                f"dataloader.{place} counts tokens of '{budget.tokenizer_id}', the model's text encoder has '{own}': "
                "give the budget the encoder's `source`, or its `vocab_file`"
            )
        if budget.max_tokens > encoder.max_tokens:
            raise ConfigError(
                f"dataloader.{place}.max_tokens={budget.max_tokens}, but the text encoder reads {encoder.max_tokens} at most"
            )
