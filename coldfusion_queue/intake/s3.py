"""Datasets that already are in an object store: ``s3://BUCKET/KEY``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from coldfusion_queue.disk import disk_errors
from coldfusion_queue.errors import InvalidDatasetError, NotFoundError
from coldfusion_queue.intake.sources import S3Source
from coldfusion_queue.intake.tables import EXTENSIONS

if TYPE_CHECKING:
    from coldfusion_queue.settings import Settings
    from coldfusion_queue.store import Store

__all__ = ["FetchS3", "fetch_s3_with"]

#: Takes a source and an empty directory; gives the file in it, or the directory for a prefix.
FetchS3 = Callable[[S3Source, Path], Path]

_PART_BYTES = 8 << 20
_CHECK_KEY = "check bucket and key, a prefix ends in '/'"


def fetch_s3_with(settings: Settings) -> FetchS3:
    """Make what ``prepare_dataset`` reads ``s3://`` with; nothing is sent yet.

    It raises ``InvalidDatasetError`` for a key that is not there, ``NotFoundError`` for a bucket
    that is not there and ``DiskFullError``, beside what every use of the store raises.

    Args:
        settings: endpoint and credentials; the bucket is the source's.
    """

    def fetch(source: S3Source, directory: Path) -> Path:
        from coldfusion_queue.store import Store

        store = Store.open(settings.model_copy(update={"s3_bucket": source.bucket}))
        if not store.bucket_exists():
            raise NotFoundError("bucket", source.bucket, "check the name in s3://BUCKET")
        with disk_errors(directory):
            return _fetch(store, source, directory)

    return fetch


def _fetch(store: Store, source: S3Source, directory: Path) -> Path:
    if not source.is_folder:
        path = directory / PurePosixPath(source.key).name
        _download(store, source.key, path, str(source))
        return path
    keys = [item.key for item in store.list(source.key, recursive=False) if _is_data(item.key)]
    if not keys:
        raise InvalidDatasetError(
            str(source), "there is no data file directly below it", _CHECK_KEY
        )
    for key in keys:
        name = PurePosixPath(key).name
        _download(store, key, directory / name, f"{source}{name}")
    return directory


def _is_data(key: str) -> bool:
    return not key.endswith("/") and PurePosixPath(key).suffix.lower() in EXTENSIONS


def _download(store: Store, key: str, path: Path, name: str) -> None:
    if not _is_data(key):
        problem = (
            f"its extension is {path.suffix!r}, expected one of {', '.join(sorted(EXTENSIONS))}"
        )
        raise InvalidDatasetError(name, problem, _CHECK_KEY)
    item = store.stat(key)
    if item is None:
        raise InvalidDatasetError(name, "there is no such object", _CHECK_KEY)
    with path.open("wb") as file:
        for offset in range(0, item.num_bytes, _PART_BYTES):
            length = min(_PART_BYTES, item.num_bytes - offset)
            file.write(store.read_range(item.key, offset, length))
    if store.stat(item.key) != item:
        problem = "it was replaced while it was read"
        raise InvalidDatasetError(name, problem, "submit it again once nobody writes to it")
