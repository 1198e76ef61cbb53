"""Data files as tables, by their extension."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from coldfusion_queue.errors import InvalidDatasetError
from coldfusion_queue.intake.lines import MAX_LINE_BYTES, read_lines
from coldfusion_queue.intake.problems import listed, printable
from coldfusion_queue.intake.rows import Row, Table

__all__ = ["EXTENSIONS", "CsvTable", "JsonLinesTable", "open_table"]

#: Extensions of the files that ``open_table`` reads.
EXTENSIONS = frozenset({".jsonl", ".json", ".csv", ".tsv", ".parquet"})

_NUM_PEEKED = 100
_ONE_OBJECT = 'write one JSON object a line, such as {"text": ..., "label": ...}'


def open_table(path: Path, name: str | None = None) -> Table:
    """Make a table of a data file, by its extension; nothing is read yet.

    Args:
        path: a regular file with one of ``EXTENSIONS``.
        name: what messages call it, printable; by default the path.
    """
    shown = printable(str(path)) if name is None else name
    match path.suffix.lower():
        case ".parquet":
            from coldfusion_queue.intake.parquet import ParquetTable

            return ParquetTable(path, shown)
        case ".csv" | ".tsv":
            return CsvTable(path, shown)
        case _:
            return JsonLinesTable(path, shown)


class JsonLinesTable:
    """One JSON object a line; blank lines are skipped.

    Its columns are the keys of the first 100 objects; a key that an object lacks is null.
    """

    unit = "line"
    is_typed = True

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self.name = name

    def columns(self) -> tuple[str, ...]:
        """Keys of the first objects, in the order in which they appear."""
        keys: dict[str, None] = {}
        for _, item in islice(self._objects(), _NUM_PEEKED):
            keys.update(dict.fromkeys(item))
        return tuple(keys)

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """Yield the values of these keys, line by line."""
        for number, item in self._objects():
            yield number, tuple(item.get(column) for column in columns)

    def _objects(self) -> Iterator[tuple[int, dict[str, object]]]:
        for number, line in read_lines(self._path, self.name):
            if line.strip():
                yield number, self._parse(number, line)

    def _parse(self, number: int, line: str) -> dict[str, object]:
        try:
            item = json.loads(line.rstrip())
        except json.JSONDecodeError as error:
            problem = f"line {number} is not valid JSON at column {error.pos + 1}"
        except (RecursionError, ValueError):  # ValueError: a number of thousands of digits
            problem = f"line {number} is JSON nested too deep or with too long a number"
        else:
            if isinstance(item, dict):
                return item
            problem = f"line {number} is a JSON {_json_type(item)}, expected an object"
        raise InvalidDatasetError(self.name, problem, _ONE_OBJECT)


class CsvTable:
    """Comma or, in ``.tsv``, tab separated values with a header line; blank lines are skipped."""

    unit = "line"
    is_typed = False

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        self.name = name

    def columns(self) -> tuple[str, ...]:
        """The header line."""
        for _, header in self._records():
            names = tuple(name.strip() for name in header)
            doubled = sorted({name for name in names if name and names.count(name) > 1})
            if doubled:
                problem = f"its header names {listed(doubled)} more than once"
                raise InvalidDatasetError(self.name, problem, "give every column its own name")
            return names
        return ()

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """Yield the fields of these columns, record by record."""
        header = self.columns()
        indices = [header.index(column) for column in columns]
        for number, record in islice(self._records(), 1, None):
            if len(record) != len(header):
                problem = (
                    f"line {number} has {len(record)} fields, expected {len(header)} as in line 1"
                )
                remedy = "put texts that hold a comma, tab or line break in double quotes"
                raise InvalidDatasetError(self.name, problem, remedy)
            yield number, tuple(record[index] for index in indices)

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        csv.field_size_limit(MAX_LINE_BYTES)  # of the whole process; the default is 128 KiB
        lines = (line for _, line in read_lines(self._path, self.name))
        reader = csv.reader(lines, delimiter=self._delimiter, strict=True)
        while True:
            number = reader.line_num + 1
            try:
                record = next(reader, None)
            except csv.Error:
                break
            if record is None:
                return
            if record:
                yield number, record
        problem = f"the record that begins at line {number} is not valid CSV"
        remedy = 'close every double quote, and write one within a text as ""'
        raise InvalidDatasetError(self.name, problem, remedy)


def _json_type(item: object) -> str:
    names = {list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(item), "number")
