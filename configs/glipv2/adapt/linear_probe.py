"""Linear probe of the shipped default on any registered data set: boxes, centre-ness and the alignment of cells and words train.

Reproduces: GLIP's `linear_prob` (microsoft/GLIP) in small: 0.05 of 7.8 million parameters.
Cost: 2.5 minutes of processor time on deeppcb, one thread, evaluation included (AP50 6.5); 200 steps of 4 pictures.
Command: python tools/train_net.py --config-file configs/glipv2/adapt/linear_probe.py dataloader.dataset=bccd
The data set's fields are those of full.py.
"""

from .full import dataloader, lr_multiplier, model, optimizer, train

model.tuning = "linear_probe"
model.text_encoder.frozen = True
optimizer.lr = 1e-3
optimizer.overrides = {}
train.output_dir = "output/glipv2_adapt_linear_probe"
