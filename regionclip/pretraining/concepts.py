"""The concept pool: nouns that captions speak of, cut by frequency (paper, section 3.2).

The paper parses captions with a language parser that is not released and drops concepts below 100 occurrences (4,764 are left of
COCO Captions). Here openvocab's phrase chunker finds the phrases, and a concept is a phrase without its determiners and
adjectives. Files have the official form, `name,count` a line.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from openvocab.errors import DataError, PromptError
from openvocab.io import atomic_write
from openvocab.prompting import noun_phrases
from openvocab.prompting.english import ADJECTIVES, COLORS, DETERMINERS, QUANTITIES
from openvocab.text import TextEncoder, embed_names
from openvocab.vocabulary import Vocabulary

logger = logging.getLogger(__name__)
FORMS = ("head", "compound", "both")
# what stands in a phrase but names nothing by itself
_NOT_NOUNS = ADJECTIVES | COLORS | DETERMINERS | {"and", "of", ","}


@dataclass(frozen=True)
class ConceptPool:
    """C concepts, the most frequent first.

    Attributes:
        names: lower case, unique.
        counts: how often captions speak of each; 0 for those that came from elsewhere.
    """

    names: tuple[str, ...]
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.counts) or not self.names:
            raise DataError(f"a concept pool needs names, and a count for each; got {len(self.names)} and {len(self.counts)}")
        repeated = [n for n, c in Counter(self.names).items() if c > 1]
        if repeated:
            raise DataError(f"the concept '{repeated[0]}' is in the pool twice")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def vocabulary(self) -> Vocabulary:
        """The names as a vocabulary, in the same order."""
        return Vocabulary.from_names(list(self.names))

    def cut(self, min_count: int) -> ConceptPool:
        """Return the concepts with at least `min_count` occurrences.

        Raises:
            DataError: if none is left.
        """
        kept = [(n, c) for n, c in zip(self.names, self.counts, strict=True) if c >= min_count]
        if not kept:
            raise DataError(f"no concept occurs {min_count} times; the most frequent, '{self.names[0]}', has {self.counts[0]}")
        return ConceptPool(tuple(n for n, _ in kept), tuple(c for _, c in kept))

    def extended(self, names: Iterable[str]) -> ConceptPool:
        """Return the pool with more names behind its own, those that it has (whatever their case) left out.

        Raises:
            DataError: for a string instead of names.
        """
        _refuse_string("names", names)
        known = {n.casefold() for n in self.names}
        more = [n for n in dict.fromkeys(" ".join(n.casefold().split()) for n in names) if n and n not in known]
        return ConceptPool((*self.names, *more), (*self.counts, *(0 for _ in more)))

    def save(self, path: str | Path) -> None:
        """Write `name,count` lines.

        Raises:
            DataError: for a name with a comma, which the form cannot hold.
            OSError: if the file cannot be written; an older one stays.
        """
        bad = [n for n in self.names if "," in n or "\n" in n]
        if bad:
            raise DataError(f"the concept '{bad[0]}' has a comma; a line is 'name,count'")
        with atomic_write(path, "w") as file:
            file.writelines(f"{n},{c}\n" for n, c in zip(self.names, self.counts, strict=True))

    @staticmethod
    def load(path: str | Path) -> ConceptPool:
        """Read `name,count` lines (what stands before the first comma is the name), or bare names.

        Raises:
            DataError: if the file is missing, empty, or a count is no number.
        """
        path = Path(path).expanduser()
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"the concept file {path} cannot be read: {error}") from error
        pairs = [_parsed(line, f"{path}, line {i}") for i, line in enumerate(lines, start=1) if line.strip()]
        if not pairs:
            raise DataError(f"the concept file {path} is empty")
        return ConceptPool(tuple(n for n, _ in pairs), tuple(c for _, c in pairs))


def _parsed(line: str, where: str) -> tuple[str, int]:
    name, _, count = line.strip().partition(",")
    count = count.split(",")[0].strip()
    if not name.strip() or not (count.isdigit() or not count):
        raise DataError(f"{where}: '{line.strip()[:60]}' is not 'name,count'")
    return name.strip(), int(count or 0)


def nouns_of(caption: str, *, form: str = "head", backend: str = "rules") -> list[str]:
    """Return the concepts of one caption, in order, with repetitions.

    Args:
        caption: an English sentence; one without a noun phrase gives nothing.
        form: "head": the last noun of each phrase ("cake"); "compound": all its nouns ("birthday cake"); "both".
        backend: of `openvocab.prompting.noun_phrases`.

    Raises:
        DataError: for an unknown form.
    """
    if form not in FORMS:
        raise DataError(f"form='{form}' is not one of {', '.join(FORMS)}")
    try:
        phrases = noun_phrases(caption, backend=backend).names
    except PromptError:
        return []
    found: list[str] = []
    for phrase in phrases:
        nouns = _nouns(phrase)
        if nouns:
            both = dict.fromkeys((nouns[-1], " ".join(nouns)))
            found += both if form == "both" else [list(both)[0 if form == "head" else -1]]
    return found


def _nouns(phrase: str) -> list[str]:
    """ "the two small birthday cakes" -> ["birthday", "cakes"]; "a group of young people" -> ["people"]."""
    words = phrase.casefold().replace("'s", "").split()
    if "of" in words and words[words.index("of") - 1] in QUANTITIES:
        words = words[words.index("of") + 1 :]
    nouns = [w.strip(".,;:!?\"'()") for w in words]
    return [w for w in nouns if w and w not in _NOT_NOUNS and not w.isdigit() and any(c.isalpha() for c in w)]


def build_pool(
    captions: Iterable[str],
    *,
    min_count: int = 100,
    form: str = "head",
    fold_plurals: bool = True,
    backend: str = "rules",
    extra: Sequence[str] = (),
) -> ConceptPool:
    """Count the nouns of captions and keep the frequent ones.

    Args:
        captions: sentences.
        min_count: fewest occurrences; 100 in the paper.
        form: see `nouns_of`.
        fold_plurals: count "dogs" as "dog" where captions also say "dog" (ours).
        backend: of the phrase chunker.
        extra: names that are in the pool anyway, such as those of a data set.

    Returns:
        the pool; most frequent first, equals by name.

    Raises:
        DataError: if nothing is left, or for a string instead of captions or names.
    """
    _refuse_string("captions", captions)
    _refuse_string("extra", extra)
    counts: Counter[str] = Counter()
    for caption in captions:
        counts.update(nouns_of(caption, form=form, backend=backend))
    if fold_plurals:
        counts = _folded(counts)
    found = sorted(((n, c) for n, c in counts.items() if c >= min_count), key=lambda pair: (-pair[1], pair[0]))
    logger.info("concept pool: %d of %d nouns occur at least %d times", len(found), len(counts), min_count)
    if not found and not extra:
        raise DataError(f"no noun occurs {min_count} times in these captions; lower min_count")
    if not found:
        first, *rest = dict.fromkeys(extra)
        return ConceptPool((" ".join(first.casefold().split()),), (0,)).extended(rest)
    return ConceptPool(tuple(n for n, _ in found), tuple(c for _, c in found)).extended(extra)


def _refuse_string(what: str, value: object) -> None:
    """A string would be taken for a list of its letters."""
    if isinstance(value, str):
        raise DataError(f"{what}={value[:60]!r} is one string; give a list of them")


def _folded(counts: Counter[str]) -> Counter[str]:
    result: Counter[str] = Counter()
    for name, count in counts.items():
        result[next((s for s in _singulars(name) if s in counts), name)] += count
    return result


def _singulars(name: str) -> list[str]:
    """Return what the singular of a name may be; a guess that is no word does no harm, since captions must know it."""
    start, _, last = name.rpartition(" ")
    before = f"{start} " if start else ""
    irregular = _IRREGULAR.get(last)
    if irregular:
        return [before + irregular]
    if len(last) < 4 or not last.endswith("s") or last.endswith("ss"):
        return []
    guesses = [last[:-3] + "y"] if last.endswith("ies") else []
    guesses += [last[:-1]]
    guesses += [last[:-2]] if last.endswith("es") else []
    return [before + g for g in guesses]


_IRREGULAR = {
    "men": "man", "women": "woman", "children": "child", "feet": "foot", "teeth": "tooth", "mice": "mouse", "geese": "goose",
    "knives": "knife", "leaves": "leaf", "shelves": "shelf", "loaves": "loaf", "wolves": "wolf", "calves": "calf",
}  # fmt: skip


def embed_concepts(pool: ConceptPool, encoder: TextEncoder, *, recipe: str = "regionclip") -> Tensor:
    """Embed the concepts: (C, D).

    Args:
        pool: C concepts.
        encoder: any text encoder, D wide.
        recipe: of `openvocab.text.RECIPES`: "regionclip" is the mean of 81 raw sentence vectors, not normalised.

    Raises:
        TextEncoderError, PromptError: as `openvocab.text.embed_names`.
    """
    return embed_names(encoder, pool.vocabulary, recipe)[0]
