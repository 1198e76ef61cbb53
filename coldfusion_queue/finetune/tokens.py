"""A split as the model sees it: token ids in an Arrow file, tokenised once and memory-mapped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from coldfusion_queue.intake.examples import Examples

__all__ = ["TokenizedExamples", "open_tokens", "tokenize", "write_tokens"]

_IDS, _TYPES, _LABEL = "input_ids", "token_type_ids", "label"

Numbers = np.ndarray[Any, np.dtype[Any]]


class TokenizedExamples:
    """Examples of a split, tokenised and not padded.

    Args:
        table: columns ``input_ids``, perhaps ``token_type_ids``, and ``label``.
        padding: for each column but the label what it is padded with.
        rows: (N,) int64 positions in the table, in the order of the examples; None takes all.
        labels: (N,) int64 classes or float32 numbers to train on; None takes the column.
    """

    def __init__(
        self,
        table: pa.Table,
        padding: Mapping[str, int],
        rows: Numbers | None = None,
        labels: Tensor | None = None,
    ) -> None:
        self._table = table
        self._padding = padding
        self._columns = {name: _Column(table[name]) for name in padding}
        self._rows: Numbers = np.arange(len(table)) if rows is None else rows
        self.labels = self.raw_labels() if labels is None else labels
        self.lengths: Numbers = self._columns[_IDS].lengths[self._rows]

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def rows(self) -> Numbers:
        """Which rows of their split these are: (N,) int64."""
        return self._rows

    def raw_labels(self) -> Tensor:
        """Labels as they were uploaded: (N,) int64 or float64."""
        return torch.from_numpy(self._table[_LABEL].to_numpy()[self._rows])

    def subset(self, indices: Numbers) -> TokenizedExamples:
        """Some of the examples, in the order of their indices."""
        labels = self.labels[torch.from_numpy(indices)]
        return TokenizedExamples(self._table, self._padding, self._rows[indices], labels)

    def with_labels(self, labels: Tensor) -> TokenizedExamples:
        """The same examples with other labels to train on."""
        return TokenizedExamples(self._table, self._padding, self._rows, labels)

    def token_ids(self) -> Tensor:
        """Every token that occurs, or pads, sorted: (R,) int64."""
        ids = self._columns[_IDS]
        occurs = np.zeros(max(ids.largest(), self._padding[_IDS]) + 1, dtype=bool)
        occurs[self._padding[_IDS]] = True
        is_whole = len(self._rows) == len(self._table)
        for found in ids.chunks() if is_whole else map(ids.row, self._rows):
            occurs[found] = True
        return torch.from_numpy(np.flatnonzero(occurs))

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Some examples, padded on the right to the longest of them: (B, L) int64 each.

        ``attention_mask`` is missing if there is no padding: then nothing needs to look for it.
        """
        rows = self._rows[np.asarray(indices)]
        lengths = self._columns[_IDS].lengths[rows]
        is_token = np.arange(lengths.max())[None, :] < lengths[:, None]
        batch = {}
        for name, column in self._columns.items():
            padded = np.full(is_token.shape, self._padding[name], dtype=np.int64)
            padded[is_token] = np.concatenate([column.row(row) for row in rows])
            batch[name] = torch.from_numpy(padded)
        if not is_token.all():
            batch["attention_mask"] = torch.from_numpy(is_token.astype(np.int64))
        return batch


class _Column:
    """A column of lists, whose rows are read without a copy."""

    def __init__(self, column: pa.ChunkedArray[Any]) -> None:
        self._chunks = [
            (chunk.offsets.to_numpy(), chunk.values.to_numpy()) for chunk in _lists(column)
        ]
        lengths = [np.diff(offsets) for offsets, _ in self._chunks]
        self._first = np.cumsum([0, *map(len, lengths)])
        self.lengths: Numbers = np.concatenate([np.zeros(0, np.int64), *lengths])

    def row(self, row: int) -> Numbers:
        chunk = int(np.searchsorted(self._first, row, side="right")) - 1
        offsets, values = self._chunks[chunk]
        at = row - self._first[chunk]
        found: Numbers = values[offsets[at] : offsets[at + 1]]
        return found

    def chunks(self) -> Iterator[Numbers]:
        return (values for _, values in self._chunks)

    def largest(self) -> int:
        return max((int(values.max()) for values in self.chunks() if len(values)), default=0)


def _lists(column: pa.ChunkedArray[Any]) -> list[Any]:
    return list(column.chunks)


def tokenize(examples: Examples, tokenizer: Any, max_length: int) -> TokenizedExamples:
    """Tokenise examples in memory.

    Args:
        examples: texts and labels.
        tokenizer: of the base version, see ``model.load_tokenizer``.
        max_length: tokens per example; the rest is cut off.
    """
    table = pa.Table.from_batches([_encode(examples, tokenizer, max_length)])
    return TokenizedExamples(table, _padding(tokenizer, table.schema))


def write_tokens(batches: Iterable[Examples], tokenizer: Any, max_length: int, path: Path) -> None:
    """Tokenise a split into a file that ``open_tokens`` maps; one batch is in memory at a time.

    Args:
        batches: the examples of the split, in order; at least one.
        tokenizer: of the base version, see ``model.load_tokenizer``.
        max_length: tokens per example; the rest is cut off.
        path: file to write.
    """
    encoded = (_encode(examples, tokenizer, max_length) for examples in batches)
    first = next(encoded)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, first.schema) as writer:
        writer.write_batch(first)
        for batch in encoded:
            writer.write_batch(batch)


def open_tokens(path: Path, tokenizer: Any) -> TokenizedExamples:
    """Map a file that ``write_tokens`` wrote; the same tokenizer says what to pad with."""
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    return TokenizedExamples(table, _padding(tokenizer, table.schema))


def _encode(examples: Examples, tokenizer: Any, max_length: int) -> pa.RecordBatch:
    encoded = tokenizer(
        examples.texts,
        _set_apart(examples.pairs, tokenizer),
        truncation=True,
        max_length=max_length,
        padding=False,
        return_attention_mask=False,
    )
    nothing = {_IDS: [_meaningless_token(tokenizer)], _TYPES: [0]}
    columns = {
        name: pa.array([row or nothing[name] for row in encoded[name]], pa.list_(pa.int32()))
        for name in (_IDS, _TYPES)
        if name in encoded
    }
    return pa.RecordBatch.from_pydict(columns | {_LABEL: pa.array(examples.labels)})


def _set_apart(pairs: list[str] | None, tokenizer: Any) -> list[str] | None:
    """Begin second texts with a new line if the tokenizer puts nothing between first and second.

    Those of some decoders do not, and the two would run into each other.
    """
    has_mark = tokenizer.num_special_tokens_to_add(pair=True) > (
        tokenizer.num_special_tokens_to_add(pair=False)
    )
    return pairs if pairs is None or has_mark else [f"\n{pair}" for pair in pairs]


def _meaningless_token(tokenizer: Any) -> int:
    """What stands for a text without any token, since no model takes an empty sequence.

    Only tokenizers that add no tokens of their own, as those of some decoders, leave one.
    """
    marks = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    return next(int(token) for token in marks if token is not None)


def _padding(tokenizer: Any, schema: pa.Schema) -> dict[str, int]:
    padding = {_IDS: tokenizer.pad_token_id, _TYPES: tokenizer.pad_token_type_id}
    return {name: int(value) for name, value in padding.items() if name in schema.names}
