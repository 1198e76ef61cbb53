"""An uploaded dataset's record and files, for the worker that finetunes on it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from coldfusion_queue.disk import disk_errors
from coldfusion_queue.errors import InvalidRecordError, NotFoundError
from coldfusion_queue.intake.splits import SPLITS
from coldfusion_queue.records import DatasetRecord, FileRecord

if TYPE_CHECKING:
    from coldfusion_queue.keys import ObjectKeys
    from coldfusion_queue.store import Store

__all__ = ["download_dataset", "read_dataset_record"]

_DATASET_ID = re.compile(r"[0-9a-f]{32}")
_REMEDY = "submit it again, or check the name of the repository"


def read_dataset_record(store: Store, keys: ObjectKeys, dataset_id: str) -> DatasetRecord:
    """Read what a dataset consists of.

    Args:
        store: where from.
        keys: of the repository.
        dataset_id: as ``PreparedDataset.dataset_id``.

    Raises:
        NotFoundError: there is no such dataset.
        InvalidRecordError: its record is not one, or names what is not its own.
    """
    key = keys.dataset(dataset_id)
    data = store.find(key) if _DATASET_ID.fullmatch(dataset_id) else None
    if data is None:
        raise NotFoundError("dataset", dataset_id, _REMEDY)
    record = DatasetRecord.from_bytes(data, key)
    # Names of splits become paths of this machine.
    if record.dataset_id != dataset_id or "train" not in record.splits:
        raise InvalidRecordError(key, "DatasetRecord", "it is of another dataset, or has no data")
    for name, split in record.splits.items():
        if name not in SPLITS or split.file.key != keys.dataset_split(dataset_id, name):
            raise InvalidRecordError(key, "DatasetRecord", "it names a file that is not its own")
    return record


def download_dataset(store: Store, record: DatasetRecord, directory: Path) -> dict[str, Path]:
    """Read a dataset's files into a local directory.

    Idempotent: a file that is there with the right digest is not read again.

    Args:
        store: where from.
        record: as ``read_dataset_record`` gives it.
        directory: gets ``<split>.parquet`` of each split; made if it is not there.

    Returns:
        The path of each split.

    Raises:
        NotFoundError: an object of the dataset is gone.
        DigestMismatchError: the bytes in the store are not the recorded ones.
        DiskFullError: no room left.
    """
    paths = {}
    with disk_errors(directory, "COLDFUSION_HOME"):
        directory.mkdir(parents=True, exist_ok=True)
        for name, split in record.splits.items():
            paths[name] = directory / f"{name}.parquet"
            if not _is_there(paths[name], split.file):
                store.download(split.file, paths[name])
    return paths


def _is_there(path: Path, file: FileRecord) -> bool:
    try:
        with path.open("rb") as found:
            return hashlib.file_digest(found, "sha256").hexdigest() == file.digest
    except FileNotFoundError:
        return False
