"""A data set added to a trained hub: only its own vector and bias are trained (ours)."""

from __future__ import annotations

import logging
from pathlib import Path

from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import CosineParamScheduler
from omegaconf import DictConfig, OmegaConf

from openvocab.config.build import TRUSTED, mark_trusted
from openvocab.engine import build_adamw
from openvocab.errors import WeightsError
from openvocab.io import load_into, load_weights

from .data import HubDataset
from .lazy import hub_dataloader
from .modeling import DetectionHub

logger = logging.getLogger(__name__)


def tuned_model(*, model: DetectionHub, weights: str | Path, dataset: HubDataset) -> DetectionHub:
    """Load a trained hub, add a data set to it unless it is there, and freeze all but the data set's vector and bias.

    A data set that the weights know keeps its vector and takes the names, flags and policy given here.

    Args:
        model: as its config builds it.
        weights: the trained hub.
        dataset: to be tuned.

    Raises:
        WeightsError: for weights that lack a parameter of the model, or cannot be read.
        ConfigError: for a model without a hub, or an arm without data set vectors.
    """
    needed = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    report = load_into(model, load_weights(weights).tensors)
    lacking = sorted(needed - set(report.matched))
    if lacking:
        raise WeightsError(f"{weights} lacks {len(lacking)} of {len(needed)} parameters, such as {lacking[0]}: {report}")
    model.add_dataset(dataset.context())
    model.tune_only(dataset.name)
    return model


def tuning_config(
    cfg: DictConfig,
    *,
    dataset: DictConfig,
    weights: str | Path,
    output_dir: str | Path,
    steps: int = 200,
    lr: float = 0.02,
    total_batch_size: int = 4,
    num_workers: int = 0,
    share: float = 1.0,
) -> DictConfig:
    """Return a config for `openvocab.engine.train` that tunes a data set on the model of `cfg`.

    The run's model_final.pth is a whole checkpoint: the old data sets as they were, and the new one.

    Args:
        cfg: of the trained hub; its model and `train` are taken.
        dataset: `L(HubDataset)(...)`, with `train`; with `test` it is evaluated at the end.
        weights: the trained hub.
        output_dir: of the run.
        steps, lr, total_batch_size: of AdamW, without weight decay.
        num_workers, share: see `build_hub_loader`.
    """
    result = OmegaConf.create(
        {
            "model": L(tuned_model)(model=cfg.model, weights=str(weights), dataset=dataset),
            "dataloader": hub_dataloader(
                [dataset],
                total_batch_size=total_batch_size,
                num_workers=num_workers,
                share=share,
                grouping="mixed",
                image_format=cfg.model.get("input_format", "RGB"),
            ),
            "optimizer": L(build_adamw)(lr=lr, weight_decay=0.0),
            "lr_multiplier": L(WarmupParamScheduler)(
                scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=0.02), warmup_factor=0.1, warmup_length=0.05
            ),
            "train": cfg.get("train", {}),
        },
        flags={"allow_objects": True},
    )
    result.train.update(
        init_checkpoint="",  # the weights are the model's own affair
        output_dir=str(output_dir),
        max_iter=steps,
        eval_period=0,
        best_metric="",
        expected_results=[],
        reference_batch_size=None,
        ema={"enabled": False},
        checkpointer={"period": 0, "max_to_keep": 1},
    )
    return mark_trusted(result) if cfg._get_flag(TRUSTED) else result
