"""Lines of a text file: strict UTF-8, with numbers, in bounded memory."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from coldfusion_queue.errors import InvalidDatasetError

__all__ = ["MAX_LINE_BYTES", "read_lines"]

#: A longer line is refused. It is also the longest text and, of CSV, the longest field.
MAX_LINE_BYTES = 16 * 2**20

_BUFFER_BYTES = 1 << 20
_UTF8 = "save the file as UTF-8, for example with iconv -f LATIN1 -t UTF-8"


def read_lines(path: Path, name: str) -> Iterator[tuple[int, str]]:
    """Yield each line with its number, which counts from 1; line ends are kept.

    A byte order mark at the beginning is dropped.

    Args:
        path: the file.
        name: what messages call it.

    Raises:
        InvalidDatasetError: a line is longer than ``MAX_LINE_BYTES``, of which no more than one
            byte beyond the limit is read, is not UTF-8, or holds a NUL byte.
    """
    with path.open("rb", buffering=_BUFFER_BYTES) as file:
        offset = 0
        for number, line in enumerate(_raw_lines(file, name), start=1):
            yield number, _decode(line, number, offset, name)
            offset += len(line)


def _raw_lines(file: BinaryIO, name: str) -> Iterator[bytes]:
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            problem = f"line {number} is longer than {MAX_LINE_BYTES >> 20} MiB"
            raise InvalidDatasetError(name, problem, "write one example a line, and shorter texts")
        yield line


def _decode(line: bytes, number: int, offset: int, name: str) -> str:
    start = len(codecs.BOM_UTF8) if offset == 0 and line.startswith(codecs.BOM_UTF8) else 0
    problem = ""
    try:
        text = line[start:].decode("utf-8")
    except UnicodeDecodeError as error:
        problem = f"line {number} is not UTF-8 at byte {offset + start + error.start} of the file"
    if problem:
        raise InvalidDatasetError(name, problem, _UTF8)
    if "\0" in text:
        where = offset + line.index(0)
        problem = f"line {number} holds a NUL byte at byte {where} of the file, expected text"
        raise InvalidDatasetError(name, problem, _UTF8 + ", or give a .parquet file its extension")
    return text
