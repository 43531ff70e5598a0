"""Sentence frames around a name, whose embeddings are averaged."""

from __future__ import annotations

from openvocab.errors import PromptError, missing, nearest

_OWN = {
    "plain": ("{}",),
    "photo": ("a photo of a {}.",),
    # ours: seven frames that cover distance, number and quality
    "simple7": (
        "a photo of a {}.",
        "a photo of the {}.",
        "a close-up photo of a {}.",
        "a photo of a small {}.",
        "a photo of a large {}.",
        "a photo of many {}.",
        "there is a {} in the scene.",
    ),
}


def templates(name: str) -> tuple[str, ...]:
    """Return the frames of "plain", "photo", "simple7" (ours) or "clip81".

    "clip81" is what RegionCLIP averages: the bare "{}." and the 80 frames of CLIP's ImageNet evaluation, which open_clip
    ships.

    Raises:
        PromptError: for an unknown name.
        MissingDependencyError: for "clip81" without open_clip.
    """
    if isinstance(name, str) and name in _OWN:
        return _OWN[name]
    if name != "clip81":
        known = [*_OWN, "clip81"]
        raise PromptError(f"there are no templates '{name}'.{nearest(name, known)} Known: {', '.join(known)}")
    try:
        from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES
    except ImportError as error:
        raise missing("open_clip_torch", "clip") from error
    return ("{}.", *(frame("{}") for frame in OPENAI_IMAGENET_TEMPLATES))
