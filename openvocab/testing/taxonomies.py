"""Ways to give the same shapes names: by form, by color, by both, by size and form, coarsely; and what is held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from openvocab.errors import DataError, nearest

from .scenes import SceneObject
from .seeding import generator
from .shapes import COLORS, FIGURES, ROUND, SHAPES, SIZES, check_names

if TYPE_CHECKING:
    from openvocab.vocabulary import Vocabulary

NOVEL_SHAPES = ("star", "hexagon")
NOVEL_COLORS = ("purple", "cyan")


@dataclass(frozen=True)
class Taxonomy:
    """Names for shapes.

    Attributes:
        name: of the taxonomy.
        names: the classes; an object's class id is its name's position.
        fields: which words of an object its name is made of ("color", "shape").
        groups: (word, group) pairs: the group stands in the word's place ("circle" -> "round").
        novel: the names that a training set leaves unlabelled.
    """

    name: str
    names: tuple[str, ...]
    fields: tuple[str, ...]
    groups: tuple[tuple[str, str], ...] = ()
    novel: frozenset[str] = frozenset()

    def name_of(self, thing: SceneObject) -> str:
        """Return the object's name in this taxonomy, labelled or not."""
        groups = dict(self.groups)
        return " ".join(groups.get(getattr(thing, f), getattr(thing, f)) for f in self.fields)

    def label(self, thing: SceneObject) -> int | None:
        """Return the object's class id, or None if this taxonomy leaves it unlabelled."""
        name = self.name_of(thing)
        return self.names.index(name) if name in self.names else None

    def keep(self, names: Sequence[str]) -> Taxonomy:
        """Return the taxonomy with only these classes, in this order; objects of the others stay unlabelled.

        Raises:
            DataError: for a name it does not have, or none.
        """
        return replace(self, names=check_names(f"the names of '{self.name}'", names, self.names))

    def base(self) -> Taxonomy:
        """Return the taxonomy with only the classes that are not novel.

        Raises:
            DataError: if none is novel, or all are.
        """
        if not self.novel & set(self.names):
            raise DataError(f"the taxonomy '{self.name}' has no novel classes to leave out; name some by with_novel")
        return self.keep([n for n in self.names if n not in self.novel])

    def with_novel(self, names: Sequence[str]) -> Taxonomy:
        """Return the taxonomy with these classes as its novel ones.

        Raises:
            DataError: for a name it does not have, or none.
        """
        return replace(self, novel=frozenset(check_names(f"novel names of '{self.name}'", names, self.names)))

    @property
    def splits(self) -> tuple[str | None, ...]:
        """For each name "base" or "novel"; None where nothing is novel."""
        if not self.novel:
            return (None,) * len(self.names)
        return tuple("novel" if n in self.novel else "base" for n in self.names)

    def vocabulary(self) -> Vocabulary:
        """Return the names as a `Vocabulary` with base and novel marks."""
        from openvocab.vocabulary import Vocabulary

        return Vocabulary.from_names(self.names, splits=self.splits)


def held_out_pairs(fraction: float = 0.2, seed: int = 0) -> frozenset[tuple[str, str]]:
    """Choose (color, shape) pairs to keep out of training; every color and every shape stays in most of its pairs.

    Args:
        fraction: share of all pairs, more than 0 and at most 0.5.
        seed: which pairs; every color, and every shape, loses the same number.

    Raises:
        DataError: for a fraction out of range, or one so small that it holds out nothing.
    """
    if not 0 < fraction <= 0.5:
        raise DataError(f"fraction must be more than 0 and at most 0.5, got {fraction}")
    count, number = len(COLORS), round(fraction * len(SHAPES))
    if number == 0:
        raise DataError(f"fraction {fraction} holds out nothing; the smallest is {1 / len(SHAPES)}")
    rng = generator(seed, "held out pairs")
    colors, shapes = rng.permutation(list(COLORS)), rng.permutation(list(SHAPES))
    rows = enumerate(shapes)
    return frozenset((str(colors[(i + k) % count]), str(shape)) for i, shape in rows for k in range(number))


def _products() -> dict[str, Taxonomy]:
    color_shape = tuple(f"{c} {s}" for c in COLORS for s in SHAPES)
    size_shape = tuple(f"{z} {s}" for z in SIZES for s in SHAPES)
    novel_pairs = frozenset(" ".join(pair) for pair in held_out_pairs())
    novel_sizes = frozenset(n for n in size_shape if n.split()[1] in NOVEL_SHAPES)
    coarse = tuple((s, "round" if s in ROUND else "angular") for s in SHAPES)
    return {
        "shape": Taxonomy("shape", SHAPES, ("shape",), novel=frozenset(NOVEL_SHAPES)),
        "color": Taxonomy("color", tuple(COLORS), ("color",), novel=frozenset(NOVEL_COLORS)),
        "color_shape": Taxonomy("color_shape", color_shape, ("color", "shape"), novel=novel_pairs),
        "size_shape": Taxonomy("size_shape", size_shape, ("size", "shape"), novel=novel_sizes),
        "coarse": Taxonomy("coarse", ("round", "angular"), ("shape",), groups=coarse),
        "figures": Taxonomy("figures", FIGURES, ("shape",)),
    }


TAXONOMIES: dict[str, Taxonomy] = _products()


def get_taxonomy(taxonomy: str | Taxonomy) -> Taxonomy:
    """Return a taxonomy by name: "shape", "color", "color_shape", "size_shape", "coarse" (or "figures").

    "figures" names the person, ball, box and cone of `ConventionWorld`.

    Raises:
        DataError: for an unknown name.
    """
    if isinstance(taxonomy, Taxonomy):
        return taxonomy
    if taxonomy not in TAXONOMIES:
        raise DataError(
            f"there is no taxonomy '{taxonomy}'.{nearest(taxonomy, TAXONOMIES)} Known: {', '.join(TAXONOMIES)}"
        )
    return TAXONOMIES[taxonomy]
