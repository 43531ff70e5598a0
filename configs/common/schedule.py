"""Learning-rate schedules as factors on [0, 1) of the run, so that they stretch with train.max_iter."""

from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import ConstantParamScheduler, CosineParamScheduler, MultiStepParamScheduler


def warmed_up(scheduler, length=0.05, factor=0.01):
    """Rise linearly from `factor` of the first value during the first `length` of the run, then follow `scheduler`."""
    return L(WarmupParamScheduler)(scheduler=scheduler, warmup_factor=factor, warmup_length=length)


cosine = warmed_up(L(CosineParamScheduler)(start_value=1.0, end_value=0.01))

constant = warmed_up(L(ConstantParamScheduler)(value=1.0))

# the steps of detectron2's 1x: 60,000 and 80,000 of 90,000
step = warmed_up(L(MultiStepParamScheduler)(values=[1.0, 0.1, 0.01], milestones=[60, 80, 90]), length=0.011)

# the steps of the 3x schedule: 210,000 and 250,000 of 270,000
step_3x = warmed_up(L(MultiStepParamScheduler)(values=[1.0, 0.1, 0.01], milestones=[21, 25, 27]), length=0.0037)
