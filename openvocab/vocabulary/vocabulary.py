"""`Vocabulary`: the names a detector looks for, and all that belongs to a name."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from openvocab.errors import VocabularyError

MAX_NAME_LENGTH = 200
FREQUENCIES = ("r", "c", "f", None)
SPLITS = ("base", "novel", None)


def clean_name(name: str) -> str:
    """Turn a data set's class name into words: no "(...)", "_" as a blank, single blanks (GLIP's rule, facts 2.1)."""
    cleaned = re.sub(r"\(.*\)", "", name).replace("_", " ")
    return re.sub(r"\s+", " ", cleaned).strip() or name.strip()


def _check_name(name: object, position: int) -> str:
    if not isinstance(name, str):
        raise VocabularyError(f"name {position} is {name!r}, a {type(name).__name__}; names must be strings")
    name = re.sub(r"\s+", " ", unicodedata.normalize("NFC", name)).strip()
    if not name:
        raise VocabularyError(f"name {position} is blank; remove it or give it a text")
    if any(unicodedata.category(c) == "Cc" for c in name):
        raise VocabularyError(f"name {position} ({name!r}) holds control characters")
    if len(name) > MAX_NAME_LENGTH:
        raise VocabularyError(f"name {position} has {len(name)} characters, the limit is {MAX_NAME_LENGTH}: '{name[:40]}...'")
    return name


def _filled(value: Sequence | None, default: Sequence, what: str) -> tuple:
    if value is None:
        return tuple(default)
    if isinstance(value, str) or len(value) != len(default):
        raise VocabularyError(f"{what} must be one entry a name: {len(default)} names, got {value!r:.80}")
    return tuple(value)


@dataclass(frozen=True)
class Vocabulary:
    """An immutable list of names; names travel with everything that is said about them.

    Attributes:
        names: as the data set spells them; unique ("Q" and "q" are two names: some data sets have both).
        prompts: the text that stands for each name in captions and templates; by default the cleaned name.
        aliases: other spellings of each name.
        frequencies: "r", "c", "f" (LVIS) or None.
        splits: "base", "novel" or None.
        templates: prompt templates with one "{}"; text embeddings are averaged over them.
    """

    names: tuple[str, ...]
    prompts: tuple[str, ...]
    aliases: tuple[tuple[str, ...], ...] = field(repr=False)
    frequencies: tuple[str | None, ...] = field(repr=False)
    splits: tuple[str | None, ...] = field(repr=False)
    templates: tuple[str, ...] = ("{}",)

    @staticmethod
    def from_names(
        names: Sequence[str],
        *,
        prompts: Sequence[str] | None = None,
        aliases: Sequence[Sequence[str]] | None = None,
        frequencies: Sequence[str | None] | None = None,
        splits: Sequence[str | None] | None = None,
        templates: Sequence[str] | None = None,
    ) -> Vocabulary:
        """Build a vocabulary from a list of names.

        Raises:
            VocabularyError: for a string instead of a list, no names, a blank, repeated, over-long or non-string name, lists of
                different lengths, or a template without "{}".
        """
        if isinstance(names, (str, bytes)):
            raise VocabularyError(f"{names!r:.80} is a string, not a list of names; use Vocabulary.from_caption for 'cat. dog.'")
        names = tuple(_check_name(n, i) for i, n in enumerate(names))
        if not names:
            raise VocabularyError("a vocabulary needs at least one name")
        seen: set[str] = set()
        for name in names:
            if name in seen:
                raise VocabularyError(f"the name '{name}' is there twice")
            seen.add(name)
        templates = ("{}",) if templates is None else tuple(templates)
        for template in templates or [""]:
            if not isinstance(template, str) or template.count("{}") != 1:
                raise VocabularyError(f"template {template!r} must hold '{{}}' once")
        prompts = _filled(prompts, [clean_name(n) for n in names], "prompts")
        result = Vocabulary(
            names=names,
            prompts=tuple(_check_name(p, i) for i, p in enumerate(prompts)),
            aliases=tuple(tuple(a) for a in _filled(aliases, [()] * len(names), "aliases")),
            frequencies=_filled(frequencies, [None] * len(names), "frequencies"),
            splits=_filled(splits, [None] * len(names), "splits"),
            templates=templates,
        )
        for what, values, allowed in (("frequency", result.frequencies, FREQUENCIES), ("split", result.splits, SPLITS)):
            for value in set(values) - set(allowed):
                raise VocabularyError(f"{what} {value!r} is not one of {allowed}")
        return result

    @staticmethod
    def from_caption(caption: str) -> Vocabulary:
        """Split "cat. remote control." at full stops, semicolons and line ends.

        Raises:
            VocabularyError: if no name is left, or one is there twice.
        """
        if not isinstance(caption, str):
            raise VocabularyError(f"a caption must be a string, not {type(caption).__name__}")
        names = [part.strip() for part in re.split(r"[.;\n]", caption)]
        names = [n for n in names if n]
        if not names:
            raise VocabularyError("the prompt is empty: write names such as 'cat. remote control.'")
        return Vocabulary.from_names(names)

    @staticmethod
    def from_file(path: str | Path) -> Vocabulary:
        """Read a text file (a line a name, `name` or `name: prompt`, # comments) or a json file (a list, or `to_dict`'s form)."""
        from openvocab.vocabulary.files import read_vocabulary

        return read_vocabulary(Path(path))

    @staticmethod
    def builtin(name: str) -> Vocabulary:
        """Return a list that ships with the package, such as "coco" or "lvis"; see `builtin_names`."""
        from openvocab.vocabulary.builtin import load_builtin

        return load_builtin(name)

    @staticmethod
    def builtin_names() -> list[str]:
        """Names of the built-in vocabularies."""
        from openvocab.vocabulary.builtin import builtin_names

        return builtin_names()

    @staticmethod
    def coerce(value: str | Sequence[str] | Vocabulary) -> Vocabulary:
        """Turn user input into a vocabulary: a caption, a list of names, or a vocabulary itself."""
        if isinstance(value, Vocabulary):
            return value
        return Vocabulary.from_caption(value) if isinstance(value, str) else Vocabulary.from_names(value)

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    @cached_property
    def _positions(self) -> dict[str, int]:
        table = {a.casefold(): i for i, group in enumerate(self.aliases) for a in group}
        table.update({p.casefold(): i for i, p in enumerate(self.prompts)})
        table.update({n.casefold(): i for i, n in enumerate(self.names)})
        table.update({n: i for i, n in enumerate(self.names)})  # exact spelling goes first
        return table

    def index(self, name: str) -> int:
        """Return the position of a name, prompt or alias (case does not matter).

        Raises:
            VocabularyError: if it is not there; the message names the nearest ones.
        """
        position = self._positions.get(name, self._positions.get(name.casefold()))
        if position is None:
            from openvocab.errors import nearest

            raise VocabularyError(f"'{name}' is not in this vocabulary.{nearest(name, self.names)}")
        return position

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name in self._positions or name.casefold() in self._positions)

    def subset(self, indices: Sequence[int]) -> Vocabulary:
        """Return the vocabulary of the names at `indices`, in that order.

        Raises:
            VocabularyError: for an index out of range, or none.
        """
        bad = [i for i in indices if not 0 <= i < len(self)]
        if bad:
            raise VocabularyError(f"index {bad[0]} is outside a vocabulary of {len(self)} names")

        def pick(values: tuple) -> tuple:
            return tuple(values[i] for i in indices)

        if len(set(indices)) != len(indices) or len(indices) == 0:
            return Vocabulary.from_names(pick(self.names))  # raises the fitting error
        return Vocabulary(
            names=pick(self.names),
            prompts=pick(self.prompts),
            aliases=pick(self.aliases),
            frequencies=pick(self.frequencies),
            splits=pick(self.splits),
            templates=self.templates,
        )

    def to_dict(self) -> dict:
        """Return plain lists that json can hold."""
        return {
            "names": list(self.names),
            "prompts": list(self.prompts),
            "aliases": [list(a) for a in self.aliases],
            "frequencies": list(self.frequencies),
            "splits": list(self.splits),
            "templates": list(self.templates),
        }

    @staticmethod
    def from_dict(value: dict) -> Vocabulary:
        """Undo `to_dict`; all keys but "names" may be absent.

        Raises:
            VocabularyError: for an unknown key, or no names.
        """
        known = {"names", "prompts", "aliases", "frequencies", "splits", "templates"}
        if "names" not in value or set(value) - known:
            raise VocabularyError(f"a vocabulary has the keys {sorted(known)}, got {sorted(value)}")
        return Vocabulary.from_names(value["names"], **{k: v for k, v in value.items() if k != "names"})

    def fingerprint(self, encoder: str = "") -> str:
        """16 hex digits that depend on names, prompts, templates and the `encoder`'s identity, and on nothing else."""
        text = json.dumps([self.names, self.prompts, self.templates, encoder], ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
