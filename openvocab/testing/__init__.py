"""For tests and small experiments: a procedural world of coloured shapes, tiny models, recorded tensors, gloo ranks.

Importing this package is cheap: what it offers is loaded when it is first used. Nothing of the other packages needs it.
"""

from __future__ import annotations

from importlib import import_module

_LAZY = {
    "ShapesWorld": "world",
    "Scene": "scenes",
    "SceneObject": "scenes",
    "COLORS": "shapes",
    "SHAPES": "shapes",
    "SIZES": "shapes",
    "RELATIONS": "relations",
    "relation": "relations",
    "relations_of": "relations",
    "caption_of": "language",
    "GroundedText": "language",
    "referring_of": "referring",
    "Referring": "referring",
    "questions_of": "questions",
    "Question": "questions",
    "ANSWERS": "questions",
    "Taxonomy": "taxonomies",
    "get_taxonomy": "taxonomies",
    "TAXONOMIES": "taxonomies",
    "held_out_pairs": "taxonomies",
    "BoxRule": "conventions",
    "get_rule": "conventions",
    "RULES": "conventions",
    "ConventionWorld": "convention_shapes",
    "CONVENTION_SETS": "convention_shapes",
    "SAME_NAMES_SETS": "convention_shapes",
    "ClipWorld": "clips",
    "Clip": "clips",
    "ACTIONS": "clips",
    "annotate": "records",
    "to_record": "records",
    "to_grounding_record": "records",
    "to_model_input": "records",
    "write_coco": "writer",
    "write_convention": "writer",
    "register_shapes": "writer",
    "Tile": "sheet",
    "contact_sheet": "sheet",
    "write_clips": "writer",
    "golden_path": "golden",
    "assert_close": "golden",
    "run_gloo": "gloo",
    "RankError": "gloo",
    "TinyBackbone": "tiny",
    "tiny_clip": "tiny",
    "tiny_picture": "tiny",
    "TINY_CLIP": "tiny",
    "TINY_BERT": "tiny",
}
__all__ = sorted(_LAZY)


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
