"""Rows of a Parquet file, read in batches."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from coldfusion_queue.disk import disk_errors
from coldfusion_queue.errors import InvalidDatasetError
from coldfusion_queue.intake.problems import listed
from coldfusion_queue.intake.rows import Row

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

__all__ = ["ParquetTable", "named_class"]

_BATCH_ROWS = 1024
_WRITE_AGAIN = "write it again; a .parquet file has to be complete, with UTF-8 texts"


class ParquetTable:
    """A Parquet file; class indices that `datasets` wrote become their names."""

    unit = "row"
    is_typed = True

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self.name = name

    def columns(self) -> tuple[str, ...]:
        """Names of the top-level columns."""
        with self._opened() as file:
            names = tuple(file.schema_arrow.names)
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            problem = f"it has more than one column {listed(doubled)}"
            raise InvalidDatasetError(self.name, problem, "give every column its own name")
        return names

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """Yield the values of these columns; other columns are not read."""
        with self._opened() as file:
            names = _class_names(file.schema_arrow)
            number = 0
            for batch in file.iter_batches(_BATCH_ROWS, columns=list(dict.fromkeys(columns))):
                values = [self._values(batch, column, names) for column in columns]
                for row in zip(*values, strict=True):
                    number += 1
                    yield number, row

    def _values(
        self, batch: pa.RecordBatch, column: str, names: Mapping[str, list[str]]
    ) -> list[object]:
        values: list[object] = batch.column(column).to_pylist()
        if column in names:
            return [named_class(value, names[column]) for value in values]
        return values

    @contextmanager
    def _opened(self) -> Iterator[pq.ParquetFile]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        damage = False
        try:
            with disk_errors(self._path), pq.ParquetFile(self._path) as file:
                yield file
        except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the machine's, not the file's
            damage = True
        if damage:
            raise InvalidDatasetError(
                self.name, "it is not a Parquet file or damaged", _WRITE_AGAIN
            )


def named_class(value: object, names: Sequence[str]) -> object:
    """The name of a class index; None for -1, which stands for "no label", and other strays."""
    if isinstance(value, int):
        return names[value] if 0 <= value < len(names) else None
    return value


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    # `datasets` keeps its features as JSON in the file's metadata.
    try:
        metadata = json.loads((schema.metadata or {})[b"huggingface"])
        features = metadata["info"]["features"]
        return {
            column: [str(name) for name in feature["names"]]
            for column, feature in features.items()
            if feature.get("_type") == "ClassLabel"
        }
    except (KeyError, TypeError, AttributeError, ValueError):
        return {}
