"""The examples of a split in canonical form, for the worker that finetunes on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coldfusion_queue.errors import InvalidRecordError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Examples", "load_examples", "read_examples"]

_BATCH_ROWS = 10_000


@dataclass(frozen=True)
class Examples:
    """The examples of one split, in order."""

    texts: list[str]
    pairs: list[str] | None
    """Second texts; None for single texts."""
    labels: list[int] | list[float]
    """Indices into ``DatasetRecord.labels``, or numbers for regression."""

    def __len__(self) -> int:
        return len(self.texts)

    def subset(self, indices: Iterable[int]) -> Examples:
        """Some of the examples, in the order of their indices."""
        picked = list(indices)
        pairs = None if self.pairs is None else [self.pairs[index] for index in picked]
        labels: list[Any] = [self.labels[index] for index in picked]
        return Examples([self.texts[index] for index in picked], pairs, labels)


def load_examples(path: Path) -> Examples:
    """Read a split in canonical form.

    Raises:
        InvalidRecordError: the file is no such split.
    """
    batches = list(read_examples(path))
    pairs = [batch.pairs for batch in batches if batch.pairs is not None]
    return Examples(
        [text for batch in batches for text in batch.texts],
        [text for batch in pairs for text in batch] if pairs else None,
        [label for batch in batches for label in batch.labels],
    )


def read_examples(path: Path) -> Iterator[Examples]:
    """Read a split in canonical form, some thousand examples at a time.

    Raises:
        InvalidRecordError: the file is no such split.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            _check_schema(file.schema_arrow, path)
            for batch in file.iter_batches(_BATCH_ROWS):
                values: dict[str, list[Any]] = batch.to_pydict()
                yield Examples(values["text"], values.get("text_pair"), values["label"])
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InvalidRecordError(str(path), "dataset split", "damaged Parquet file") from error


def _check_schema(found: pa.Schema, path: Path) -> None:
    import pyarrow as pa

    from coldfusion_queue.intake.canonical import schema

    expected = [
        schema(is_pair, label) for is_pair in (False, True) for label in (pa.int64(), pa.float64())
    ]
    if not any(found.equals(one) for one in expected):
        raise InvalidRecordError(str(path), "dataset split", "other columns than it should have")
