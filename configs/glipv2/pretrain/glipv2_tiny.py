"""Pretraining of GLIPv2-T: GLIP-T's, with the contrast over all pictures of a batch and with hidden words.

Reproduces: GLIPv2-T of arXiv 2206.05836: O365, GoldG and 4 M captions, L_loc + L_intra + L_inter + L_mlm. Expected: 29.0 AP on LVIS
minival without tuning. Neither code nor weights were released; not run here.
Cost: not known.
Command: python tools/train_net.py --config-file configs/glipv2/pretrain/glipv2_tiny.py
    --num-gpus 32 model.text_encoder.source=bert-base model.text_encoder.config=null train.init_checkpoint=swin_t.safetensors
The released code's: both losses with weight 1, width 64, temperature 1 at the start, 100 regions a picture, 15 % of the words.
Ours: the rates, which are GLIP-T's; words are hidden in sentences alone; the decoder of words is tied to BERT's table, which keeps
the model at GLIP-T's size.
"""

from detectron2.config import LazyCall as L

from glipv2.modeling import MaskedLanguageHead, MaskedLanguageModelling, RegionWordContrast, WordMasker

from .glip_tiny import dataloader, lr_multiplier, model, optimizer, train

model.contrast = L(RegionWordContrast)(visual_dim=256, lang_dim=768, embed_dim=64, max_regions=100, log_scale=0.0)
model.mlm = L(MaskedLanguageModelling)(
    head=L(MaskedLanguageHead)(dim=768, vocab_size=30522, tied=True), masker=L(WordMasker)(rate=0.15)
)
train.output_dir = "output/glipv2_tiny_pretrain"
