"""Vocabularies in files of the user."""

from __future__ import annotations

import json
from pathlib import Path

from openvocab.errors import VocabularyError

from .vocabulary import Vocabulary, clean_name

MAX_BYTES = 10_000_000


def read_vocabulary(path: Path) -> Vocabulary:
    """Read a text or json file; see `Vocabulary.from_file`.

    Raises:
        VocabularyError: naming the file, and for text files the line.
    """
    if not path.is_file():
        raise VocabularyError(f"there is no vocabulary file {path}")
    if path.stat().st_size > MAX_BYTES:
        raise VocabularyError(f"{path} has {path.stat().st_size} bytes; that is no list of names")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise VocabularyError(f"{path} is no UTF-8 text: {error.reason} at byte {error.start}") from error
    return _from_json(text, path) if path.suffix == ".json" else _from_lines(text, path)


def _from_json(text: str, path: Path) -> Vocabulary:
    try:
        content = json.loads(text)
        return Vocabulary.from_dict(content) if isinstance(content, dict) else Vocabulary.from_names(content)
    except json.JSONDecodeError as error:
        raise VocabularyError(f"{path} is no json: {error.msg} in line {error.lineno}") from error
    except (VocabularyError, TypeError) as error:
        raise VocabularyError(f"{path}: {error}") from error


def _from_lines(text: str, path: Path) -> Vocabulary:
    names, prompts, seen = [], [], {}
    for number, line in enumerate(text.splitlines(), start=1):
        name, _, prompt = (part.strip() for part in line.split("#")[0].partition(":"))
        if not name:
            continue
        if name in seen:
            raise VocabularyError(f"{path}, line {number}: '{name}' stands in line {seen[name]} already")
        seen[name] = number
        names.append(name)
        prompts.append(prompt or clean_name(name))
    if not names:
        raise VocabularyError(f"{path} holds no names")
    return Vocabulary.from_names(names, prompts=prompts)
