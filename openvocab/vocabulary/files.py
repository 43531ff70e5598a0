"""Vocabularies in files of the user."""

from __future__ import annotations

import json
import re
from pathlib import Path

from openvocab.errors import VocabularyError

from .checks import check_text, clean_name
from .vocabulary import Vocabulary

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
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise VocabularyError(f"{path} is no UTF-8 text: {error.reason} at byte {error.start}") from error
    return _from_json(text, path) if path.suffix.lower() == ".json" else _from_lines(text, path)


def _from_json(text: str, path: Path) -> Vocabulary:
    try:
        content = json.loads(text)
        return Vocabulary.from_dict(content) if isinstance(content, dict) else Vocabulary.from_names(content)
    except json.JSONDecodeError as error:
        raise VocabularyError(f"{path} is no json: {error.msg} in line {error.lineno}") from error
    except RecursionError as error:
        raise VocabularyError(f"{path} is no list of names: its json is nested too deeply") from error
    except VocabularyError as error:
        raise VocabularyError(f"{path}: {error}") from error


def _from_lines(text: str, path: Path) -> Vocabulary:
    """Read a name a line; "#" opens a comment at a line's start or after a blank, so that "C#" is a name."""
    prompts: dict[str, str] = {}
    lines: dict[str, int] = {}
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), start=1):
        line = re.sub(r"(^|\s)#.*", "", line)
        if not line.strip():
            continue
        name, _, prompt = line.partition(":")
        where = f"{path}, line {number}: "
        name = check_text(name, where + "the name")
        if name in lines:
            raise VocabularyError(f"{where}'{name}' stands in line {lines[name]} already")
        lines[name] = number
        prompts[name] = check_text(prompt, where + "the prompt") if prompt.strip() else clean_name(name)
    if not prompts:
        raise VocabularyError(f"{path} holds no names")
    return Vocabulary.from_names(list(prompts), prompts=list(prompts.values()))
