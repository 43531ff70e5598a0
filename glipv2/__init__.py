"""GLIPv2 (arXiv 2206.05836) for detectron2."""
