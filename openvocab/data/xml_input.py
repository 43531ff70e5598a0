"""Reading XML from strangers: no document type, hence no entities, no external files, no expansion."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from openvocab.errors import DataError

MAX_BYTES = 20_000_000
MAX_DEPTH = 60


def read_xml(path: str | Path) -> Element:
    """Read an XML file.

    Raises:
        DataError: if it is missing, no XML, over 20 MB, nested over 60 deep, or declares a document type (where entity
        attacks
            live).
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    if path.stat().st_size > MAX_BYTES:
        raise DataError(f"{path} has more than {MAX_BYTES} bytes; an annotation file is not that large")
    builder, depth = TreeBuilder(), 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise DataError(f"{path} is nested more than {MAX_DEPTH} deep")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse(*_: object) -> None:
        raise DataError(f"{path} declares a document type or an entity; remove it: such files can attack a parser")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, builder.data
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = parser.ExternalEntityRefHandler = refuse
    try:
        parser.Parse(path.read_bytes(), True)
    except (expat.ExpatError, OSError, ValueError, LookupError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is no XML that can be read: {error}") from error
    return builder.close()
