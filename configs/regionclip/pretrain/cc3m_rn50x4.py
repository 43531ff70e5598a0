"""RegionCLIP's pretraining on CC3M, RN50x4.

Reproduces: the pretraining behind 39.3 AP50 of COCO's novel classes after transfer. Not run here: no CLIP weights were at hand.
Cost: more than RN50's 6 days on 32 V100; the network has 1.9 times its parameters.
Command: python tools/train_net.py --config-file configs/regionclip/pretrain/cc3m_rn50x4.py --num-gpus 32
  model.text_encoder.pretrained=RN50x4.pt model.text_encoder.allow_pickle=True

Files as for cc3m_rn50, of RN50x4: regionclip/clip_rn50x4.safetensors, regionclip/coco_nouns_rn50x4.pth.
"""

from .cc3m_rn50 import _files, _tower, dataloader, lr_multiplier, model, optimizer, train

_clip, _nouns = str(_files / "clip_rn50x4.safetensors"), str(_files / "coco_nouns_rn50x4.pth")

# pooler 18: layer4 halves it to 9, the side of RN50x4's attention pool
for _part in (model, model.teacher):
    _part.update(_tower("RN50x4", pooler=18))
    _part.concept_embeddings = _nouns
model.teacher.weights = _clip
model.text_encoder.model = "RN50x4"
train.init_checkpoint = _clip
train.output_dir = "output/regionclip_cc3m_rn50x4"
