"""Zero-shot detection in pictures of your own, RN50: a pretrained RegionCLIP, and any names.

Reproduces: the authors' visualisation of custom pictures, for which they had LVIS's 1203 names only. Not run on released weights.
Cost: 1000 proposals a picture through layer4 and the attention pool.
Command: python tools/train_net.py --config-file configs/regionclip/zero_shot/custom_rn50.py --eval-only
evaluates it as coco_rpn_rn50. In pictures, by a file of names and vectors (of tools/dump_text_embeddings.py), or by any names:
  python tools/demo.py --model regionclip/zero_shot/custom_rn50 --input FOLDER --embeddings names.npz --threshold 0.5
  python tools/demo.py --model regionclip/zero_shot/custom_rn50 --input FOLDER --text "cat. remote control." --threshold 0.5

Files below $DETECTRON2_DATASETS/regionclip: pretrained_rn50.safetensors as for coco_rpn_rn50; for any names the text tower too,
  clip_text_rn50.safetensors  tools/convert_weights.py --from clip-text regionclip_pretrained-cc_rn50.pth OUT
Scores are class probabilities; NMS and order go by the fused ones.
"""

from detectron2.config import LazyCall as L

from openvocab.text import CLIPTextEncoder

from .coco_rpn_rn50 import _files, dataloader, lr_multiplier, model, optimizer, train

_text = _files / "clip_text_rn50.safetensors"
model.text_embeddings = None
model.text_encoder = L(CLIPTextEncoder)(model="RN50", quick_gelu=True, pretrained=str(_text) if _text.is_file() else None)
model.roi_heads.box_predictor.postprocessor.update(score_threshold=0.02, nms_threshold=0.3, max_detections=300, report="class")
