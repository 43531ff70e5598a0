"""An image-text encoder from an ImageNet classifier and a sentence encoder."""

from .bridge import Bridge, imagenet_names

__all__ = ["Bridge", "imagenet_names"]
