"""Several vocabularies as one: names of the same thing fall together."""

from __future__ import annotations

from collections.abc import Sequence

from openvocab.errors import VocabularyError

from .vocabulary import Vocabulary


def merge(vocabularies: Sequence[Vocabulary]) -> tuple[Vocabulary, list[list[int]]]:
    """Join vocabularies; a name that an earlier one has (as a name, prompt or alias, in whatever case) is not repeated.

    What is said of a name (prompt, context, frequency, split) comes from the first vocabulary that has it; aliases are
    joined. Names of one vocabulary never fall together, whatever their prompts. To join "TV" and "monitor", `rename`
    one of them or give it the other as an alias.

    Args:
        vocabularies: one or more, with the same templates.

    Returns:
        the union of P names, in order of first appearance, and for each vocabulary the (K,) positions of its names.

    Raises:
        VocabularyError: for no vocabulary, or different templates.
    """
    if not vocabularies:
        raise VocabularyError("there is no vocabulary to merge")
    templates = {v.templates for v in vocabularies}
    if len(templates) > 1:
        raise VocabularyError("vocabularies of different templates cannot be merged; make them equal first")
    rows: list[dict] = []
    tables = []
    for vocabulary in vocabularies:
        table = []
        new = _rows(vocabulary)
        for row, place in zip(new, _places(new, rows), strict=True):
            if place is None:
                place = len(rows)
                rows.append(row)
            else:
                rows[place]["aliases"] = _joined(rows[place], row)
            table.append(place)
        tables.append(table)
    lists = {key: [row[key] for row in rows] for key in rows[0]}
    return Vocabulary.from_names(lists.pop("names"), **lists, templates=templates.pop()), tables


def _rows(vocabulary: Vocabulary) -> list[dict]:
    content = {k: v for k, v in vocabulary.to_dict().items() if k != "templates"}
    return [dict(zip(content, values, strict=True)) for values in zip(*content.values(), strict=True)]


def _spellings(rows: list[dict]) -> dict[str, int]:
    known: dict[str, int] = {}
    for key in ("names", "prompts"):
        for i, row in enumerate(rows):
            known.setdefault(row[key].casefold(), i)
    for i, row in enumerate(rows):
        for alias in row["aliases"]:
            known.setdefault(alias.casefold(), i)
    return known


def _places(new: list[dict], rows: list[dict]) -> list[int | None]:
    """Where each new row stands among the rows; the same spelling goes before a similar one, and a place is given once."""
    exact = {row["names"]: i for i, row in enumerate(rows)}
    places = [exact.get(row["names"]) for row in new]
    known, taken = _spellings(rows), set(places)
    for i, row in enumerate(new):
        if places[i] is None:
            texts = (t.casefold() for t in (row["names"], row["prompts"], *row["aliases"]))
            places[i] = next((known[t] for t in texts if t in known and known[t] not in taken), None)
            taken.add(places[i])
    return places


def _joined(first: dict, second: dict) -> list[str]:
    spellings = [*first["aliases"], second["names"], *second["aliases"]]
    return [a for a in dict.fromkeys(spellings) if a != first["names"]]
