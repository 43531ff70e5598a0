"""Sentence frames around a name, whose embeddings are averaged."""

from __future__ import annotations

from openvocab.errors import PromptError, missing, nearest

_OWN = {
    "plain": ("{}",),
    "article": ("a {}",),
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
_CLIPS = {"clip80": (), "clip81": ("{}.",)}  # what stands before CLIP's own


def templates(name: str) -> tuple[str, ...]:
    """Return the frames of "plain", "article", "photo", "simple7" (ours), "clip80" or "clip81".

    "clip80" are the 80 frames of CLIP's ImageNet evaluation, which open_clip ships; "clip81", which RegionCLIP averages, has
    the bare "{}." before them.

    Raises:
        PromptError: for an unknown name.
        MissingDependencyError: for "clip80" and "clip81" without open_clip.
    """
    if isinstance(name, str) and name in _OWN:
        return _OWN[name]
    if not isinstance(name, str) or name not in _CLIPS:
        known = [*_OWN, *_CLIPS]
        raise PromptError(f"there are no templates '{name}'.{nearest(name, known)} Known: {', '.join(known)}")
    try:
        from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES
    except ImportError as error:
        raise missing("open_clip_torch", "clip") from error
    return (*_CLIPS[name], *(frame("{}") for frame in OPENAI_IMAGENET_TEMPLATES))
