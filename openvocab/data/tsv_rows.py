"""Rows of large tab-separated files, found by their place on the disk; a picture in such a row has an address like a file name.

GLIP's pretraining data come so: a row a picture, the last column of which is the picture's file in base64. The files are never read
into memory: one number a row says where it begins. These numbers stand in a `.lineidx` beside the file (text, a number a line), or
are found by looking through the file once; to write them for good:

    python -m openvocab.data.tsv_rows cc3m.img.tsv cc3m.label.tsv
"""

from __future__ import annotations

import base64
import binascii
import logging
import re
from pathlib import Path
from typing import BinaryIO

import numpy as np

from openvocab.errors import DataError, InputError, ToolParser, cli_main

MAX_ROW = 1 << 28
"""Most bytes of a row; a damaged file may have no line ends at all."""
_BLOCK = 1 << 24
_PLACE = re.compile(r"(?P<file>.+\.tsv)@(?P<offset>\d{1,18})")
logger = logging.getLogger(__name__)


def find_rows(path: Path) -> np.ndarray:
    """Return where the rows of a file begin, (R,) int64 bytes, by looking through it once, block by block.

    Raises:
        DataError: if it cannot be read.
    """
    found, start, ended = [np.zeros(1, dtype=np.int64)], 0, True
    try:
        with open(path, "rb") as file:
            while block := file.read(_BLOCK):
                found.append(np.flatnonzero(np.frombuffer(block, dtype=np.uint8) == 10) + (start + 1))
                start, ended = start + len(block), block.endswith(b"\n")
    except OSError as error:
        raise DataError(f"the file {path} cannot be read: {error}") from error
    rows = np.concatenate(found)
    return rows[:-1] if ended else rows


def read_row(file: BinaryIO, offset: int) -> list[bytes]:
    """Return the columns of the row that begins at byte `offset` of an open file.

    Raises:
        DataError: if no row begins there, or it is longer than `MAX_ROW`.
    """
    file.seek(max(offset - 1, 0))
    begins = offset == 0 or file.read(1) == b"\n"
    row = file.readline(MAX_ROW) if begins else b""
    if not row:
        raise DataError(f"no row begins at byte {offset}: the file is another than the one that was looked through")
    if len(row) == MAX_ROW:
        raise DataError(f"the row at byte {offset} is longer than {MAX_ROW} bytes")
    return [column.strip() for column in row.split(b"\t")]


class TsvRows:
    """The rows of a `.tsv` by number; the offsets are read, or looked for, when the first one is asked for.

    Args:
        path: the file.

    Raises:
        DataError: if it is not there.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.suffix != ".tsv" or not self.path.is_file():
            raise DataError(f"there is no .tsv file {self.path}")
        self._offsets: np.ndarray | None = None

    @property
    def offsets(self) -> np.ndarray:
        """Where each row begins, (R,) int64 bytes.

        Raises:
            DataError: if the `.lineidx` beside the file cannot be read or is of another file.
        """
        if self._offsets is None:
            index = self.path.with_suffix(".lineidx")
            if index.is_file():
                self._offsets = _read_index(index, self.path)
            else:
                logger.info("looking for the rows of %s; `python -m openvocab.data.tsv_rows %s` keeps them", self.path, self.path)
                self._offsets = find_rows(self.path)
        return self._offsets

    def __len__(self) -> int:
        return len(self.offsets)

    def offset(self, number: int) -> int:
        """Where row `number` begins.

        Raises:
            DataError: if there is no such row.
        """
        if not 0 <= number < len(self):
            raise DataError(f"{self.path} has {len(self)} rows, and row {number} is asked for (they count from 0)")
        return int(self.offsets[number])

    def __getitem__(self, number: int) -> list[bytes]:
        """The columns of a row.

        Raises:
            DataError: if there is no such row, or the file does not have it where the index says.
        """
        try:
            with open(self.path, "rb") as file:
                return read_row(file, self.offset(number))
        except OSError as error:
            raise DataError(f"the file {self.path} cannot be read: {error}") from error


def _read_index(index: Path, path: Path) -> np.ndarray:
    """Read a `.lineidx`, and make sure that its last row is the last of the file."""
    try:
        offsets = np.array(index.read_bytes().split(), dtype=np.int64)
    except (OSError, ValueError, OverflowError) as error:
        raise DataError(f"{index} holds no line offsets: {error}") from error
    good = not len(offsets) or (offsets[0] == 0 and (np.diff(offsets) > 0).all())
    if good:
        with open(path, "rb") as file:
            try:
                good = bool(read_row(file, int(offsets[-1])) if len(offsets) else True) and not file.read(1)
            except DataError:
                good = False
    if not good:
        raise DataError(f"{index} is not of {path}; remove it, or write it anew: python -m openvocab.data.tsv_rows {path}")
    return offsets


def place_of(file_name: str, offset: int) -> str:
    """Return the address of the picture in the row at byte `offset`; `read_image` takes it in the place of a file's name."""
    return f"{file_name}@{offset}"


def picture_in(address: str | Path) -> bytes | None:
    """Return the file of a picture in a row, by its address; None for anything that is no such address of a file that is there.

    Raises:
        InputError: if there is no such row, or no base64 in its last column.
    """
    match = _PLACE.fullmatch(str(address))
    if match is None or not Path(match["file"]).is_file():
        return None
    try:
        with open(match["file"], "rb") as file:
            columns = read_row(file, int(match["offset"]))
        if len(columns) < 2 or not columns[-1]:
            raise DataError(f"the row has {len(columns)} columns; a key and a picture are needed")
        return base64.b64decode(columns[-1], validate=True)
    except (DataError, OSError, binascii.Error) as error:
        raise InputError(f"the picture {address} cannot be read: {error}") from error


def main(argv: list[str] | None = None) -> int:
    """Write the offsets of the rows of .tsv files, to a .lineidx beside each."""
    from openvocab.io import atomic_write

    parser = ToolParser(description=main.__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="TSV")
    for path in parser.parse_args(argv).files:
        TsvRows(path)  # says what is missing
        offsets = find_rows(path)
        with atomic_write(path.with_suffix(".lineidx"), "w") as file:
            file.writelines(f"{n}\n" for n in offsets.tolist())
        print(f"{len(offsets)} rows: {path.with_suffix('.lineidx')}")
    return 0


if __name__ == "__main__":
    cli_main(main)
