"""`raccoon` of small_sets.py alone: a separate detector, seen as often as in the hub.

Reproduces: nothing published; what it reaches belongs to benchmarks/detection_hub_real.py.
Cost: 600 steps of 4 pictures, a seventh of the hub's 4,200; `train.max_iter=4200` gives it as many steps as the hub has.
Command: python tools/train_net.py --config-file configs/detection_hub/hubs/single_raccoon.py
"""

from detection_hub.lazy import only as _only

from .small_sets import dataloader, lr_multiplier, model, optimizer, train

_only("raccoon", model=model, dataloader=dataloader)
train.max_iter = 600
train.output_dir = "output/detection_hub_single_raccoon"
