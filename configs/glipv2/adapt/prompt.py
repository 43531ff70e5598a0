"""Prompt tuning of the shipped default on any registered data set: the embedded names alone train, all else stays bit for bit.

Reproduces: GLIP's `language_prompt_v2` (microsoft/GLIP) in small, with its rate and decay; steps are ours.
Cost: 4 minutes of processor time on deeppcb, one thread, evaluation included (AP50 11.3); 200 steps of 4 pictures.
Command: python tools/train_net.py --config-file configs/glipv2/adapt/prompt.py dataloader.dataset=bccd
The data set's fields are those of full.py. The prompt travels with the weights:
    load_predictor("glipv2/adapt/prompt", weights="output/glipv2_adapt_prompt/model_final.pth")("photo.jpg")
needs no data set.
"""

from .full import dataloader, lr_multiplier, model, optimizer, train

model.tuning = "prompt"
model.text_encoder.frozen = True
optimizer.lr = 0.05
optimizer.weight_decay = 0.25
optimizer.overrides = {}
train.output_dir = "output/glipv2_adapt_prompt"
