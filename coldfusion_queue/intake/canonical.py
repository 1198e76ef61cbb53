"""The canonical form of a split: a Parquet file whose bytes follow from its rows alone.

Columns: ``text``, ``text_pair`` for pairs, ``label``; the label is an int64 index of a class or
a float64. The bytes also depend on the version of pyarrow, which writes its name into the file:
two versions give one dataset two ids, which costs an upload and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coldfusion_queue.records import Objective

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

__all__ = ["label_type", "opened_writer", "relabel", "schema"]


def schema(is_pair: bool, label: pa.DataType) -> pa.Schema:
    """The columns of a file.

    Args:
        is_pair: each example has two texts.
        label: type of the label: a string while staging, then see ``label_type``.
    """
    import pyarrow as pa

    texts = [("text", pa.string())] + ([("text_pair", pa.string())] if is_pair else [])
    fields = [pa.field(name, kind, nullable=False) for name, kind in [*texts, ("label", label)]]
    return pa.schema(fields)


def label_type(objective: Objective) -> pa.DataType:
    """int64 for classes, float64 for numbers."""
    import pyarrow as pa

    return pa.int64() if objective is Objective.CLASSIFICATION else pa.float64()


@contextmanager
def opened_writer(path: Path, columns: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """Write a Parquet file; each table written becomes one row group."""
    import pyarrow.parquet as pq

    with (
        path.open("wb") as file,
        pq.ParquetWriter(
            file,
            columns,
            version="2.6",
            compression="zstd",
            compression_level=3,
            use_dictionary=False,
            write_statistics=False,
            store_schema=False,
        ) as writer,
    ):
        yield writer


def relabel(source: Path, target: Path, objective: Objective, classes: Sequence[str]) -> None:
    """Copy a staged split, row group by row group, with labels as indices or numbers.

    Args:
        source: a file whose labels are strings.
        target: the file to write.
        objective: decides the type of the labels.
        classes: names of the classes in the order of their indices.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    index = {name: number for number, name in enumerate(classes)}
    kind = label_type(objective)
    with pq.ParquetFile(source) as file:
        columns = file.schema_arrow.set(len(file.schema_arrow) - 1, pa.field("label", kind, False))
        with opened_writer(target, columns) as writer:
            for number in range(file.num_row_groups):
                group = file.read_row_group(number)
                texts: list[Any] = group.column("label").to_pylist()
                labels = [index[text] if index else float(text) for text in texts]
                values = [*group.columns[:-1], pa.array(labels, kind)]
                writer.write_table(pa.table(values, schema=columns), len(labels))
