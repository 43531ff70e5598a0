"""Optimizers. `model` is filled in by the training script; norms and biases have no weight decay unless said otherwise."""

from detectron2.config import LazyCall as L

from openvocab.engine import build_adamw, build_sgd

# overrides={"backbone.bottom_up": dict(lr_factor=0.1)} trains what carries this in its name ten times slower
AdamW = L(build_adamw)(lr=1e-4, weight_decay=0.05, betas=(0.9, 0.999), overrides={})

# detectron2's: 0.02 for 16 pictures
SGD = L(build_sgd)(lr=0.02, momentum=0.9, weight_decay=1e-4, overrides={})
