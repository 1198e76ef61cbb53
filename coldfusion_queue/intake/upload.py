"""Putting a prepared dataset into the store, once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from coldfusion_queue.crash_points import CrashPoint, reach
from coldfusion_queue.errors import DigestMismatchError
from coldfusion_queue.records import DatasetRecord

if TYPE_CHECKING:
    from coldfusion_queue.intake.prepare import PreparedDataset
    from coldfusion_queue.keys import ObjectKeys
    from coldfusion_queue.store import Store

__all__ = ["upload_dataset"]


def upload_dataset(
    store: Store,
    keys: ObjectKeys,
    prepared: PreparedDataset,
    progress: Callable[[int], None] | None = None,
) -> DatasetRecord:
    """Upload a dataset; its record comes last and makes it exist.

    Idempotent: a dataset whose record is there is not uploaded again. Two at once write the same
    bytes under the same keys. One that is broken off leaves data without a record, which the
    next one overwrites.

    Writes: ``<split>.parquet`` of each split, then ``dataset.json``.

    Args:
        store: where to.
        keys: of the repository.
        prepared: its files are read while they are uploaded.
        progress: called with the number of bytes of each piece that was sent.

    Raises:
        DigestMismatchError: a prepared file was changed since.
        InvalidRecordError: what is there under this id is not this dataset's record.
    """
    key = keys.dataset(prepared.dataset_id)
    present = store.find(key)
    if present is None:
        record = _upload_splits(store, keys, prepared, progress)
        reach(CrashPoint.SUBMIT_UPLOADED)
        if store.create(key, record.to_bytes()):
            reach(CrashPoint.SUBMIT_DATASET)
            return record
        present = store.get(key)
    elif progress is not None:
        progress(sum(split.num_bytes for split in prepared.splits.values()))
    return DatasetRecord.from_bytes(present, key)


def _upload_splits(
    store: Store,
    keys: ObjectKeys,
    prepared: PreparedDataset,
    progress: Callable[[int], None] | None,
) -> DatasetRecord:
    files = {}
    for name, split in prepared.splits.items():
        file = store.put_file(keys.dataset_split(prepared.dataset_id, name), split.path, progress)
        if file.digest != split.digest:
            raise DigestMismatchError(str(split.path), file.digest, split.digest)
        files[name] = file
    return prepared.record(files)
