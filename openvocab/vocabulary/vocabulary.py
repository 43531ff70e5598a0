"""`Vocabulary`: the names a detector looks for, and all that belongs to a name."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from openvocab.errors import VocabularyError, nearest

from .checks import (
    FREQUENCIES,
    SPLITS,
    check_aliases,
    check_contexts,
    check_marks,
    check_names,
    check_templates,
    check_text,
    clean_name,
    filled,
)

_KEYS = ("names", "prompts", "aliases", "frequencies", "splits", "templates", "contexts")


@dataclass(frozen=True)
class Vocabulary:
    """An immutable list of names; names travel with everything that is said about them.

    Build one with `from_names` and its sisters, which check; two with the same content are equal and hash alike.

    Attributes:
        names: as the data set spells them; unique ("Q" and "q" are two names: some data sets have both).
        prompts: the text that stands for each name in captions and templates; by default the cleaned name. Two names
            may share one (LVIS: "bow_(weapon)" and "bow_(decorative_ribbons)").
        aliases: other spellings of each name.
        frequencies: "r", "c", "f" (LVIS) or None.
        splits: "base", "novel" or None.
        templates: prompt templates with one "{}"; text embeddings are averaged over them.
        contexts: (prefix, suffix) written around each prompt in a caption, not part of the phrase that is looked for
            (ODinW's engineered prompts: "there is a ", "package", " on the porch").
    """

    names: tuple[str, ...]
    prompts: tuple[str, ...]
    aliases: tuple[tuple[str, ...], ...] = field(repr=False)
    frequencies: tuple[str | None, ...] = field(repr=False)
    splits: tuple[str | None, ...] = field(repr=False)
    templates: tuple[str, ...] = ("{}",)
    contexts: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if not self.contexts:
            object.__setattr__(self, "contexts", (("", ""),) * len(self.names))

    @staticmethod
    def from_names(
        names: Sequence[str],
        *,
        prompts: Sequence[str | None] | None = None,
        aliases: Sequence[Sequence[str]] | None = None,
        frequencies: Sequence[str | None] | None = None,
        splits: Sequence[str | None] | None = None,
        templates: Sequence[str] | None = None,
        contexts: Sequence[tuple[str, str]] | None = None,
        case_sensitive: bool = True,
    ) -> Vocabulary:
        """Build a vocabulary from a list of names; names are NFC-normalised, blanks become single.

        Args:
            names: K names; the other lists have one entry a name.
            prompts: None, as a whole or for a name: the cleaned name.
            case_sensitive: False refuses "Cat" beside "cat".

        Raises:
            VocabularyError: for a string or a set instead of a list, no names, a blank, repeated, over-long (200
                characters) or non-string name, lists of different lengths, or a template without "{}".
        """
        names = check_names(names, case_sensitive=case_sensitive)
        cleaned = [clean_name(n) for n in names]
        prompts = [c if p is None else p for p, c in zip(filled(prompts, cleaned, "prompts"), cleaned, strict=True)]
        nothing = [None] * len(names)
        return Vocabulary(
            names=names,
            prompts=tuple(check_text(p, f"the prompt of name {i}") for i, p in enumerate(prompts)),
            aliases=check_aliases(filled(aliases, [()] * len(names), "aliases")),
            frequencies=check_marks(filled(frequencies, nothing, "frequencies"), FREQUENCIES, "frequency"),
            splits=check_marks(filled(splits, nothing, "splits"), SPLITS, "split"),
            templates=check_templates(templates),
            contexts=check_contexts(filled(contexts, [("", "")] * len(names), "contexts")),
        )

    @staticmethod
    def from_caption(caption: str) -> Vocabulary:
        """Split "cat. remote control." at full stops, semicolons and line ends.

        A name with a full stop inside, such as "St. Bernard", must be given in a list.

        Raises:
            VocabularyError: if no name is left, or one is there twice, in whatever case.
        """
        if not isinstance(caption, str):
            raise VocabularyError(f"a caption must be a string, not {type(caption).__name__}")
        names = [part for part in re.split(r"[.;\r\n]", caption) if part.strip()]
        if not names:
            raise VocabularyError("the prompt is empty: write names such as 'cat. remote control.'")
        return Vocabulary.from_names(names, case_sensitive=False)

    @staticmethod
    def from_file(path: str | Path) -> Vocabulary:
        """Read a text file (a line a name, `name` or `name: prompt`, # comments) or json (a list, or `to_dict`'s form).

        Raises:
            VocabularyError: naming the file, and in text files the line.
        """
        from .files import read_vocabulary

        return read_vocabulary(Path(path))

    @staticmethod
    def builtin(name: str) -> Vocabulary:
        """Return a list that ships with the package, such as "coco" or "lvis"; see `builtin_names`.

        Raises:
            VocabularyError: with the nearest names.
        """
        from .builtin import load_builtin

        return load_builtin(name)

    @staticmethod
    def builtin_names() -> list[str]:
        """Names of the built-in vocabularies."""
        from .builtin import builtin_names

        return builtin_names()

    @staticmethod
    def coerce(value: str | Sequence[str] | Vocabulary) -> Vocabulary:
        """Turn user input into a vocabulary: a caption, a list of names, or a vocabulary itself.

        Raises:
            VocabularyError: for anything else, and for "Cat" beside "cat".
        """
        if isinstance(value, Vocabulary):
            return value
        if isinstance(value, str):
            return Vocabulary.from_caption(value)
        return Vocabulary.from_names(value, case_sensitive=False)

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    @cached_property
    def _positions(self) -> dict[str, int]:
        """Spelling -> position; names go before prompts, prompts before aliases, and the first of equals wins."""
        table = {n: i for i, n in enumerate(self.names)}
        for spellings in (self.names, self.prompts):
            for i, text in enumerate(spellings):
                table.setdefault(text.casefold(), i)
        for i, group in enumerate(self.aliases):
            for text in group:
                table.setdefault(text.casefold(), i)
        return table

    def _find(self, name: object) -> int | None:
        if not isinstance(name, str):
            return None
        return self._positions.get(name, self._positions.get(name.casefold()))

    def index(self, name: str) -> int:
        """Return the position of a name, prompt or alias (case matters only where two names differ by it).

        Raises:
            VocabularyError: if it is not there; the message names the nearest ones.
        """
        position = self._find(name)
        if position is None:
            raise VocabularyError(f"'{name}' is not in this vocabulary.{nearest(name, self.names)}")
        return position

    def __contains__(self, name: object) -> bool:
        return self._find(name) is not None

    def subset(self, indices: Sequence[int]) -> Vocabulary:
        """Return the vocabulary of the names at `indices`, in that order.

        Raises:
            VocabularyError: for an index that is out of range or there twice, or for none.
        """
        chosen = [int(i) for i in indices]
        bad = [i for i in chosen if not 0 <= i < len(self)]
        if bad:
            raise VocabularyError(f"index {bad[0]} is outside a vocabulary of {len(self)} names")
        if not chosen or len(set(chosen)) != len(chosen):
            check_names([self.names[i] for i in chosen], case_sensitive=True)  # raises the fitting error
        picked = {key: tuple(getattr(self, key)[i] for i in chosen) for key in _KEYS if key != "templates"}
        return Vocabulary(**picked, templates=self.templates)

    def rename(self, changes: Mapping[str, str]) -> Vocabulary:
        """Return the vocabulary with some names changed; the old name stays as an alias.

        A prompt that was made from the old name is made anew from the new one; a prompt of its own stays.

        Args:
            changes: name, prompt or alias as it is now -> new name.

        Raises:
            VocabularyError: for a name that is not there, or a new one that is there already.
        """
        names, prompts, aliases = list(self.names), list(self.prompts), list(self.aliases)
        for old, new in changes.items():
            i = self.index(old)
            names[i] = check_text(new, f"the new name of '{old}'")
            aliases[i] = tuple(a for a in (*self.aliases[i], self.names[i]) if a != names[i])
            if self.prompts[i] == clean_name(self.names[i]):
                prompts[i] = clean_name(names[i])
        names = check_names(names, case_sensitive=True)
        return replace(self, names=names, prompts=tuple(prompts), aliases=tuple(aliases))

    def to_dict(self) -> dict:
        """Return plain lists that json can hold."""
        lists = {key: list(getattr(self, key)) for key in _KEYS}
        return {**lists, "aliases": [list(a) for a in self.aliases], "contexts": [list(c) for c in self.contexts]}

    @staticmethod
    def from_dict(value: dict) -> Vocabulary:
        """Undo `to_dict`; all keys but "names" may be absent.

        Raises:
            VocabularyError: for an unknown key, or no names.
        """
        if not isinstance(value, dict) or "names" not in value or set(value) - set(_KEYS):
            got = sorted(map(str, value)) if isinstance(value, dict) else f"a {type(value).__name__}"
            raise VocabularyError(f"a vocabulary is a dict of {', '.join(_KEYS)} (only 'names' is needed), got {got}")
        return Vocabulary.from_names(value["names"], **{k: v for k, v in value.items() if k != "names"})

    def fingerprint(self, encoder: str = "") -> str:
        """16 hex digits that depend on names, prompts, contexts, templates and the `encoder`'s identity alone."""
        content: list = [self.names, self.prompts, self.templates, encoder]
        if any(prefix or suffix for prefix, suffix in self.contexts):
            content.append(self.contexts)
        return hashlib.sha256(json.dumps(content, ensure_ascii=True).encode()).hexdigest()[:16]
