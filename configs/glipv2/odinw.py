"""The shipped default on ODinW-13 and -35: mean and median of AP over the sets that are there, by names and by engineered prompts.

Reproduces: GLIP's and GLIPv2's ODinW protocol (microsoft/GLIP), test splits. No figure to expect from this small model: parts
of Aquarium, pothole, Raccoon and BCCD were in its training, and the suites lie on few disks.
Cost: as configs/glipv2/zero_shot.py, a picture and pass; four passes.
Command: python tools/train_net.py --config-file configs/glipv2/odinw.py --eval-only
Sets lie below $DETECTRON2_DATASETS/odinw; missing ones are named in a warning. `~dataloader.test.odinw35` leaves a pass out.
"""

from ..common.evaluation import odinw
from .default import _test_mapper, dataloader, lr_multiplier, model, optimizer, train

dataloader.test = {
    **odinw(13, _test_mapper),
    **odinw(13, _test_mapper, engineered=True),
    **odinw(35, _test_mapper),
    **odinw(35, _test_mapper, engineered=True),
}
train.init_checkpoint = "zoo://default"
train.output_dir = "output/glipv2_odinw"
