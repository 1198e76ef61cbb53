"""One pass over the rows of a split: each is checked, counted and written to a staging file.

Labels are staged as text, because their indices are known only once all rows were seen. Memory
is bounded by a row group, the longest line and the different labels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from coldfusion_queue.errors import InvalidDatasetError
from coldfusion_queue.intake.canonical import opened_writer, schema
from coldfusion_queue.intake.columns import Columns
from coldfusion_queue.intake.labels import LabelUse, read_label
from coldfusion_queue.intake.lines import MAX_LINE_BYTES
from coldfusion_queue.intake.problems import Place, Tally, named_column
from coldfusion_queue.intake.rows import Table

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

__all__ = ["stage_split"]

_GROUP_ROWS = 1 << 15
_GROUP_BYTES = 32 << 20
_NOT_TEXT = "is no text"
_EMPTY = "is empty"
_SURROGATES = "holds half a surrogate pair, which is no Unicode character,"
_TOO_LONG = f"is longer than {MAX_LINE_BYTES >> 20} MiB"
_REMEDIES = {
    _NOT_TEXT: "name another column, or write its values as strings",
    _EMPTY: "fill these texts, or remove the rows",
    _SURROGATES: "write these characters as UTF-8, or remove them",
    _TOO_LONG: "cut these texts",
}


def stage_split(tables: Sequence[Table], columns: Columns, path: Path) -> LabelUse:
    """Check the texts of a split and write them, with their labels as text, to a Parquet file.

    Args:
        tables: the parts of the split, in order.
        columns: which columns they are in.
        path: the file to write.

    Returns:
        What the labels are and where; they are not checked yet.

    Raises:
        InvalidDatasetError: a row cannot be read, or texts are missing, empty or no text.
    """
    import pyarrow as pa

    use, texts = LabelUse(tables[0].name), _TextCheck()
    staged = schema(columns.text_pair is not None, pa.string())
    with opened_writer(path, staged) as writer:
        group = _Group(writer, staged)
        for table in tables:
            for number, values in table.rows(columns.all):
                place = Place(table.name, table.unit, number)
                kind, label = read_label(values[-1], table.is_typed)
                use.add(kind, label, place)
                num_bytes = texts.check(values[:-1], columns, place)
                if not texts.tallies:  # a refused split need not be written to its end
                    group.add([*values[:-1], label], num_bytes)
        texts.raise_first()
        group.flush()
    if use.num_rows == 0:
        problem = "it has no rows, expected labelled examples"
        raise InvalidDatasetError(use.name, problem, "write one labelled example a line")
    return use


@dataclass
class _TextCheck:
    """Counts the texts that cannot be taken, by column and problem."""

    tallies: dict[tuple[str, str], Tally] = field(default_factory=lambda: defaultdict(Tally))

    def check(self, texts: Sequence[object], columns: Columns, place: Place) -> int:
        """Check the texts of one row; their size in bytes."""
        total = 0
        for column, text in zip(columns.all, texts, strict=False):
            problem, num_bytes = _problem(text)
            total += num_bytes
            if problem is not None:
                self.tallies[column, problem].add(place)
        return total

    def raise_first(self) -> None:
        """Refuse the dataset if any text was."""
        for (column, problem), tally in self.tallies.items():
            message = f"column {named_column(column)} {problem} in {tally.describe()}"
            raise InvalidDatasetError(tally.source, message, _REMEDIES[problem])


def _problem(text: object) -> tuple[str | None, int]:
    if text is None:
        return _EMPTY, 0
    if not isinstance(text, str):
        return _NOT_TEXT, 0
    try:
        num_bytes = len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError:
        return _SURROGATES, 0
    if not text or text.isspace():
        return _EMPTY, 0
    return (_TOO_LONG if num_bytes > MAX_LINE_BYTES else None), num_bytes


class _Group:
    """Rows of the row group that is being filled; where it ends depends on the rows alone."""

    def __init__(self, writer: pq.ParquetWriter, columns: pa.Schema) -> None:
        self._writer = writer
        self._columns = columns
        self._rows: list[list[object]] = []
        self._num_bytes = 0

    def add(self, row: list[object], num_bytes: int) -> None:
        self._rows.append(row)
        self._num_bytes += num_bytes
        if len(self._rows) >= _GROUP_ROWS or self._num_bytes >= _GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        import pyarrow as pa

        if not self._rows:
            return
        values = [pa.array(column, pa.string()) for column in zip(*self._rows, strict=True)]
        self._writer.write_table(pa.table(values, schema=self._columns), len(self._rows))
        self._rows, self._num_bytes = [], 0
